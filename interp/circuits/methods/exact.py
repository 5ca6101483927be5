"""Exact activation patching: one node or edge is ablated at all positions and the rest is recomputed.

    score = M(only this ablated) - M(clean)

A node takes one forward from its layer on. An edge does too: what its destination reads is known from the clean run, so one query, key,
value or MLP input is edited; edges into the logits need no forward, only the last norm and the unembedding.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.forward import ROWS, clean_metric, metrics, passes
from interp.circuits.graph import Graph, Scores, Unit
from interp.models.bridge import Model
from interp.progress import bar
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Exact:
    """Ablate one node at a time."""

    NAME: ClassVar[str] = "exact"
    ABOUT: ClassVar[str] = "ablates each node in turn"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "node"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Measured change of the metric when each node is ablated."""
        masks = graph.keeping([[other for other in graph.nodes if other != node] for node in graph.nodes])
        with bar(round(passes(graph, masks)), "passes", f"exact patching of {len(graph.nodes)} nodes") as progress:
            metric = metrics(model, task, pairs, graph, masks, values, progress)
        return Scores.of(graph, "node", (metric - clean_metric(model, task, pairs).to(metric)).T.contiguous())


@dataclass(frozen=True)
class ExactEdges:
    """Ablate one edge at a time."""

    NAME: ClassVar[str] = "exact-edges"
    ABOUT: ClassVar[str] = "ablates each edge in turn"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Measured change of the metric when each edge is ablated."""
        return Scores.of(graph, "edge", edge_effects(model, task, pairs, graph, values, torch.arange(graph.n_edges)))

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: an edge runs from its layer on, half of all on average."""
        return graph.n_edges / 2


def edge_effects(
    model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs, which: Int[Tensor, " edge"]
) -> Float[Tensor, "pair edge"]:
    """Change of the metric when each of these edges alone is ablated."""
    clean = clean_metric(model, task, pairs)
    size = max(1, ROWS // len(pairs))
    found = []
    with bar(len(which), "edges", f"exact patching of {len(which)} edges") as progress:
        for some in which.split(64 * size):
            found.append(metrics(model, task, pairs, graph, without(graph, some), values) - clean.cpu())
            progress.update(len(some))
    return torch.cat(found).T.contiguous()


def without(graph: Graph, which: Int[Tensor, " edge"]) -> Tensor:
    """A circuit for each of these edges that keeps all others."""
    masks = graph.valid.repeat(len(which), 1, 1)
    source, destination = graph.edges[which].T
    masks[torch.arange(len(which)), source, destination] = False
    return masks
