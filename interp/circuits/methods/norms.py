"""Baselines that look at activations alone: how large an output is, and how far ablation moves it.

    magnitude          |y_u|
    difference-norm    |mean over pairs of (a_u - y_u)|

Neither knows the metric. A method that does not beat them has not found a circuit (methods that learn from differences of activations, such
as discrete codes, are held against the second).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.models.bridge import Model
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Magnitude:
    """Norm of what a node writes."""

    NAME: ClassVar[str] = "magnitude"
    ABOUT: ClassVar[str] = "takes minus the norm of what each node writes, whatever the task"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "node"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the norm of each node's output, averaged over real positions."""
        own = outputs(model, graph, pairs.clean)
        return Scores.of(graph, "node", -_mean_over_positions(model, graph, own, pairs).norm(dim=-1).T.float())


@dataclass(frozen=True)
class DifferenceNorm:
    """Norm of the mean difference that ablation makes to a node's output."""

    NAME: ClassVar[str] = "difference-norm"
    ABOUT: ClassVar[str] = "takes minus the norm of what ablation changes, whatever the task"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "node"

    paired: bool = False
    """Take the norm of each pair's difference and average, in place of the norm of the mean difference."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the norm for each node, outputs averaged over real positions."""
        away = _mean_over_positions(model, graph, values.minus(outputs(model, graph, pairs.clean)), pairs)
        if self.paired:
            return Scores.of(graph, "node", -away.norm(dim=-1).T.float())
        found = -away.mean(1).norm(dim=-1).float().cpu()
        return Scores(graph, "node", found, torch.zeros_like(found), torch.ones_like(found), len(pairs))


def _mean_over_positions(model: Model, graph: Graph, written: Outputs, pairs: Pairs) -> Float[Tensor, "node pair d_model"]:
    share = pairs.real() / pairs.real().sum(1, keepdim=True)
    found = []
    for layer in range(graph.n_layers):
        pooled = torch.einsum("bphd,bp->bhd", written.z[layer], share.to(written.z[layer]))
        found.append(torch.einsum("bhd,hde->hbe", pooled, model.w_o(layer)))
        if graph.mlps:
            found.append(torch.einsum("bpe,bp->be", written.mlp[layer], share.to(written.mlp[layer]))[None])
    return torch.cat(found)
