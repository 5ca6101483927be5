"""A method's edges or scores held against a known circuit: what was found, and one row of areas for each way of reading the scores.

An effect is signed: negative means the edge helps the metric. Ranking by -effect finds what helps, ranking by |effect| finds what matters
either way, and a method whose sign is turned round gets an area below one half under the first alone. So every table has both. Circuits of
models with MLPs are reported twice, with all edges and with those that touch no MLP. Of alternatives, a method is held against the one that
suits it best, and the edges of the others count neither for nor against it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from interp.circuits.names import Edge, edge_order, is_direct, parse, touches_mlp
from interp.circuits.roc import auroc, average_precision, partial_auroc, pessimistic_auroc
from interp.circuits.truth import Truth, load, variants
from saes.errors import InputError

Ranking = Literal["helping", "absolute", "as given"]
"""as given: the scores are no effects, higher is better (thresholds, gates)."""


@dataclass(frozen=True)
class Confusion:
    """A set of edges held against a truth, inside the graph that the method could choose from."""

    true_positive: frozenset[Edge]
    false_positive: frozenset[Edge]
    false_negative: frozenset[Edge]
    """Edges of the truth that were not chosen, those in `missing` among them."""
    missing: tuple[Edge, ...]
    """Edges of the truth that the graph lacks: nothing can find them, and none counts as found."""
    foreign: tuple[Edge, ...]
    """Chosen edges that the graph lacks: neither right nor wrong, a sign of two graphs."""

    @property
    def precision(self) -> float:
        """Of the chosen edges, the share that is true; NaN where none was chosen."""
        chosen = len(self.true_positive) + len(self.false_positive)
        return len(self.true_positive) / chosen if chosen else float("nan")

    @property
    def recall(self) -> float:
        """Of the true edges, the share that was chosen."""
        return len(self.true_positive) / (len(self.true_positive) + len(self.false_negative))


def compare(chosen: Collection[Edge], truth: Truth, graph: Collection[Edge], ablation: str | None) -> Confusion:
    """A set of edges against a truth; of alternatives, the one with most edges found.

    Direct edges count where the graph has them. Raises InputError for another ablation, a truth without edges, or one of another model.
    """
    possible, picked = frozenset(graph), frozenset(chosen)
    options = [_confusion(picked, aims, ignored, possible) for aims, ignored in targets(truth, possible, ablation)]
    return max(options, key=lambda found: (found.recall, -len(found.false_positive)))


@dataclass(frozen=True)
class Verdict:
    """Columns of a table of areas."""

    truth: str
    ranking: Ranking
    among: str
    """all, no mlp, or the kinds of nodes."""
    n_true: int
    """True edges or nodes, `missing` ones included."""
    n_scored: int
    auroc: float
    auroc_pessimistic: float
    average_precision: float
    partial_auroc: float
    """Mean true positive rate up to a false positive rate of .05."""
    missing: tuple[str, ...]
    """What the truth has and the scores lack; ranked below everything, so it never counts as found."""


def edge_verdicts(truth: Truth, scores: Mapping[Edge, float], ablation: str | None, rankings: tuple[Ranking, ...] = ()) -> list[Verdict]:
    """Scores of all edges of a graph against a truth. `scores` has every edge that the method could have chosen.

    Raises InputError for another ablation, a truth without edges, a graph of another model, or scores that are NaN.
    """
    rows = []
    for ranking in rankings or get_args(Ranking)[:2]:
        rows.append(_best(truth, scores, ablation, ranking, "all"))
        if truth.shape.mlps and truth.without_mlps().edges:
            rest = {edge: value for edge, value in scores.items() if not touches_mlp(edge)}
            rows.append(_best(truth.without_mlps(), rest, ablation, ranking, "no mlp"))
    return rows


def node_verdicts(truth: Truth, scores: Mapping[str, float], ablation: str | None, rankings: tuple[Ranking, ...] = ()) -> list[Verdict]:
    """Scores of nodes against the nodes of a truth; nodes of a kind that the method scores nowhere are no part of the question."""
    truth.require(ablation)
    candidates = node_kinds(truth, scores)
    kinds = {parse(name).kind for name in candidates}
    aims = frozenset(name for name in truth.nodes if parse(name).kind in kinds)
    if not aims & set(scores):
        raise InputError(f"no node of {truth.name} was scored; score {', '.join(sorted(truth.nodes)[:3])}, ...")
    among = ", ".join(sorted(kinds))
    return [_verdict(truth.name, ranking, among, candidates, aims) for ranking in rankings or get_args(Ranking)[:2]]


def node_kinds(truth: Truth, scores: Mapping[str, float]) -> dict[str, float]:
    """The scored nodes of kinds that the truth speaks of."""
    kinds = {parse(name).kind for name in truth.nodes}
    return {name: value for name, value in scores.items() if parse(name).kind in kinds}


def node_scores(scores: Mapping[Edge, float]) -> dict[str, float]:
    """Effects of nodes from effects of edges: of the edges at a node, the effect furthest from zero.

    By |effect| this is the largest threshold at which the node is still the end of a kept edge.
    """
    nodes: dict[str, float] = {}
    for edge, value in scores.items():
        for name in edge:
            if name not in nodes or abs(value) > abs(nodes[name]):
                nodes[name] = value
    return nodes


def targets(truth: Truth, graph: Collection[Edge], ablation: str | None) -> list[tuple[frozenset[Edge], frozenset[Edge]]]:
    """What a method may aim at: each minimal set, with the edges of the other sets that are then left out of the count."""
    truth.require(ablation)
    if truth.granularity == "node":
        known = ", ".join(name for name in variants(truth.circuit) if load(truth.circuit, name).edges)
        raise InputError(f"{truth.name} lists nodes and no edges; score nodes, or load a variant with edges: {known}")
    direct = truth.direct if any(is_direct(edge) for edge in graph) else frozenset()
    sets = [edges | direct for edges in (truth.edges, *truth.alternatives)]
    if not any(edges & frozenset(graph) for edges in sets):
        example, ours = next(iter(graph), ("nothing", "")), min(truth.edges, key=edge_order)
        raise InputError(f"no edge of {truth.name} ({' -> '.join(ours)}, ...) is in the graph ({' -> '.join(example)}, ...): two models")
    everything = frozenset().union(*sets)
    return [(edges, everything - edges) for edges in sets]


def _confusion(picked: frozenset[Edge], aims: frozenset[Edge], ignored: frozenset[Edge], possible: frozenset[Edge]) -> Confusion:
    found = picked & aims & possible
    return Confusion(
        true_positive=found,
        false_positive=(picked & possible) - aims - ignored,
        false_negative=aims - found,
        missing=tuple(sorted(aims - possible, key=edge_order)),
        foreign=tuple(sorted(picked - possible, key=edge_order)),
    )


def _best(truth: Truth, scores: Mapping[Edge, float], ablation: str | None, ranking: Ranking, among: str) -> Verdict:
    rows = []
    for aims, ignored in targets(truth, scores.keys(), ablation):
        names = {_text(edge): value for edge, value in scores.items() if edge not in ignored}
        rows.append(_verdict(truth.name, ranking, among, names, frozenset(map(_text, sorted(aims, key=edge_order)))))
    return max(rows, key=lambda row: row.auroc)


def _verdict(truth: str, ranking: Ranking, among: str, scores: Mapping[str, float], aims: frozenset[str]) -> Verdict:
    missing = tuple(sorted(aims - scores.keys()))
    values = _ranked(np.array(list(scores.values()), dtype=float), ranking)
    # Missing ones come strictly after everything, also after scores of minus infinity: no tie can credit them.
    ranks = np.concatenate((np.unique(values, return_inverse=True)[1].astype(float), np.full(len(missing), -1.0)))
    true = np.array([name in aims for name in scores] + [True] * len(missing))
    figures = (auroc(ranks, true), pessimistic_auroc(ranks, true), average_precision(ranks, true), partial_auroc(ranks, true))
    return Verdict(truth, ranking, among, len(aims), len(scores), *figures, missing)


def _ranked(values: np.ndarray, ranking: Ranking) -> np.ndarray:
    if np.isnan(values).any():
        raise InputError(
            f"{int(np.isnan(values).sum())} of {len(values)} scores are no numbers; score every edge, or leave those edges out"
        )
    if ranking == "absolute":
        return np.abs(values)
    return -values if ranking == "helping" else values


def _text(edge: Edge) -> str:
    return "->".join(edge)
