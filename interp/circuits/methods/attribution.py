"""Attribution patching (Nanda 2023; Syed et al. 2023, arXiv:2310.10348): all nodes from two forwards and one backward.

    score(node) = <a - y, dM/dy at the clean activation>

summed over positions and width: the first-order prediction of what exact patching measures, so negative means that the node helps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.pullback import backward, of_nodes
from interp.models.bridge import Model
from interp.tasks import Pairs, Task

# Pairs of one backward: activations and gradients of every stream are held.
ROWS = 64


@dataclass(frozen=True)
class Attribution:
    """Gradient times difference."""

    NAME: ClassVar[str] = "attribution"
    ABOUT: ClassVar[str] = "estimates the effect of ablating each node from one gradient"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "node"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Predicted change of the metric when each node is ablated."""
        found = []
        for first in range(0, len(pairs), ROWS):
            part = slice(first, first + ROWS)
            some = pairs.rows(part)
            away = values.rows(part).minus(outputs(model, graph, some.clean))
            found.append(of_nodes(graph, away, backward(model, task, some, graph)).float().cpu())
        return Scores.of(graph, "node", torch.cat(found))
