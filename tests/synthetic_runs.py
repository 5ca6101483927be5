"""A small, complete and self-consistent family of run folders, written with numpy and pyarrow only.

Every statistic is computed from one matrix of activations, so that the pages can be checked against it: a cache of sentences, four
dictionaries (one described, all evaluated), one training in progress, head scores with patterns, and a circuit of
nodes and one of edges.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from synthetic_base import (
    CONTEXT,
    D_IN,
    DEAD,
    HEADS,
    HOSTILE,
    LAYERS,
    MODEL,
    SENTENCES,
    SEQUENCES,
    WIDTH,
    make_run,
    vocabulary,
    write_arrow,
    write_vocabulary,
)
from synthetic_circuits import write_circuit, write_compare, write_edge_circuit, write_latents, write_steer

from interp import runs
from interp.features.codes import INDEX, KEPT, Entries, Writer
from interp.runs import Draft, Run


@dataclass(frozen=True)
class Family:
    """Names of the runs, and the activations that all tables were computed from."""

    root: Path
    cache: Run
    trains: tuple[Run, ...]
    evaluates: tuple[Run, ...]
    describe: Run
    heads: Run
    circuit: Run
    edges: Run
    """A circuit run that scores edges."""
    latents: Run
    compare: Run
    steer: Run
    acts: np.ndarray
    tokens: np.ndarray


def token_matrix(rng: np.random.Generator, vocab: list[bytes], hostile: bool) -> np.ndarray:
    ids = {raw: i for i, raw in enumerate(vocab)}
    rows = []
    for _ in range(SEQUENCES):
        row = [0]
        while len(row) < CONTEXT:
            row += [ids[b" " + word.encode()] for word in SENTENCES[rng.integers(len(SENTENCES))].split()]
            row += [int(rng.integers(2, 2 + len(HOSTILE)))] if hostile else [1]
        rows.append(row[:CONTEXT])
    return np.array(rows, np.int32)


def write_cache(root: Path, vocab: list[bytes], tokens: np.ndarray) -> Run:
    config = {
        "kind": "Cache", "model": MODEL, "sites": ["10.resid_post"], "text": "docs", "tokens": int(tokens.size), "context": CONTEXT,
        "dtype": "float16", "model_revision": "0.1.2", "text_revision": "docs-3f21",
    }  # fmt: skip

    def fill(work: Draft) -> None:
        doc = np.repeat(np.arange(SEQUENCES, dtype=np.int32)[:, None], CONTEXT, 1)
        save_file({"tokens": tokens, "doc_of": doc}, work.path / "tokens.safetensors")
        write_vocabulary(work, vocab)
        docs = pa.array(range(SEQUENCES), pa.int32())
        table = {"doc": docs, "seq": docs, "pos": pa.array([0] * SEQUENCES, pa.uint16()), "source": ["torch"] * SEQUENCES}
        pq.write_table(pa.table(table), work.path / "documents.parquet")
        work.write_json("summary.json", {"tokens": int(tokens.size), "sequences": SEQUENCES, "shards": 1})

    return make_run(root, "cache", config, {}, f"interp cache --model {MODEL} --sites 10.resid_post --tokens {tokens.size}", fill)


def curve(rng: np.random.Generator, k: int, steps: int) -> dict[str, np.ndarray]:
    """Training metrics of a plausible shape: exponential decay towards a floor that falls with k, and bends at k = 16."""
    t = np.arange(steps) / steps
    floor = floor_of(k)
    fvu = floor + (1 - floor) * np.exp(-9 * t) + rng.normal(0, 0.006, steps)
    return {
        "loss": fvu + 0.02,
        "fvu": fvu,
        "l0": np.full(steps, float(k)) + rng.normal(0, 0.2, steps),
        "aux_loss": 0.2 * np.exp(-6 * t),
        "dead_share": 0.3 * np.exp(-4 * t) + 0.02,
        "dense_share": np.full(steps, 0.01),
        "lr": np.minimum(1, (1 - t) * 5) * 3e-4,
        "grad_norm": 0.4 + 0.8 * np.exp(-5 * t),
    }


def floor_of(k: int) -> float:
    """FVU at the end."""
    return 0.45 * min(k, 16) ** -0.5 * (max(k, 16) / 16) ** -0.1


def train_config(k: int | None = 32, kind: str = "TopK", /, **fields: Any) -> dict[str, Any]:
    """What a train run says of itself; `fields` replace those of an autoencoder on 10.resid_post."""
    aux = {"kind": "Aux", "aux_coefficient": 1 / 32, "k_aux": None}
    own = {"TopK": {"multi": 0.0}, "Codebook": {"books": 1, "metric": "cosine", "combine": "mean"}}.get(kind, {})
    usual = {
        "kind": "Train", "architecture": {"kind": kind, **({} if k is None else {"k": k}), **own, "aux": aux}, "site": "10.resid_post",
        "skip": False, "width": WIDTH, "epochs": 3.0, "batch_size": 1024, "lr": None, "precision": "float32", "log_every": 10, "seed": 0,
        "shuffle": 0,
    }  # fmt: skip
    config = {**usual, **fields}
    return {"write": config["site"], **config}


def k_of(config: dict[str, Any]) -> int:
    return config["architecture"].get("k", 32)


def write_train(root: Path, rng: np.random.Generator, cache: Run, config: dict[str, Any], steps: int = 400) -> Run:
    metrics = curve(rng, k_of(config), steps)

    def fill(work: Draft) -> None:
        name = pa.array([n for n in metrics for _ in range(steps)]).dictionary_encode()
        step = np.tile(np.arange(steps), len(metrics))
        table = {"step": step, "tokens": step * 1024, "name": name, "value": np.concatenate(list(metrics.values())).astype(np.float32)}
        pq.write_table(pa.table(table), work.path / "metrics.parquet")
        work.write_json("dictionary.json", {"d_in": D_IN, "d_dict": WIDTH})
        save_file({"decoder": rng.normal(size=(WIDTH, D_IN)).astype(np.float32)}, work.path / "weights.safetensors")
        work.write_json("summary.json", {name: float(values[-1]) for name, values in metrics.items()})

    command = f"interp train {cache.id} --sites {config['site']} --k {k_of(config)}"
    return make_run(root, "train", config, {"store": cache.id}, command, fill)


def write_running(root: Path, rng: np.random.Generator, cache: Run, k: int = 128) -> Path:
    """A training in progress, its last progress line cut."""
    metrics = curve(rng, k, 400)
    with runs.draft(root, "train", train_config(k), {"store": cache.id}) as work:
        rows = [json.dumps({"steps": 400})]
        for step in range(0, 150, 5):
            figures = {name: float(values[step]) for name, values in metrics.items()}
            rows.append(json.dumps({"step": step, "tokens": step * 1024, **figures, "tokens_per_s": 21000.0}))
        (work.path / "progress.jsonl").write_text("\n".join(rows) + '\n{"step": 150, "tok')
        return work.path


def write_evaluate(root: Path, train: Run) -> Run:
    k = k_of(train.config["config"])
    fvu = floor_of(k)
    values = {
        "fvu": fvu, "l0": float(k), "dead_share": 0.06, "dense_share": 0.01, "ce_clean": 3.21, "ce_recon": 3.21 + fvu, "ce_zero": 10.4,
        "ce_mean": 8.1, "ce_recovered_zero": 1 - fvu / 7.19, "ce_recovered_mean": 1 - fvu / 4.89, "kl": fvu * 0.9,
    }  # fmt: skip

    def fill(work: Draft) -> None:
        value = np.array(list(values.values()), np.float32)
        table = {
            "name": list(values), "value": value, "low": value * np.float32(0.98), "high": value * np.float32(1.02),
            "n": pa.array([4096] * len(values), pa.int64()), "reference": ["zero ablation" if n.endswith("zero") else "" for n in values],
        }  # fmt: skip
        pq.write_table(pa.table(table), work.path / "metrics.parquet")
        work.write_json("summary.json", values)

    return make_run(root, "evaluate", {"kind": "Evaluate", "tokens": 4096}, {"dictionary": train.id}, f"interp eval {train.id}", fill)


def activations(rng: np.random.Generator, tokens: np.ndarray, vocab: list[bytes]) -> np.ndarray:
    """Latent i fires on one to three token types of its own; the last `DEAD` never, the first two nearly always."""
    flat = tokens.ravel()
    acts = np.zeros((WIDTH, flat.size), np.float32)
    for latent in range(WIDTH - DEAD):
        types = rng.choice(np.arange(2, len(vocab)), 1 + latent % 3, replace=False)
        on = np.isin(flat, types) & (rng.random(flat.size) < 0.8)
        acts[latent, on] = (1 + latent % 7) * rng.gamma(4, 0.35, int(on.sum()))
    acts[:2] += (rng.random((2, flat.size)) < 0.5) * rng.gamma(2, 0.2, (2, flat.size)).astype(np.float32)
    return acts


def latent_table(
    rng: np.random.Generator, acts: np.ndarray, tokens: np.ndarray, cosines: np.ndarray, lacks: frozenset[str] = frozenset()
) -> pa.Table:
    """`latents.arrow`; the columns `lacks` are null."""
    flat, rows = tokens.ravel(), []
    for latent, row in enumerate(acts):
        on = row[row > 0]
        counts = np.bincount(flat[row > 0], minlength=1)
        share = counts / max(1, counts.sum())
        p = share[share > 0]
        q = np.percentile(on, [50, 90, 99]) if on.size else [0.0] * 3
        nearest = int(np.argsort(cosines[latent])[-2])
        rows.append(
            {
                "latent": latent,
                "n_active": on.size,
                "density": on.size / flat.size,
                "max_act": on.max(initial=0),
                "mean_act": on.mean() if on.size else 0.0,
                "p50": q[0],
                "p90": q[1],
                "p99": q[2],
                "dec_norm": 1.0,
                "enc_dec_cos": rng.uniform(0.4, 0.9),
                "logit_kurtosis": rng.gamma(2, 2),
                "logit_skew": rng.normal(),
                "nearest": nearest,
                "nearest_cos": cosines[latent, nearest],
                "top_token": int(counts.argmax()),
                "top_token_share": float(share.max()),
                "token_entropy": float(-(p * np.log(p)).sum()),
                "dead": on.size == 0,
            }
        )
    ints = {"latent": pa.int32(), "n_active": pa.int64(), "nearest": pa.int32(), "top_token": pa.int32(), "dead": pa.bool_()}
    columns = {name: pa.array([r[name] for r in rows]).cast(ints.get(name, pa.float32()), safe=False) for name in rows[0]}
    return pa.table({name: pa.nulls(len(rows), pa.float32()) if name in lacks else column for name, column in columns.items()})


def picks(rng: np.random.Generator, row: np.ndarray, flat: np.ndarray) -> list[tuple[int, int, int]]:
    """(bucket, rank, flat position) of the examples of one latent."""
    on = np.flatnonzero(row > 0)
    if not on.size:
        return []
    edges = np.linspace(0, row.max(), 6)
    chosen = [(0, on[np.argsort(-row[on], kind="stable")][:12])]
    chosen += [(b + 1, on[(row[on] > edges[b]) & (row[on] <= edges[b + 1])][:4]) for b in range(5)]
    chosen += [(6, rng.permutation(on)[:5]), (7, np.flatnonzero((row == 0) & np.isin(flat, flat[on]))[:4])]
    return [(bucket, rank, int(p)) for bucket, positions in chosen for rank, p in enumerate(positions)]


def example_table(rng: np.random.Generator, acts: np.ndarray, tokens: np.ndarray, latents: range) -> pa.Table:
    flat, grid = tokens.ravel(), acts.reshape(len(acts), *tokens.shape)
    rows = [(latent, *pick) for latent in latents for pick in picks(rng, acts[latent], flat)]
    at = np.array([(latent, bucket, rank, *divmod(p, CONTEXT)) for latent, bucket, rank, p in rows], np.int64).reshape(-1, 5)
    start = np.clip(at[:, 4] - 20, 0, CONTEXT - 32)
    window = np.stack([grid[r[0], r[3], s : s + 32] for r, s in zip(at, start, strict=True)]) if len(at) else np.zeros((0, 32))
    fold = [hash(tokens[r[3], s : s + 32].tobytes()) & (2**64 - 1) for r, s in zip(at, start, strict=True)]
    return pa.table(
        {
            "latent": at[:, 0].astype(np.int32),
            "bucket": at[:, 1].astype(np.uint8),
            "rank": at[:, 2].astype(np.uint16),
            "seq": at[:, 3].astype(np.int32),
            "pos": at[:, 4].astype(np.uint16),
            "act": grid[at[:, 0], at[:, 3], at[:, 4]].astype(np.float16),
            "start": start.astype(np.uint16),
            "acts": pa.FixedSizeListArray.from_arrays(pa.array(window.astype(np.float16).ravel(), pa.float16()), 32),
            "fold": pa.array(fold, pa.uint64()),
        }
    )


# What a describe run lacks: a transcoder has no cosine, a site that does not write to the residual stream no logits.
NO_COSINE = frozenset({"enc_dec_cos"})
NO_LOGITS = frozenset({"logit_kurtosis", "logit_skew"})


def write_describe(
    root: Path,
    rng: np.random.Generator,
    train: Run,
    acts: np.ndarray,
    tokens: np.ndarray,
    n_vocab: int,
    lacks: frozenset[str] = frozenset(),
) -> Run:
    decoder = rng.normal(size=(WIDTH, D_IN))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    cosines, logits = decoder @ decoder.T, decoder @ rng.normal(size=(D_IN, n_vocab))
    order, near = np.argsort(-logits, axis=1), np.argsort(-cosines, axis=1)[:, 1:21]
    span = np.stack([logits.min(1), logits.max(1)], 1).astype(np.float32)

    def fill(work: Draft) -> None:
        write_arrow(work.path / "latents.arrow", latent_table(rng, acts, tokens, cosines, lacks))
        groups = [example_table(rng, acts, tokens, range(g, min(g + 64, WIDTH))) for g in range(0, WIDTH, 64)]
        with pq.ParquetWriter(work.path / "examples.parquet", groups[0].schema, compression="zstd") as writer:
            for group in groups:
                writer.write_table(group, row_group_size=max(1, len(group)))
        acts_hist = np.stack([np.histogram(row[row > 0] / max(row.max(), 1e-9), 50, (0, 1))[0] for row in acts]).astype(np.uint32)
        logit_hist = np.stack([np.histogram(row, 50, (lo, hi))[0] for row, (lo, hi) in zip(logits, span, strict=True)]).astype(np.uint16)
        logit_parts = {} if lacks >= NO_LOGITS else {"logits": logit_hist, "logit_range": span}
        save_file({"acts": acts_hist, **logit_parts}, work.path / "histograms.safetensors")
        top, bottom = order[:, :20], order[:, :-21:-1]
        tables = {name: np.take_along_axis(logits, ids, 1).astype(np.float16) for name, ids in (("top", top), ("bottom", bottom))}
        ids = {"top_ids": np.ascontiguousarray(top, np.int32), "bottom_ids": np.ascontiguousarray(bottom, np.int32)}
        if logit_parts:
            save_file({**ids, **tables}, work.path / "logits.safetensors")
        cos = np.take_along_axis(cosines, near, 1).astype(np.float16)
        save_file({"ids": np.ascontiguousarray(near, np.int32), "cos": cos}, work.path / "neighbours.safetensors")
        write_index(work.path / INDEX, acts, tokens)
        alive = (acts > 0).any(1)
        work.write_json(
            "summary.json",
            {"tokens": int(tokens.size), "latents": WIDTH, "dead_share": float(1 - alive.mean()), "l0": float((acts > 0).sum(0).mean())},
        )

    return make_run(
        root,
        "describe",
        {"kind": "Describe", "tokens": int(tokens.size), "seed": 0},
        {"dictionary": train.id},
        f"interp describe {train.id}",
        fill,
    )


def write_index(folder: Path, acts: np.ndarray, tokens: np.ndarray) -> None:
    """The codes of all tokens, as `interp describe` keeps them."""
    position, latent = np.nonzero(acts.T > 0)
    writer = Writer(folder, len(acts))
    writer.update(Entries(acts[latent, position], latent, position), tokens.size)
    writer.flush(tokens.size)
    save_file({"keep": np.ones(tokens.shape, bool)}, folder / KEPT)


def write_heads(root: Path, rng: np.random.Generator, vocab: list[bytes], tokens: np.ndarray, length: int = 18) -> Run:
    metrics = ("previous_token", "duplicate_token", "induction", "bos", "entropy", "copying")
    grid = [(layer, head, metric) for layer in range(LAYERS) for head in range(HEADS) for metric in metrics]
    value = rng.beta(0.5, 4, len(grid)).astype(np.float32)
    value[grid.index((3, 1, "previous_token"))] = 0.93
    value[grid.index((5, 4, "induction"))] = 0.88
    logits = rng.normal(size=(2, LAYERS, HEADS, length, length)) - 0.3 * np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    logits[:, 3, 1] = np.where(np.subtract.outer(np.arange(length), np.arange(length)) == 1, 4.0, -2.0)
    logits = np.where(np.tri(length, dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    patterns = (weights / weights.sum(-1, keepdims=True)).astype(np.float16)

    def fill(work: Draft) -> None:
        columns: dict[str, Any] = {name: [row[i] for row in grid] for i, name in enumerate(("layer", "head", "metric"))}
        table = {
            "layer": pa.array(columns["layer"], pa.int16()),
            "head": pa.array(columns["head"], pa.int16()),
            "metric": columns["metric"],
            "value": value,
            "low": np.maximum(0, value - np.float32(0.03)),
            "high": value + np.float32(0.03),
            "n": pa.array([128] * len(grid), pa.int32()),
            "baseline": np.full(len(grid), 0.02, np.float32),
        }
        pq.write_table(pa.table(table), work.path / "scores.parquet")
        shown = np.ascontiguousarray(tokens[:2, :length])
        save_file(
            {"patterns": patterns, "tokens": shown, "lengths": np.array([length, length - 2], np.int32)}, work.path / "patterns.safetensors"
        )
        pq.write_table(
            pa.table({"example": pa.array([0, 1], pa.int32()), "title": ["Indirect object", "Repeated tokens"]}),
            work.path / "examples.parquet",
        )
        write_vocabulary(work, vocab)
        work.write_json(
            "summary.json", {"heads": LAYERS * HEADS, "top_induction": "5.4 0.88, 6.2 0.62", "top_previous_token": "3.1 0.93, 0.0 0.50"}
        )

    return make_run(root, "heads", {"kind": "Heads", "model": MODEL, "prompts": 128, "seed": 0}, {}, f"interp heads --model {MODEL}", fill)


def write_family(root: Path, hostile: bool = False, seed: int = 0) -> Family:
    """Write the whole family under `root`; with `hostile`, its corpus and vocabulary hold markup, control characters and broken UTF-8."""
    rng = np.random.default_rng(seed)
    vocab = vocabulary(hostile)
    tokens = token_matrix(rng, vocab, hostile)
    acts = activations(rng, tokens, vocab)
    cache = write_cache(root, vocab, tokens)
    sizes = (8, 16, 32, 64)
    trains = tuple(write_train(root, rng, cache, train_config(k)) for k in sizes)
    evaluates = tuple(write_evaluate(root, train) for train in trains)
    describe = write_describe(root, rng, trains[2], acts, tokens, len(vocab))
    heads, circuit = write_heads(root, rng, vocab, tokens), write_circuit(root, rng, vocab)
    edges = write_edge_circuit(root, rng, vocab)
    write_running(root, rng, cache)
    steer, latents = write_steer(root, rng, vocab, trains[2]), write_latents(root, rng, vocab, trains[2])
    compare = write_compare(root, rng, circuit)
    return Family(root, cache, trains, evaluates, describe, heads, circuit, edges, latents, compare, steer, acts, tokens)


if __name__ == "__main__":
    import sys

    print(write_family(Path(sys.argv[1]), hostile="--hostile" in sys.argv))
