"""Exact activation patching: each node's output is replaced by the corrupt run's at all positions and the rest is recomputed.

    score(node) = M(only this node ablated) - M(clean)

One forward a node from the node's layer on, heads and MLP of a layer in one batch: (n_layers + 1) / 2 forwards for each kind of node.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.circuits.ablation import ablated_metric, clean_metric, passes, resample
from interp.circuits.graph import Graph, Scores
from interp.models.bridge import Model
from interp.progress import bar
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Exact:
    """Ablate one node at a time."""

    NAME: ClassVar[str] = "exact"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph) -> Scores:
        """Measured change of the metric when each node is resampled from the corrupt run."""
        kept = ~torch.eye(len(graph.nodes), dtype=torch.bool)
        with bar(round(passes(graph, kept)), "passes", f"exact patching of {len(graph.nodes)} nodes") as progress:
            metric = ablated_metric(model, task, pairs, graph, kept, resample(model, graph, pairs), progress)
        return Scores(graph.nodes, (metric - clean_metric(model, task, pairs).cpu()).T.contiguous())
