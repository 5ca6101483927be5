"""A regular expression over a million tokens, against every code, and the same by a brute-force twin.

    python benchmarks/search.py --json [--quick]     # {"cold_s": ..., "warm_s": ..., "equal": true, "memory_mb": ...}

The corpus is Zipf-distributed words, numbers and pieces of characters; 32 of 4,608 codes are active on a token, half of them by the
token, half by chance. The index is written by the writer that `interp describe` uses, in a process of its own, so that memory is that of
the search alone. `cold_s` opens index and text and searches once, `warm_s` is the slowest of the patterns on what is open, `everything_s`
a pattern that marks nearly every token. The twin reads one sequence, one match and one code at a time, with the regular expressions of
the standard library.
"""

import argparse
import json
import multiprocessing
import re
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from interp.features.codes import Codes, Entries, Writer
from interp.reading.index import Index
from interp.reading.search import Found, compared, marks
from interp.reading.text import Text

CONTEXT, CODES, K, BLOCK = 128, 4608, 32, 256
COMMON = tuple(b"the of and to a in is that for it as was with be by on not he his but at are this have from or an never which".split())
PATTERNS = (r"(?:not|never)( \w+)", r"(\d+)", r" (the)\b", r"( \w+ing)\b", "caf(é)")
EVERYTHING = r"(\w+)"


def vocabulary(rng: np.random.Generator) -> list[bytes]:
    """Words in order of their frequency, among them numbers and halves of characters."""
    stems = ["".join(rng.choice(list("bdfglmnprst")) + rng.choice(list("aeiou")) for _ in range(1 + i % 3)) for i in range(3000)]
    words = [*COMMON, *((stem + ("ing" if i % 9 == 0 else "")).encode() for i, stem in enumerate(stems))]
    pieces = [*(str(i).encode() for i in range(10)), b" caf", b"\xc3", b"\xa9", "é".encode(), b"\n"]
    return [*(b" " + word for word in words), *pieces]


def corpus(n_seq: int) -> tuple[np.ndarray, list[bytes]]:
    rng = np.random.default_rng(0)
    raw = vocabulary(rng)
    weights = 1 / (np.arange(len(raw)) + 2.7)  # Zipf's law as Mandelbrot has it
    tokens = rng.choice(len(raw), (n_seq, CONTEXT), p=weights / weights.sum())
    at, cafe = rng.integers(0, CONTEXT - 3, n_seq), raw.index(b" caf")
    for row, start in zip(tokens[::7], at, strict=False):
        row[start : start + 3] = cafe, cafe + 1, cafe + 2
    return tokens.astype(np.int32), raw


def active(tokens: np.ndarray, seed: int) -> np.ndarray:
    """K codes of each token, as slots; one that comes twice is one."""
    by_token = (tokens[:, None].astype(np.int64) * 7919 + np.arange(K // 2) * 104_729) % CODES
    by_chance = np.random.default_rng(seed).integers(0, CODES, (len(tokens), K - K // 2))
    slots = np.sort(np.concatenate([by_token, by_chance], 1), 1)
    slots[:, 1:][slots[:, 1:] == slots[:, :-1]] = -1
    return slots


def build(folder: Path, n_seq: int) -> None:
    """Write the index."""
    tokens, _ = corpus(n_seq)
    writer = Writer(folder, CODES)
    for start in range(0, n_seq, BLOCK):
        stop = min(start + BLOCK, n_seq)
        slots = active(tokens[start:stop].ravel(), start)
        entries = Entries.of((slots >= 0).astype(np.float32), slots, np.arange(start * CONTEXT, stop * CONTEXT))
        writer.update(entries, stop * CONTEXT)
    writer.flush(n_seq * CONTEXT)


def twin(tokens: np.ndarray, raw: list[bytes], keep: np.ndarray, patterns: tuple[str, ...]) -> list[tuple[Counter, Counter, int]]:
    """For each pattern: tokens on which each code is active and marked, tokens on which it is active, tokens that are marked."""
    wanted = [re.compile(pattern) for pattern in patterns]
    hits, uses, marked = [Counter() for _ in wanted], Counter(), [0] * len(wanted)
    for start in range(0, len(tokens), BLOCK):
        block = tokens[start : start + BLOCK]
        slots = active(block.ravel(), start).reshape(*block.shape, K)
        for row, codes, kept in zip(block.tolist(), slots.tolist(), keep[start : start + BLOCK].tolist(), strict=True):
            text = b"".join(raw[t] for t in row).decode("utf-8", "surrogateescape")
            owner = [pos for pos, t in enumerate(row) for _ in raw[t]]
            for position, here in enumerate(codes):
                if kept[position]:
                    uses.update(here)
            for i, pattern in enumerate(wanted):
                found: set[int] = set()
                for match in pattern.finditer(text):
                    low, high = (len(text[:place].encode("utf-8", "surrogateescape")) for place in match.span(1))
                    found.update(owner[low:high])
                for position in found:
                    if kept[position]:
                        hits[i].update(codes[position])
                        marked[i] += 1
    return [(hit, uses, count) for hit, count in zip(hits, marked, strict=True)]


def same(found: Found, expected: tuple[Counter, Counter, int]) -> bool:
    hits, uses, marked = expected
    ours = (found.hits.sum(0), found.active.sum(0), int(found.marked.sum()))
    table = [np.array([counts[code] for code in range(CODES)]) for counts in (hits, uses)]
    return np.array_equal(ours[0], table[0]) and np.array_equal(ours[1], table[1]) and ours[2] == marked


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function, *arguments):
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens")
    args = parser.parse_args()
    n_seq = 782 if args.quick else 7813
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "codes"
        process = multiprocessing.get_context("spawn").Process(target=build, args=(folder, n_seq))
        process.start()
        tokens, raw = corpus(n_seq)
        process.join()
        keep, before = np.ones(tokens.shape, bool), peak_mb()

        def opened(pattern: str) -> tuple[Text, Index, Found]:
            text, index = Text.of(tokens, raw), Index(Codes((folder,)), keep)
            found = compared(index, marks(text, pattern))
            found.best(20)
            return text, index, found

        (text, index, _), cold = timed(opened, PATTERNS[0])

        def search(pattern: str) -> Found:
            found = compared(index, marks(text, pattern))
            found.best(20)
            _ = found.held_out
            return found

        results = {pattern: timed(search, pattern) for pattern in (*PATTERNS, EVERYTHING)}
        memory = peak_mb() - before
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        expected, slow = timed(twin, tokens, raw, keep, tuple(results))
    equal = all(same(found, twin_of) for (found, _), twin_of in zip(results.values(), expected, strict=True))
    answer = {
        "tokens": int(keep.sum()), "codes": CODES, "entries": int(index.active.sum()), "cold_s": round(cold, 3),
        "warm_s": round(max(results[pattern][1] for pattern in PATTERNS), 3), "everything_s": round(results[EVERYTHING][1], 3),
        "patterns": {pattern: {"s": round(s, 3), "marked": int(found.marked.sum())} for pattern, (found, s) in results.items()},
        "twin_s": round(slow, 1), "equal": equal, "memory_mb": round(memory), "disk_mb": round(size),
    }  # fmt: skip
    print(json.dumps(answer) if args.json else "\n".join(f"{key:13} {value}" for key, value in answer.items()))
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()
