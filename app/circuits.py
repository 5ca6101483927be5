"""Tables of a circuit run in the form in which they are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app import circuit_words, readers, session
from interp.circuits.names import parse
from interp.circuits.paths import Wiring
from interp.runs import Run
from interp.viz.circuit_curves import Series
from saes.errors import InputError

BY = ("score", "exact")
_SCORES = tuple(f"{name}{end}" for name in BY for end in ("", "_low", "_high"))
NEEDED = {
    "nodes.parquet": ("node", "kind", "layer", "head", *_SCORES),
    "edges.parquet": ("source", "destination", *_SCORES, "same_sign", "p_adjusted"),
    "latents.parquet": ("latent", *_SCORES, "same_sign"),
    "curve.parquet": (
        "series", "seed", "nodes", "ablation", "n", "kept", "share", "faithfulness", "low", "high", "metric", "complement",
    ),
}  # fmt: skip
# Sizes between those of the curve, for circuits of edges.
ROUND = tuple(factor * 10**power for power in range(6) for factor in (1, 2, 5))


def table(run: Run, name: str) -> readers.Columns:
    """Columns of a table; raises InputError for one that another version wrote, with the command that makes it anew."""
    found = readers.parquet(run, name)
    lacking = [column for column in NEEDED[name] if column not in found.column_names]
    if lacking:
        raise InputError(
            f"{run.id} was made by an earlier version: its {name} has no column {lacking[0]}; make the run anew: {run.command}"
        )
    return readers.columns(found)


def about(run: Run) -> Mapping[str, Any]:
    """What the run says of its task, corruption, method and metric in words; raises InputError for a run of an earlier version."""
    found = session.read(readers.summary, run).get("about")
    if not isinstance(found, Mapping):
        raise InputError(
            f"{run.id} was made by an earlier version, which did not say what its scores are; make the run anew: {run.command}"
        )
    return found


def nodes_of(run: Run) -> readers.Columns:
    """Columns of the nodes, with their short names as `name`: `23.3` for a head, `m20` for an MLP."""
    nodes = table(run, "nodes.parquet")
    with readers.reading(run, "nodes.parquet"):
        rows = zip(nodes["kind"], nodes["layer"], nodes["head"], strict=True)
        name = np.array([f"m{layer}" if kind == "mlp" else f"{int(layer)}.{int(head)}" for kind, layer, head in rows])
        return {**nodes, "name": name, **{column: nodes[column].astype(float) for column in _SCORES}}


def edges_of(run: Run) -> readers.Columns:
    """Columns of the edges, with `name` as `source → destination`."""
    edges = table(run, "edges.parquet")
    with readers.reading(run, "edges.parquet"):
        numbers = {column: edges[column].astype(float) for column in (*_SCORES, "same_sign", "p_adjusted")}
        name = np.array([f"{source} → {to}" for source, to in zip(edges["source"], edges["destination"], strict=True)])
        return {**edges, **numbers, "name": name}


def wiring_of(run: Run) -> Wiring:
    """How the edges of a run hang together."""
    edges = table(run, "edges.parquet")
    with readers.reading(run, "edges.parquet"):
        return Wiring.of_table(edges["source"], edges["destination"])


def unit_of(run: Run) -> str:
    """What the run's method scores: node or edge."""
    return str(readers.summary(run).get("unit", "edge" if run.has("edges.parquet") else "node"))


def entering(score: np.ndarray, ranking: str, among: np.ndarray | None = None) -> np.ndarray:
    """Rows in the order in which they enter a circuit, as in the curves of the run.

    A negative score means that ablation lowers the metric: the node or edge helps. `helping` takes the most negative first, `absolute` the
    largest of either sign; equal ones stay in the order of the model, and those without a score are last.
    """
    inside = np.arange(len(score)) if among is None else np.flatnonzero(among)
    own = score[inside]
    return inside[np.argsort(-np.abs(own) if ranking == "absolute" else own, kind="stable")]


Curves = dict[tuple[str, str], list[Series]]


def curves_of(run: Run) -> Curves:
    """(nodes that may be ablated, ablation) to its curves; several seeds are averaged, their spread is the band."""
    rows = table(run, "curve.parquet")
    out: Curves = {}
    with readers.reading(run, "curve.parquet"):
        grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for values in zip(*rows.values(), strict=True):
            r = dict(zip(rows, values, strict=True))
            grouped.setdefault((r["nodes"], r["ablation"], r["series"]), []).append(r)
        for (scope, ablation, name), mine in grouped.items():
            out.setdefault((scope, ablation), []).append(average(name, mine))
    return out


def average(name: str, rows: Sequence[Mapping[str, Any]]) -> Series:
    """One line of several seeds: the mean of each size, the outermost ends of their intervals."""
    sizes = sorted({int(r["n"]) for r in rows})
    at = [[r for r in rows if r["n"] == n] for n in sizes]
    mean, kept, complement = (
        np.array([np.mean([r[c] for r in group]) for group in at], float) for c in ("faithfulness", "kept", "complement")
    )
    low = np.array([min(_first(r["low"], r["faithfulness"]) for r in group) for group in at], float)
    high = np.array([max(_first(r["high"], r["faithfulness"]) for r in group) for group in at], float)
    seeds, words = len({r["seed"] for r in rows}), circuit_words.SERIES.get(name, name)
    title = f"{words} (mean of {seeds})" if seeds > 1 else words
    return Series(title, np.array(sizes), kept, mean, low, high, complement, baseline=name == "random")


def _first(value: float, instead: float) -> float:
    return instead if value is None or value != value else value


def measured(line: Series, size: int) -> int:
    """Index of the largest size of a curve that is not above `size`."""
    return max(0, int(np.searchsorted(line.n, size, "right")) - 1)


def sizes(n: int, curves: Curves, also: int | None) -> list[int]:
    """Sizes to choose from: round ones, those of the curves, and the one asked for."""
    known = {int(size) for lines in curves.values() for line in lines for size in line.n}
    return sorted({0, n, *(size for size in (*ROUND, *known) if size <= n), *(() if also is None else (also,))})


def layout(nodes: readers.Columns, by: str) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Values, column titles and names of the nodes as a grid of layers: the heads, then the MLP."""
    mlp = nodes["kind"] == "mlp"
    heads = 1 + int(nodes["head"][~mlp].astype(int).max(initial=-1))
    layers = 1 + int(nodes["layer"].max())
    values, names = np.full((layers, heads + 1), np.nan), [[""] * (heads + 1) for _ in range(layers)]
    for i, name in enumerate(nodes["name"]):
        place = int(nodes["layer"][i]), heads if mlp[i] else int(nodes["head"][i])
        values[place], names[place[0]][place[1]] = nodes[by][i], str(name)
    return values, [*(str(h) for h in range(heads)), "MLP"], names


@dataclass(frozen=True)
class Shape:
    """Layers and heads of the model that a run is about."""

    layers: int
    heads: int

    @staticmethod
    def of(nodes: readers.Columns) -> "Shape":
        return Shape(1 + int(nodes["layer"].max()), 1 + int(nodes["head"].astype(int).max()))


def kinds(unit: str, rows: readers.Columns) -> np.ndarray:
    """The kind of each node (heads, mlps) or of each edge by where it leads (q, k, v, mlp, logits), named as in the summary."""
    if unit == "node":
        return np.where(rows["kind"] == "mlp", "mlps", "heads")
    known = {name: parse(name) for name in set(rows["destination"])}
    by_name = {name: parts.input or parts.kind for name, parts in known.items()}
    return np.array([by_name[name] for name in rows["destination"]])
