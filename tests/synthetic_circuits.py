"""Synthetic runs of tasks: circuits of nodes, of edges and of latents, a comparison, and steering."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_base import ENDS, HEADS, LAYERS, MODEL, SENTENCES, make_run, write_vocabulary

from interp.circuits.methods import METHODS
from interp.circuits.names import Shape
from interp.circuits.report import SCHEMAS
from interp.runs import Draft, Run
from interp.stages.compare import SCHEMAS as COMPARISON
from interp.stages.steer import SCHEMAS as STEERING
from interp.tasks import Ioi


def write_circuit(root: Path, rng: np.random.Generator, vocab: list[bytes]) -> Run:
    """A run that scores nodes: attribution, every node ablated exactly, two ablations and two scopes."""
    nodes = _circuit_nodes()
    exact = (rng.standard_t(2, len(nodes)) * 0.12 - 0.05).astype(np.float32)
    guess = (exact * 0.85 + rng.normal(0, 0.05, len(nodes))).astype(np.float32)

    def fill(work: Draft) -> None:
        both = {"score": (guess, 0.03), "exact": (exact, 0.04)}
        write_parquet(work, "nodes.parquet", _node_columns(nodes, both))
        rates, n = {"method": 6.0, "exact": 9.0, "random": 1.0}, {"heads": LAYERS * HEADS, "all": len(nodes)}
        parts = [_curve_rows("node", scope, ablation, n[scope], rates) for ablation, scope in product(("mean", "resample"), n)]
        curves = [row for part in parts for row in part]
        write_parquet(work, "curve.parquet", {name: [row[name] for row in curves] for name in curves[0]})
        _write_prompts(work, vocab)
        figures = {"pearson": 0.93, "spearman": 0.91, "same_sign": 0.96, "pearson_heads": 0.93, "pearson_mlps": 0.7, "audited": len(nodes)}
        figures |= {"top20_resample_method": 0.71, "top20_resample_method_low": 0.6, "top20_resample_method_high": 0.8}
        figures |= {"top20_resample_random": 0.03, "top_heads": ["5.4"], **_areas()}
        work.write_json("summary.json", {**_circuit_head("attribution", "node"), **figures})

    return make_run(root, "circuit", _circuit_config("Attribution"), {}, f"interp circuit ioi --model {MODEL}", fill)


def write_edge_circuit(root: Path, rng: np.random.Generator, vocab: list[bytes]) -> Run:
    """A run that scores edges: every edge of a model with grouped keys and values, of which a sample is ablated exactly."""
    edges = Shape(LAYERS, HEADS, HEADS // 2).edges(grouped=True)
    score = (rng.standard_t(2, len(edges)) * 0.01 - 0.002).astype(np.float32)
    sampled = rng.permutation(len(edges))[:120]
    exact = np.full(len(edges), np.nan, np.float32)
    exact[sampled] = score[sampled] * 0.9 + rng.normal(0, 0.002, len(sampled))
    nodes = _circuit_nodes()

    def fill(work: Draft) -> None:
        sums = {name: 0.0 for name, *_ in nodes}
        short = {(f"m{layer}" if head is None else f"{layer}.{head}"): name for name, _, layer, head in nodes}
        for (source, _), value in zip(edges, score.tolist(), strict=True):
            if source in short:
                sums[short[source]] += value
        write_parquet(work, "nodes.parquet", _node_columns(nodes, {"score": (np.array(list(sums.values()), np.float32), None)}))
        table: dict[str, Any] = {"source": [s for s, _ in edges], "destination": [d for _, d in edges]}
        table |= _scores({"score": (score, 0.004), "exact": (exact, 0.003)}, len(edges))
        table |= {
            "same_sign": rng.uniform(0.5, 1, len(edges)),
            "p_adjusted": rng.uniform(0, 1, len(edges)),
            "in_circuit": [i < 20 for i in range(len(edges))],
        }
        write_parquet(work, "edges.parquet", table)
        curves = _curve_rows("edge", "all", "resample", len(edges), {"method": 9.0, "random": 0.5})
        write_parquet(work, "curve.parquet", {name: [row[name] for row in curves] for name in curves[0]})
        _write_prompts(work, vocab)
        figures = {"pearson": 0.95, "spearman": 0.9, "same_sign": 0.97, "pearson_q": 0.9, "pearson_logits": 1.0, "audited": len(sampled)}
        figures |= {"edges1_resample_method": 0.47, "edges1_resample_method_low": 0.33, "edges1_resample_method_high": 0.62}
        figures |= {"edges1_resample_random": 0.0, "top_edges": ["7.3->logits"], **_areas()}
        work.write_json("summary.json", {**_circuit_head("eap", "edge"), **figures})

    return make_run(root, "circuit", _circuit_config("Eap"), {}, f"interp circuit ioi --model {MODEL} --method eap", fill)


def _circuit_nodes() -> Sequence[tuple[str, str, int, int | None]]:
    layers = range(LAYERS)
    return [(f"{i}.z.{h}", "head", i, h) for i in layers for h in range(HEADS)] + [(f"{i}.mlp_out", "mlp", i, None) for i in layers]


def _circuit_config(method: str) -> dict[str, Any]:
    config = {"kind": "Circuit", "model": MODEL, "task": "ioi", "method": {"kind": method}, "ablation": "resample", "objective": "metric"}
    return config | {"pairs": 4, "reference": 2, "corruption": "s2", "ranking": "helping", "seed": 0}


def _circuit_head(method: str, unit: str) -> dict[str, Any]:
    head = {"method": method, "unit": unit, "ablation": "resample", "objective": "metric", "pairs": 4, "corruption": "s2"}
    name, measure = Ioi.METRIC
    said = {"task": Ioi.ABOUT, "corruption": Ioi.CORRUPTIONS["s2"], "method": METHODS[method].ABOUT}
    head["about"] = said | {"effects": METHODS[method].EFFECTS, "metric": name, "metric_unit": measure}
    return head | {"ranking": "helping", "metric_clean": 4.3, "metric_corrupt": -4.1, "accuracy": 0.98}


def _areas() -> dict[str, float]:
    return {"cpr_method": 0.85, "cpr_method_low": 0.6, "cpr_method_high": 1.1, "cmd_method": 0.15, "cpr_random": 0.2, "cmd_random": 0.8}


def _node_columns(
    nodes: Sequence[tuple[str, str, int, int | None]], scores: Mapping[str, tuple[np.ndarray, float | None]]
) -> dict[str, Any]:
    columns = dict(zip(("node", "kind", "layer", "head"), ([n[i] for n in nodes] for i in range(4)), strict=True))
    return columns | _scores(scores, len(nodes)) | {"in_circuit": [i < 3 for i in range(len(nodes))]}


def _scores(given: Mapping[str, tuple[np.ndarray, float | None]], n: int) -> dict[str, Any]:
    """Columns of scores with their intervals, null where there is none."""
    out: dict[str, Any] = {}
    for name in ("score", "exact"):
        value, half = given.get(name, (np.full(n, np.nan), None))
        half = np.nan if half is None else half
        for end, column in (("", value), ("_low", value - half), ("_high", value + half)):
            out[f"{name}{end}"] = [None if np.isnan(v) else float(v) for v in column]
    return out


def _curve_rows(unit: str, scope: str, ablation: str, n: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """A curve of each series; random orders have three seeds, and a complement at both ends alone."""
    sizes = sorted({0, 1, 2, 4, 8, 16, 32, n} if unit == "node" else {0, *(round(n * s) for s in (0.002, 0.01, 0.05, 0.2, 0.5)), n})
    rows = []
    for series, seed in [(name, seed) for name in rates for seed in range(3 if name == "random" else 1)]:
        for size in sizes:
            share, rate = size / n, rates[series]
            f = (1 - np.exp(-rate * share)) / (1 - np.exp(-rate)) + 0.05 * seed * share * (1 - share)
            rest = 4.3 * (1 - f) if series != "random" or size in (0, n) else None
            where = {"series": series, "seed": seed, "unit": unit, "nodes": scope, "ablation": ablation, "n": size, "kept": size // 2}
            rows.append(
                where | {"share": share, "faithfulness": f, "low": f - 0.04, "high": f + 0.04, "metric": 4.3 * f, "complement": rest}
            )
    return rows


def _write_prompts(work: Draft, vocab: list[bytes]) -> None:
    ids = {raw: i for i, raw in enumerate(vocab)}
    clean = [ids[b" " + w.encode()] for w in SENTENCES[0].split()[:-2]]
    swap = {ids[b" John"]: ids[b" Mary"], ids[b" Mary"]: ids[b" John"]}
    corrupt = [swap.get(t, t) if i > 8 else t for i, t in enumerate(clean)]
    rows = {"pair": range(6), "clean": [clean] * 6, "corrupt": [corrupt] * 6, "answer": [ids[b" Mary"]] * 6, "wrong": [[ids[b" John"]]] * 6}
    write_parquet(work, "prompts.parquet", rows | {"split": ["train"] * 2 + ["test"] * 2 + ["mean"] * 2})
    write_vocabulary(work, vocab)


def write_parquet(work: Draft, name: str, columns: dict[str, Any]) -> None:
    """A table of a circuit run in the schema of `interp.circuits.report`."""
    schema = SCHEMAS[name]
    pq.write_table(pa.table({c: pa.array(columns[c], schema.field(c).type) for c in schema.names}, schema=schema), work.path / name)


def write_latents(root: Path, rng: np.random.Generator, vocab: list[bytes], train: Run) -> Run:
    """A circuit of latents: forty of them and the error, every second one ablated exactly, the last ones silent."""
    score = np.sort(rng.standard_t(2, 41) * 0.12 - 0.05).astype(np.float32)
    exact = np.where(np.arange(41) % 2, np.nan, score * 0.9).astype(np.float32)
    config = {"task": "ioi", "ablation": "resample", "pairs": 32, "keep_error": False}

    def fill(work: Draft) -> None:
        scores = _scores({"score": (score, 0.03), "exact": (exact, 0.04)}, 41)
        write_parquet(work, "latents.parquet", {"latent": [-1, *range(3, 43)], **scores, "same_sign": rng.uniform(0.5, 1, 41)})
        curves = _curve_rows("latent", "all", "resample", 41, {"method": 6.0, "random": 1.0})
        write_parquet(work, "curve.parquet", {name: [row[name] for row in curves] for name in curves[0]})
        _write_prompts(work, vocab)
        figures = {"model": MODEL, "site": "10.resid_post", "active_latents": 40, "top": 20, "faithfulness": 0.53, "faithfulness_low": 0.42}
        figures |= {"faithfulness_high": 0.64, "faithfulness_random": 0.02, "latents_for_80_percent": 35, "effect_of_all": -3.7}
        figures |= {"effect_of_error": -1.9, "pearson": 0.96, "same_sign": 0.84, "audited": 20, "metric_clean": 3.7, "metric_corrupt": -0.1}
        work.write_json("summary.json", figures | {"about": _circuit_head("attribution", "node")["about"]})

    return make_run(root, "latents", config, {"dictionary": train.id}, f"interp latents {train.id} ioi", fill)


def write_compare(root: Path, rng: np.random.Generator, circuit: Run) -> Run:
    """A circuit against one that knows four of its twenty nodes."""
    names = [short for short, *_ in _circuit_nodes()]
    a, b = rng.normal(0, 0.1, len(names)), rng.normal(0, 0.1, len(names))

    def fill(work: Draft) -> None:
        units = {"unit": names, "score_a": a, "score_b": b}
        units |= {"in_a": [i < 20 for i in range(len(names))], "in_b": [16 <= i < 36 for i in range(len(names))]}
        pairs = {"pair": range(16, 20), **{name: rng.normal(2, 1, 4) for name in ("clean", "ablated", "circuit_a", "circuit_b")}}
        for name, columns in (("units.parquet", units), ("examples.parquet", pairs)):
            schema = COMPARISON[name]
            pq.write_table(pa.table({n: pa.array(columns[n], schema.field(n).type) for n in schema.names}, schema=schema), work.path / name)
        figures = {"unit": "node", "size_a": 20, "size_b": 20, "shared": 4, "shared_by_chance": 5.6, "p_shared": 0.0004, "spearman": 0.1}
        figures |= {"faithfulness_a": 0.7, "faithfulness_b": 0.5, "prompts": 4, "difference": 0.4, "difference_low": 0.1}
        work.write_json("summary.json", figures | {"difference_high": 0.7, "p_difference_t": 0.031})

    return make_run(root, "compare", {}, {"a": circuit.id, "b": circuit.id}, f"interp compare {circuit.id} {circuit.id}", fill)


def write_steer(root: Path, rng: np.random.Generator, vocab: list[bytes], train: Run) -> Run:
    """Two topics, three arms: what no arm says, one slot says sometimes and all slots say always."""
    config = {"topics": ["ships=ships.txt", "grain=grain.txt"], "strength": 1.0, "prompt": "The keeper", "generations": 4, "length": 8}

    def fill(work: Draft) -> None:
        arms, made, latents = [], [], []
        for topic in ("ships", "grain"):
            for arm, hits in (("none", 0), ("one", 2), ("all", 4)):
                figures = {
                    f"{name}{end}": value for name, value in (("rate", hits / 4), ("loss", 3.0 + hits), ("distinct", 0.9)) for end in ENDS
                }
                arms.append({"topic": topic, "arm": arm, "n": 4, "latents": [3, 5][: hits // 2], **figures})
                for i in range(4):
                    tokens, loss = rng.integers(0, len(vocab), 8).tolist(), rng.uniform(0, 9, 8).tolist()
                    said = {"said": topic if i < hits else "other", "probability": 0.6, "distinct": 0.9}
                    made.append({"topic": topic, "arm": arm, "row": i, "tokens": tokens, "loss": loss, **said})
            shares = {"phi": 0.4, "share_topic": 0.5, "share_other": 0.02, "level": 1.5}
            latents += [{"topic": topic, "dictionary": train.id, "rank": i, "latent": n, **shares} for i, n in enumerate((3, 5))]
        probe = [{"topic": t, "n_train": 30, "n_test": 30, "recall": 0.9, "false_rate": 0.03} for t in ("ships", "grain", "other")]
        for name, rows in {"arms": arms, "generations": made, "latents": latents, "probe": probe}.items():
            pq.write_table(pa.Table.from_pylist(rows, schema=STEERING[name]), work.path / f"{name}.parquet")
        write_vocabulary(work, vocab)
        head = {"model": MODEL, "site": "10.resid_post", "topics": 2, "generations": 4, "probe_accuracy": 0.91, "prompt": [0, 2]}
        work.write_json("summary.json", head | {"rate_none": 0.0, "rate_one": 0.5, "rate_all": 1.0, "seconds": 2.0})

    return make_run(root, "steer", config, {"dictionary": train.id}, f"interp steer {train.id}", fill)
