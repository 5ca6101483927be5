"""What a circuit run reports: its tables as rows, and its figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from interp.circuits.areas import areas
from interp.circuits.audit import Audit
from interp.circuits.faithfulness import Curves, Point, mean_intervals
from interp.circuits.forward import clean_metric, corrupt_metric
from interp.circuits.graph import Scores
from interp.circuits.hypotheses import benjamini_hochberg
from interp.circuits.view import View
from interp.models.bridge import Model
from interp.runs import Draft, written
from interp.tasks import Pairs, Task


def _floats(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float32()) for name in names]


_SCORE = [(f"{name}{end}", pa.float32()) for name in ("score", "exact") for end in ("", "_low", "_high")]
_IN_CIRCUIT = [("in_circuit", pa.bool_())]
SCHEMAS = {
    "nodes.parquet": pa.schema(
        [("node", pa.utf8()), ("kind", pa.utf8()), ("layer", pa.int16()), ("head", pa.int16()), *_SCORE, *_IN_CIRCUIT]
    ),
    "edges.parquet": pa.schema(
        [("source", pa.utf8()), ("destination", pa.utf8()), *_SCORE, *_floats("same_sign", "p_adjusted"), *_IN_CIRCUIT]
    ),
    "curve.parquet": pa.schema(
        [
            *(("series", pa.utf8()), ("seed", pa.int32()), ("unit", pa.utf8()), ("nodes", pa.utf8()), ("ablation", pa.utf8())),
            *(("n", pa.int32()), ("kept", pa.int32()), *_floats("share", "faithfulness", "low", "high", "metric", "complement")),
        ]
    ),
    "prompts.parquet": pa.schema(
        [
            *(("pair", pa.int32()), ("clean", pa.list_(pa.int32())), ("corrupt", pa.list_(pa.int32()))),
            *(("answer", pa.int32()), ("wrong", pa.list_(pa.int32())), ("split", pa.utf8())),
        ]
    ),
    "examples.parquet": pa.schema(
        [("pair", pa.int32()), *_floats("clean", "ablated", "circuit", "complement")]
    ),
    "tests.parquet": pa.schema(
        [("kind", pa.utf8()), ("unit", pa.utf8()), ("rank", pa.int32()), *_floats("value", "p", "p_adjusted"), ("needed", pa.bool_())]
    ),
    "latents.parquet": pa.schema([("latent", pa.int32()), *_SCORE, *_floats("same_sign")]),
    "truth.parquet": pa.schema(
        [
            *((name, pa.utf8()) for name in ("truth", "unit", "among", "ranking")),
            *(("n_true", pa.int32()), ("n_scored", pa.int32())),
            *_floats("auroc", "auroc_pessimistic", "average_precision", "partial_auroc"),
            ("missing", pa.list_(pa.utf8())),
        ]
    ),
}  # fmt: skip
# The size at which published IOI circuits are held against each other: Wang et al. 2022 name 26 heads.
TOP = 20
# Shares of the edges at which circuits are named in the summary.
SHARES = (0.01, 0.05)


@dataclass(frozen=True)
class Splits:
    """Pairs by what they are used for; no pair is in two."""

    train: Pairs
    """Nodes or edges are scored on these."""
    test: Pairs
    """Curves are measured on these."""
    mean: Pairs
    """Mean ablation averages their corrupt activations."""


def headline(points: Sequence[Point]) -> dict[str, Any]:
    """Faithfulness of 20 heads (every MLP runs), or of 1 % and 5 % of the edges, beside random circuits of that size."""
    figures: dict[str, Any] = {}
    for at in _sizes(points):
        wanted = [p for p in points if p.share < 1 and (p.n == TOP if p.unit == "node" else abs(p.share - at) < 0.2 * at)]
        for p in wanted:
            if p.unit == "node" and p.nodes == "all":
                continue
            where = f"top{TOP}" if p.unit == "node" else f"edges{100 * at:g}"
            figures.setdefault(f"{where}_{p.ablation}_{p.series}", []).append((p.faithfulness, p.low, p.high))
    out: dict[str, Any] = {}
    for name, found in figures.items():
        value, low, high = np.mean(found, 0).tolist()
        out |= {name: value} if name.endswith("random") else {name: value, f"{name}_low": low, f"{name}_high": high}
    return out


def _sizes(points: Sequence[Point]) -> tuple[float, ...]:
    return SHARES if any(p.unit == "edge" for p in points) else (0.0,)


def area_figures(curves: Curves, series: str) -> dict[str, Any]:
    """CPR and CMD of a series over the share of nodes or edges kept, with their areas over the logarithm of the share."""
    rows = [i for i, p in enumerate(curves.points) if p.series == series and p.seed == curves.points[0].seed and p.share > 0]
    found = areas(curves.metric[rows], curves.full, curves.empty, [curves.points[i].share for i in rows])
    figures: dict[str, Any] = {}
    for name in ("cpr", "cmd", "cpr_log", "cmd_log"):
        one = getattr(found, name)
        figures |= {f"{name}_{series}": one.value, f"{name}_{series}_low": one.low, f"{name}_{series}_high": one.high}
    return figures


def node_rows(seen: View, exact: Audit | None) -> list[dict[str, Any]]:
    """Rows of nodes.parquet: the method's mean and the exact effect, each with a 95 % interval. Scores of edges are added up over the edges
    that leave a node."""
    scores = seen.scores
    columns = _columns(scores if scores.unit == "node" else None, exact if scores.unit == "node" else None, len(scores.graph.nodes))
    if scores.unit == "edge":
        columns["score"] = scores.matrix().sum(1)[scores.graph.n_embeddings :].tolist()
    columns["in_circuit"] = seen.nodes().tolist()
    return [
        {"node": str(node), "kind": "mlp" if node.site.head is None else "head", "layer": node.site.layer, "head": node.site.head}
        | {name: values[i] for name, values in columns.items()}
        for i, node in enumerate(scores.graph.nodes)
    ]


def edge_rows(seen: View, exact: Audit | None) -> list[dict[str, Any]]:
    """Rows of edges.parquet, with the share of examples whose score has the sign of the mean, and a p-value corrected for all edges."""
    scores, graph = seen.scores, seen.scores.graph
    columns = _columns(scores, exact, graph.n_edges)
    columns |= {"same_sign": scores.agreement.tolist(), "p_adjusted": _p_values(scores), "in_circuit": seen.kept.tolist()}
    names = [(graph.sources[s], graph.destinations[d]) for s, d in graph.edges.tolist()]
    return [
        {"source": source, "destination": destination} | {name: values[i] for name, values in columns.items()}
        for i, (source, destination) in enumerate(names)
    ]


def _columns(scores: Scores | None, exact: Audit | None, n: int) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {f"{name}{end}": [None] * n for name in ("score", "exact") for end in ("", "_low", "_high")}
    if scores is not None:
        low, high = scores.interval()
        columns |= {"score": scores.mean.tolist(), "score_low": low.tolist(), "score_high": high.tolist()}
    if exact is not None:
        low, high = mean_intervals(exact.per_example)
        for name, values in (("exact", exact.mean), ("exact_low", low), ("exact_high", high)):
            for i, value in zip(exact.which.tolist(), values.tolist(), strict=True):
                columns[name][i] = value
    return columns


def _p_values(scores: Scores) -> list[float | None]:
    """Paired t-tests of each mean against 0, with the procedure of Benjamini and Hochberg; none for a method without examples."""
    from scipy.stats import t

    if scores.n < 2 or not bool((scores.deviation > 0).any()):
        return [None] * len(scores.mean)
    error = scores.deviation.double().numpy() / np.sqrt(scores.n)
    ratio = np.divide(scores.mean.double().numpy(), error, out=np.zeros(len(error)), where=error > 0)
    return benjamini_hochberg(2 * t.sf(np.abs(ratio), scores.n - 1)).tolist()


def curve_rows(curves: Sequence[Curves]) -> list[dict[str, Any]]:
    """Rows of curve.parquet."""
    return [asdict(point) for one in curves for point in one.points]


def prompt_rows(splits: Splits) -> list[dict[str, Any]]:
    """Rows of prompts.parquet, without padding."""
    rows = []
    for name, pairs in (("train", splits.train), ("test", splits.test), ("mean", splits.mean)):
        for i, end in enumerate(pairs.end.tolist()):
            tokens = {side: getattr(pairs, side)[i, : end + 1].tolist() for side in ("clean", "corrupt")}
            answers = {"answer": int(pairs.answer[i]), "wrong": pairs.wrong[i].unique().tolist()}
            rows.append({"pair": len(rows), **tokens, **answers, "split": name})
    return rows


def top(scores: Scores, n: int = 10) -> list[str]:
    """The units with the largest |score|; heads alone where nodes are scored."""
    heads = None if scores.unit == "edge" else scores.graph.is_head()
    names = scores.names()
    return [names[i] for i in scores.order("absolute", heads)[:n].tolist()]


def solved(model: Model, base: Task, chosen: Task, parts: Sequence[Pairs]) -> dict[str, float]:
    """How well the model solves the task: the chosen metric on clean and corrupt prompts, and accuracy by the task's own."""
    clean, corrupt, right = (
        torch.cat([measure(model, one, pairs) for pairs in parts])
        for measure, one in ((clean_metric, chosen), (corrupt_metric, chosen), (clean_metric, base))
    )
    figures = {"metric_clean": clean.mean().item(), "metric_corrupt": corrupt.mean().item()}
    return figures | {"accuracy": (right > 0).float().mean().item()}


def write(draft: Draft, name: str, rows: list[dict[str, Any]]) -> None:
    """Write one of the tables of `SCHEMAS`."""
    with written(draft.path / name) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), aside, compression="zstd")
