"""Random scores: the order that knows nothing, which every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.circuits.graph import Graph, Scores
from interp.models.bridge import Model
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Random:
    """Standard normal scores, the same for each example."""

    NAME: ClassVar[str] = "random"

    seed: int = 0
    """Seed of the order."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph) -> Scores:
        """An order of the nodes that depends on the seed alone."""
        scores = torch.randn(len(graph.nodes), generator=torch.Generator().manual_seed(self.seed))
        return Scores(graph.nodes, scores.expand(len(pairs), -1))
