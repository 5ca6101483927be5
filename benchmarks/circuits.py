"""Circuit methods where the circuit is known, and what edge attribution patching costs.

    python benchmarks/circuits.py --json     # {"median_auroc": {...}, "eap_over_plain": ..., "acdc_same_edges": true, ...}

Four parts. Every method over compiled programs and gates, whose circuits are certified edge by edge. ACDC in batches against ACDC edge by
edge. `Eap` on SmolLM2 over two plain forwards and one backward. A split-input implementation of the same scores over ours.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import tyro
from circuits_speed import over_plain, over_split_qkv
from circuits_suite import LENGTH, Answer, Known, answer, questions, suite

from interp.circuits.graph import Scores
from interp.circuits.methods import Acdc
from interp.tasks.compiled import CompiledTask

THRESHOLDS = (0.001, 0.03, 0.3)


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    quick: bool = False
    """Small models, few steps and rounds, and no language model."""
    rounds: int = 7
    """Rounds of each timing."""
    threads: int = 1
    """Threads of torch; with one a neighbour disturbs a ratio least."""
    json: bool = False
    """Print one JSON object."""


def acdc(known: Known) -> dict[str, Any]:
    """Speculative against sequential ACDC over some thresholds: batched forwards, and whether every threshold keeps the same edges.

    swept: one call, in which a threshold guesses from the one before it, as users run it. alone: each threshold by itself.
    """
    task = CompiledTask(known.compiled, LENGTH)

    def scores(thresholds: tuple[float, ...], speculate: bool = True) -> Scores:
        return Acdc(thresholds, speculate=speculate)(known.model, task, known.pairs, known.graph, known.values)

    slow, fast, swept = [scores((tau,), False) for tau in THRESHOLDS], [scores((tau,)) for tau in THRESHOLDS], scores(THRESHOLDS)
    largest = torch.stack([one.mean for one in slow]).amin(0)
    return {
        "circuit": known.name,
        "same": all(torch.equal(f.mean, s.mean) for f, s in zip(fast, slow, strict=True)) and torch.equal(swept.mean, largest),
        "kept": [int((one.mean != 0).sum()) for one in slow],
        "swept": int(swept.notes["passes"]),
        "alone": int(sum(one.notes["passes"] for one in fast)),
        "sequential": int(sum(one.notes["passes"] for one in slow)),
    }


def medians(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Of each method over the circuits that it can see, over all, and which it cannot see and why."""
    found = {}
    for method in dict.fromkeys(a.method for a in answers):
        own = [a for a in answers if a.method == method]
        seen = [a for a in own if not a.why]
        found[method] = {
            "seen": _median(a.auroc for a in seen),
            "worst_seen": min((a.auroc for a in seen if a.auroc is not None), default=None),
            "all": _median(a.auroc for a in own),
            "helping": _median(a.helping for a in seen),
            "pessimistic": _median(a.pessimistic for a in seen),
            "ap": _median(a.ap for a in seen),
            "circuits": len(seen),
            "of": len(own),
            "seconds": round(sum(a.seconds for a in own), 2),
            "left_out": {a.circuit: a.why for a in own if a.why},
        }
    return found


def _share(walks: Sequence[dict[str, Any]], which: str) -> float:
    return round(sum(walk[which] for walk in walks) / sum(walk["sequential"] for walk in walks), 3)


def _median(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return round(statistics.median(numbers), 4) if numbers else None


def main(bench: Bench) -> dict[str, Any]:
    torch.set_num_threads(bench.threads)
    started = time.monotonic()
    asked = questions(bench.quick)
    answers: list[Answer] = []
    walks: list[dict[str, Any]] = []
    for known in suite(bench.quick):
        for name, question in asked.items():
            answers.append(answer(name, question, known))
            print(_line(answers[-1]), file=sys.stderr, flush=True)
        walks.append(acdc(known))
    found = medians(answers)
    split = over_split_qkv(3 if bench.quick else bench.rounds, smollm2=not bench.quick)
    plain = [] if bench.quick else over_plain(bench.rounds)
    return {
        "median_auroc": {method: row["seen"] for method, row in found.items()},
        "median_auroc_all": {method: row["all"] for method, row in found.items()},
        "acdc_same_edges": all(walk["same"] for walk in walks),
        "acdc_pass_share": _share(walks, "swept"),
        "acdc_pass_share_alone": _share(walks, "alone"),
        "eap_over_plain": max((row["eap_over_plain"] for row in plain), default=None),
        "eap_peak_gb": max((row["peak_gb"] for row in plain), default=None),
        # Of the largest model: SmolLM2, where it was asked for.
        "eap_over_split_qkv": split[-1]["eap_over_split_qkv"],
        "methods": found,
        "answers": [asdict(a) for a in answers],
        "acdc": walks,
        "plain": plain,
        "split_qkv": split,
        "seconds": round(time.monotonic() - started, 1),
    }


# ---- the table


def _line(a: Answer) -> str:
    areas = " ".join(f"{_number(value):>6}" for value in (a.auroc, a.helping, a.pessimistic, a.ap))
    passes = "" if a.passes is None else f"{a.passes:.0f}"
    return f"{a.method:<20} {a.circuit:<21} {a.unit:<4} {a.true:>3}/{a.of:<3} {areas} {passes:>6} {a.seconds:>7.2f}  {a.why}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# What the words of the last column mean.
WORDS = (
    "left out of the median, of a method:",
    "  no edges, all nodes    nothing is true, or everything is",
    "  flat                   true edges (nodes) along which no logit has a slope at the clean prompts, by the literal twin",
    "  flat path              the same all the way to zero embeddings: where all that a neuron reads shrinks alike it never switches",
    "  pattern, off           true edges behind a held attention pattern or a neuron that is off",
    "  redundant              several minimal sets (OR, backup): no single ablation shows them",
    "  one kind               clean and corrupt prompts are drawn alike, and codes tell kinds of prompts apart",
)


def show(result: dict[str, Any]) -> None:
    """Each method on each circuit, medians with what was left out, and the ratios."""
    header = (
        f"{'method':<20} {'circuit':<21} {'unit':<4} {'true':>7} {'AUROC':>6} {'helps':>6} {'ties-':>6} {'AP':>6} {'passes':>6} seconds"
    )
    print(header)
    for row in sorted(result["answers"], key=lambda row: row["method"]):
        print(_line(Answer(**row)))
    print(f"\n{'median by method':<20} {'AUROC':>6} {'worst':>6} {'helps':>6} {'ties-':>6} {'AP':>6} {'all':>6} circuits seconds  left out")
    for method, row in result["methods"].items():
        areas = " ".join(f"{_number(row[key]):>6}" for key in ("seen", "worst_seen", "helping", "pessimistic", "ap", "all"))
        why: dict[str, int] = {}
        for reason in row["left_out"].values():
            word = reason.split(" (")[0]
            why[word] = why.get(word, 0) + 1
        reasons = ", ".join(f"{word} {n}" for word, n in why.items())
        print(f"{method:<20} {areas} {row['circuits']:>5}/{row['of']:<2} {row['seconds']:>7.1f}  {reasons}")
    print("\n".join(WORDS))
    print(
        f"\nACDC: same edges {result['acdc_same_edges']}, passes {result['acdc_pass_share']:.3f} of sequential over a sweep, "
        f"{result['acdc_pass_share_alone']:.3f} with each threshold by itself"
    )
    for row in result["split_qkv"] + result["plain"]:
        print(
            "  ".join(f"{key} {value:.2g}" if isinstance(value, float) and value < 1e-3 else f"{key} {value}" for key, value in row.items())
        )


if __name__ == "__main__":
    bench = tyro.cli(Bench, description=__doc__)
    figures = main(bench)
    if bench.json:
        print(json.dumps(figures))
    else:
        show(figures)
