"""The circuit in view: the units of a run that come first, up to one size; tables mark them, tests and `interp compare` speak of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.graph import Graph, Ranking, Scores, Unit
from saes.errors import InputError

# Where no size is given: Wang et al. 2022 name 26 heads; MIB's shares go from .1 % up, and at 5 % of the edges most methods are faithful.
NODES, SHARE = 20, 0.05


@dataclass(frozen=True, eq=False)
class View:
    """The `size` units that come first."""

    scores: Scores
    by: Ranking
    size: int

    @cached_property
    def kept(self) -> Bool[Tensor, " unit"]:
        kept = torch.zeros(len(self.scores.mean), dtype=torch.bool)
        kept[self.scores.order(self.by)[: self.size]] = True
        return kept

    @cached_property
    def connected(self) -> Bool[Tensor, "source destination"]:
        """Its edges on a path from an embedding to the logits."""
        return self.scores.graph.connected(self.scores.mask(self.kept[None])[0])

    def nodes(self) -> Bool[Tensor, " node"]:
        """The nodes in it: of a circuit of edges those that a connected edge leaves."""
        return self.kept if self.scores.unit == "node" else self.connected.any(1)[self.scores.graph.n_embeddings :]


def view(scores: Scores, by: Ranking, size: int | None = None) -> View:
    """The circuit of this size."""
    return View(scores, by, wanted(scores.graph, scores.unit, size))


def wanted(graph: Graph, unit: Unit, size: int | None) -> int:
    """This size, by default 20 nodes or 5 % of the edges and half the graph at most; raises InputError for one that the graph has not."""
    n = len(graph.nodes) if unit == "node" else graph.n_edges
    if size is None:
        return max(1, min(NODES if unit == "node" else round(SHARE * n), n // 2))
    if not 0 < size < n:
        raise InputError(f"--size {size} leaves no circuit to test among {n:,} {unit}s; give a number from 1 to {n - 1:,}")
    return size
