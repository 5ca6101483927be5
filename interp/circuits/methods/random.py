"""Random scores: the order that knows nothing, which every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.models.bridge import Model
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Random:
    """Standard normal scores, the same for each example."""

    NAME: ClassVar[str] = "random"
    ABOUT: ClassVar[str] = "draws scores at random"
    EFFECTS: ClassVar[bool] = False

    unit: Unit = "node"
    """Order nodes or edges."""
    order: int = 0
    """Number of the order."""

    @property
    def UNIT(self) -> Unit:
        return self.unit

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """An order that depends on its number alone."""
        return shuffled(graph, self.unit, self.order, len(pairs))


def shuffled(graph: Graph, unit: Unit, seed: int, n: int = 1) -> Scores:
    """Random scores of all nodes or edges."""
    count = len(graph.nodes) if unit == "node" else graph.n_edges
    mean = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return Scores(graph, unit, mean, torch.zeros(count), torch.ones(count), n)
