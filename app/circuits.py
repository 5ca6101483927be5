"""Tables of a circuit run in the form in which they are drawn."""

from typing import Any

import numpy as np

from app import readers
from interp.runs import Run
from interp.viz.circuits import Series

METHODS = ("exact", "attribution")


def nodes_of(run: Run) -> readers.Columns:
    """Columns of the nodes; raises InputError when one is missing."""
    nodes = readers.columns(readers.parquet(run, "nodes.parquet"))
    with readers.reading(run, "nodes.parquet"):
        for name in ("node", "kind", "layer", "head", *METHODS, *(f"{m}_{end}" for m in METHODS for end in ("low", "high"))):
            nodes[name]  # a missing column is told by `reading`
        return nodes


def entering(nodes: readers.Columns, by: str, ranking: str, scope: str) -> np.ndarray:
    """Rows of the nodes in the order in which they enter a circuit, as in the curves of the run.

    A negative effect means that ablating the node lowers the logit difference: it helps. `helping` takes the most negative first,
    `absolute` the largest effect of either sign; the scope `heads` leaves every MLP in place.
    """
    inside = np.flatnonzero((nodes["kind"] == "head") | (scope == "all"))
    effect = nodes[by][inside]
    return inside[np.argsort(-np.abs(effect) if ranking == "absolute" else effect, kind="stable")]


Curves = dict[tuple[str, str], list[Series]]


def curves_of(run: Run) -> Curves:
    """(nodes that may be ablated, ablation) to its curves; several seeds are averaged, their spread is the band."""
    rows = readers.parquet(run, "curve.parquet").to_pylist()
    out: Curves = {}
    with readers.reading(run, "curve.parquet"):
        grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for r in rows:
            grouped.setdefault((r.get("nodes") or "all", r["ablation"], r["series"]), []).append(r)
        for (scope, ablation, name), mine in grouped.items():
            out.setdefault((scope, ablation), []).append(average(name, mine))
    return out


def average(name: str, rows: list[dict[str, Any]]) -> Series:
    """One line of several seeds: the mean of each size, the outermost ends of their intervals."""
    sizes = sorted({r["n_nodes"] for r in rows})
    at = [[r for r in rows if r["n_nodes"] == n] for n in sizes]
    mean = np.array([np.mean([r["faithfulness"] for r in group]) for group in at], float)
    low = np.array([min(_first(r["low"], r["faithfulness"]) for r in group) for group in at], float)
    high = np.array([max(_first(r["high"], r["faithfulness"]) for r in group) for group in at], float)
    seeds = len({r["seed"] for r in rows})
    return Series(f"{name} ({seeds} seeds)" if seeds > 1 else name, np.array(sizes), mean, low, high)


def _first(value: float | None, instead: float) -> float:
    return instead if value is None or value != value else value


def layout(nodes: readers.Columns, by: str) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Values, column titles and names of the nodes as a grid of layers: the heads, then the MLP."""
    mlp = nodes["kind"] == "mlp"
    heads = 1 + int(nodes["head"][~mlp].astype(int).max(initial=-1))
    layers = 1 + int(nodes["layer"].max())
    values, names = np.full((layers, heads + 1), np.nan), [[""] * (heads + 1) for _ in range(layers)]
    for i, name in enumerate(nodes["node"]):
        place = int(nodes["layer"][i]), heads if mlp[i] else int(nodes["head"][i])
        values[place], names[place[0]][place[1]] = nodes[by][i], str(name)
    return values, [*(str(h) for h in range(heads)), "MLP"], names
