"""Scores of edges to and from the tables of `interchange`: `circuit.json` of a run, and graphs that other programs made.

Other programs read keys and values head by head. A key that a group of query heads shares becomes one for each of them: an edge to it
stands for all of theirs, so all are in the circuit or none is, and each takes an equal part of its score. Read back, they are added up.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.circuits.graph import Graph
from interp.circuits.interchange import Table, read_acdc, read_eap, write_eap
from interp.circuits.names import Edge, parse
from interp.circuits.view import View
from interp.models.bridge import Model
from saes.errors import InputError


def exported(view: View, model: Model) -> dict[str, Any]:
    """A circuit of edges with all scores in the graph format of EAP-IG and MIB."""
    graph = view.scores.graph
    size = graph.n_heads // graph.n_kv
    scores: dict[Edge, float | None] = {}
    kept: set[Edge] = set()
    for (s, d), score, inside in zip(graph.edges.tolist(), view.scores.mean.tolist(), view.kept.tolist(), strict=True):
        ends = _apart(graph.destinations[d], size)
        own = [(graph.sources[s], end) for end in ends]
        scores |= dict.fromkeys(own, score / len(ends))
        kept |= set(own) if inside else set()
    cfg = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": graph.parallel, "d_model": model.d_model}
    return write_eap(Table(scores, frozenset(kept), {}, cfg))


def imported(path: Path) -> Table:
    """A graph as EAP-IG or MIB write it, or the edges that ACDC kept, as JSON; raises InputError for anything else."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); give a graph as EAP-IG's to_json writes it, or ACDC's list of edges"
        ) from None
    try:
        return read_eap(data) if isinstance(data, Mapping) else read_acdc(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is neither a graph of EAP-IG nor a list of ACDC's edges: {type(error).__name__} {error}") from None


def on_graph(table: Table, graph: Graph) -> tuple[torch.Tensor, dict[str, float]]:
    """Scores [edge] of a graph from a table, and how many edges were not in one of them; 0 where the table has none.

    An edge of a circuit without a score counts -1: it is said to help. Raises InputError when the two share no edge.
    """
    size = graph.n_heads // graph.n_kv
    found: defaultdict[Edge, float] = defaultdict(float)
    for (source, end), score in table.scores.items():
        edge = source, _together(end, size)
        found[edge] += score if score is not None else -float((source, end) in table.kept)
    ends = [(graph.sources[s], graph.destinations[d]) for s, d in graph.edges.tolist()]
    known = sum(edge in found for edge in ends)
    if not known:
        ours, theirs = " -> ".join(ends[-1]), " -> ".join(next(iter(found), ("nothing", "")))
        raise InputError(f"the file and the model share no edge (there {theirs}, here {ours}); it is the graph of another model")
    notes = {"edges_read": float(known), "edges_without_score": float(len(ends) - known), "edges_foreign": float(len(found) - known)}
    return torch.tensor([found.get(edge, 0.0) for edge in ends]), notes


def _apart(destination: str, size: int) -> list[str]:
    """Query heads' own names of a shared key or value; anything else as it is."""
    if ".g" not in destination:
        return [destination]
    parts = parse(destination)
    assert parts.head is not None
    return [f"{parts.layer}.{head}.{parts.input}" for head in range(parts.head * size, (parts.head + 1) * size)]


def _together(destination: str, size: int) -> str:
    parts = parse(destination)
    if size == 1 or parts.kind != "input" or parts.input == "q" or ".g" in destination:
        return destination
    assert parts.head is not None
    return f"{parts.layer}.g{parts.head // size}.{parts.input}"
