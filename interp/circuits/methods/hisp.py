"""Head importance score for pruning (Michel et al. 2019, arXiv:1905.10650): the slope of the metric in a gate on each node.

    score(node) = mean over examples of |<a - y, dM/dy>|, divided by the norm of its layer

The absolute value is taken of each example and scores are normalised layer by layer, which is what tells it from attribution patching.
Negative, as scores of nodes that help are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.methods.attribution import Attribution
from interp.models.bridge import Model
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Hisp:
    """Absolute attribution, normalised in each layer."""

    NAME: ClassVar[str] = "hisp"
    ABOUT: ClassVar[str] = "takes absolute gradients in a gate on each node, divided by the norm of its layer"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "node"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the importance of each node."""
        found = Attribution()(model, task, pairs, graph, values).per_example
        assert found is not None, "scores of nodes are kept for each example"
        layer = torch.tensor([node.site.layer for node in graph.nodes])
        squares = torch.zeros(graph.n_layers).index_add_(0, layer, found.abs().mean(0).square())
        return Scores.of(graph, "node", -found.abs() / squares.sqrt()[layer].clamp(min=1e-30))
