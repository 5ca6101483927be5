"""The scores of a run held against a published circuit: `--truth ioi`, `--truth greater_than/hanna`.

Edges and nodes, by how much they help and by |score|, all of them and those without MLPs: one row each. What the truth is and how rows are
counted stands in `interp.circuits.truth` and `interp.circuits.verdicts`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from interp.circuits.ablation import Ablation
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.names import Shape, touches_mlp
from interp.circuits.truth import Truth, load, variants
from interp.circuits.verdicts import Verdict, edge_verdicts, node_kinds, node_scores, node_verdicts
from saes.errors import InputError

# What truths call the ablations of a run: its `mean` is taken position by position.
NAMES: dict[Ablation, str] = {"resample": "resample", "mean": "mean_per_position", "mean_all": "mean", "zero": "zero"}
FIGURES = ("auroc", "auroc_pessimistic", "average_precision", "partial_auroc")


def chosen(text: str, graph: Graph, ablation: Ablation) -> Truth:
    """The truth of that name, CIRCUIT or CIRCUIT/VARIANT; raises InputError when it holds for another ablation or another model."""
    circuit, _, variant = text.partition("/")
    truth = load(circuit.replace("-", "_"), variant or None)
    own = Shape(graph.n_layers, graph.n_heads, graph.n_kv, graph.mlps, graph.pos, truth.shape.parallel)
    if own != truth.shape:
        raise InputError(
            f"{truth.name} is a circuit of a model with {_said(truth.shape)}, and this one has {_said(own)}; "
            "run that model (--model), or leave --truth out"
        )
    if NAMES[ablation] not in truth.ablations:
        fitting = [own for own, name in NAMES.items() if name in truth.ablations]
        others = [f"{truth.circuit}/{name}" for name in variants(truth.circuit, NAMES[ablation])]
        ways = [f"--ablation {name}" for name in fitting] + [f"--truth {name}" for name in others]
        raise InputError(
            f"{truth.name} is the circuit under {' or '.join(truth.ablations) or 'no'} ablation, not under {ablation}; "
            f"give {' or '.join(ways) or 'another --truth'}"
        )
    return truth


@dataclass(frozen=True)
class Row:
    """One way of reading the scores."""

    unit: Unit
    among: Literal["all", "no mlp"]
    verdict: Verdict

    def table(self) -> dict[str, Any]:
        """A row of truth.parquet."""
        own = {name: getattr(self.verdict, name) for name in ("truth", "ranking", "n_true", "n_scored", *FIGURES)}
        return {"unit": self.unit, "among": self.among, **own, "missing": list(self.verdict.missing)}

    def figures(self) -> dict[str, float]:
        """Its part of the summary: `auroc_edges_helping`, `average_precision_nodes_absolute_no_mlp`."""
        end = f"{self.unit}s_{self.verdict.ranking}" + ("_no_mlp" if self.among == "no mlp" else "")
        return {f"{name}_{end}": getattr(self.verdict, name) for name in FIGURES}


def rows(scores: Scores, truth: Truth, ablation: Ablation) -> list[Row]:
    """All readings that can tell true from other: scores of edges are read as those of nodes too."""
    if scores.unit == "node":
        named = dict(zip(scores.names(), scores.mean.tolist(), strict=True))
        return list(_nodes(truth, named, {name: value for name, value in named.items() if not name.startswith("m")}, ablation))
    graph = scores.graph
    ends = [(graph.sources[s], graph.destinations[d]) for s, d in graph.edges.tolist()]
    edges = dict(zip(ends, scores.mean.tolist(), strict=True))
    found = edge_verdicts(truth, edges, NAMES[ablation]) if truth.edges else []
    apart = {edge: value for edge, value in edges.items() if not touches_mlp(edge)}
    of_edges = [Row("edge", "no mlp" if verdict.among == "no mlp" else "all", verdict) for verdict in found]
    return [*of_edges, *_nodes(truth, node_scores(edges), node_scores(apart), ablation)]


def figures(truth: Truth, found: list[Row]) -> dict[str, Any]:
    """What the summary says of a truth and of the scores against it."""
    said = {"truth": truth.name, "truth_edges": len(truth.edges), "truth_heads": len(truth.heads), "truth_evidence": truth.evidence.grade}
    return said | {name: value for row in found for name, value in row.figures().items()}


def _nodes(truth: Truth, every: Mapping[str, float], apart: Mapping[str, float], ablation: Ablation) -> Iterator[Row]:
    """Nodes with and without MLPs, where some that are scored are true and some are not."""
    without = truth.without_mlps()
    readings: tuple[tuple[Literal["all", "no mlp"], Mapping[str, float], Truth], ...] = (("all", every, truth), ("no mlp", apart, without))
    for among, scores, aims in readings:
        true = {name in aims.nodes for name in node_kinds(aims, scores)}
        if len(true) == 2 and (among == "all" or truth.shape.mlps):
            yield from (Row("node", among, verdict) for verdict in node_verdicts(aims, scores, NAMES[ablation]))


def _said(shape: Shape) -> str:
    shared = "" if shape.n_kv_heads == shape.n_heads else f" in {shape.n_kv_heads} groups"
    parts = f"{shape.n_layers} layers of {shape.n_heads} heads{shared}" + ("" if shape.mlps else " without MLPs")
    return parts + (" and positions apart from tokens" if shape.positions_apart else "")
