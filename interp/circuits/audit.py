"""Can a fast score be trusted? A sample of its nodes or edges is ablated exactly, and both numbers are held against each other.

The sample is drawn from each kind of edge in each third of the model, so that a method that is right on average and wrong about, say, keys
of late layers shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph, Scores
from interp.circuits.methods.exact import Exact, edge_effects
from interp.models.bridge import Model
from interp.tasks import Pairs, Task

THIRDS = ("early", "middle", "late")


@dataclass(frozen=True, eq=False)
class Audit:
    """Exact effects of some units."""

    which: Int[Tensor, " sampled"]
    per_example: Float[Tensor, "pair sampled"]

    @property
    def mean(self) -> Float[Tensor, " sampled"]:
        return self.per_example.mean(0)


def audit(model: Model, task: Task, pairs: Pairs, scores: Scores, values: Outputs, n: int, seed: int) -> Audit:
    """Exact effects of every node, or of n edges of all strata."""
    graph = scores.graph
    if scores.unit == "node":
        found = Exact()(model, task, pairs, graph, values).per_example
        assert found is not None, "scores of nodes are kept for each example"
        return Audit(torch.arange(len(graph.nodes)), found)
    which = sample(graph, n, seed)
    return Audit(which, edge_effects(model, task, pairs, graph, values, which))


def sample(graph: Graph, n: int, seed: int) -> Int[Tensor, " sampled"]:
    """n edges, the same number from each stratum as far as it has that many."""
    rng = torch.Generator().manual_seed(seed)
    strata = [group[torch.randperm(len(group), generator=rng)] for _, group in grouped(graph)]
    rounds = (stratum[i : i + 1] for i in range(max(map(len, strata))) for stratum in strata)
    chosen: list[Tensor] = []
    while len(chosen) < min(n, graph.n_edges):
        chosen += [edge for edge in (next(rounds),) if len(edge)]
    return torch.cat(chosen).sort().values


def grouped(graph: Graph) -> Iterator[tuple[str, Int[Tensor, " edge"]]]:
    """Edges by the kind of their source and destination and the third of the model in which they are read."""
    labels = strata(graph)
    for label in sorted(set(labels)):
        yield label, torch.tensor([i for i, one in enumerate(labels) if one == label])


def strata(graph: Graph) -> list[str]:
    """The stratum of each edge: `head->k late`."""
    writes = ["embed" if i < graph.n_embeddings else ("mlp" if name[0] == "m" else "head") for i, name in enumerate(graph.sources)]
    reads = ["logits" if name == "logits" else ("mlp" if name[0] == "m" else name[-1]) for name in graph.destinations]
    layers = [graph.n_layers - 1 if name == "logits" else int(name.lstrip("m").split(".")[0]) for name in graph.destinations]
    thirds = [THIRDS[3 * layer // graph.n_layers] for layer in layers]
    return [f"{writes[s]}->{reads[d]} {thirds[d]}" for s, d in graph.edges.tolist()]


def agreement(scores: Scores, exact: Audit) -> dict[str, Any]:
    """How scores agree with exact effects: over all, and for heads and MLPs or by the kind of edge. None where a side is constant."""
    guess, truth = (x.double().numpy() for x in (scores.mean[exact.which], exact.mean))
    figures = {"audited": len(truth), **compared(guess, truth)}
    for label, rows in _parts(scores, exact):
        figures[f"pearson_{label}"] = pearson(guess[rows], truth[rows])
    return figures


def compared(guess: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Correlation of values and of ranks, and how often the signs agree where there is an effect."""
    moved = np.abs(truth) > 1e-6
    return {
        "pearson": pearson(guess, truth),
        "spearman": pearson(rankdata(guess), rankdata(truth)),
        "same_sign": float((np.sign(guess) == np.sign(truth))[moved].mean()) if moved.any() else None,
    }


def _parts(scores: Scores, exact: Audit) -> Iterator[tuple[str, np.ndarray]]:
    """Heads and MLPs, or the kinds of what edges lead to."""
    if scores.unit == "node":
        names = ["mlps" if node.site.head is None else "heads" for node in scores.graph.nodes]
    else:
        names = [label.split(" ")[0].split("->")[1] for label in strata(scores.graph)]
    own = np.array(names)[exact.which.numpy()]
    for label in sorted(set(own.tolist())):
        yield label, own == label


def pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson correlation; None where one side is constant (JSON has no NaN)."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
