"""Nodes of a model, their scores on a task, and the circuits that scores pick.

A node is an attention head (`3.z.5`) or an MLP (`3.mlp_out`): an output that is added to the residual stream. A node's score is the
change of the metric, true or predicted, when that node alone is ablated: **negative means the node helps**. A circuit keeps some nodes of
a graph and ablates its other nodes; what is no node of the graph (embeddings, and the MLPs in a graph of heads) always runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.bridge import Model
from interp.sites import Node, Site

Ranking = Literal["helping", "absolute"]


@dataclass(frozen=True)
class Graph:
    """Nodes that may be kept or ablated, in the order of the model: in each layer the heads, then the MLP."""

    n_layers: int
    nodes: tuple[Node, ...]

    def heads(self) -> "Graph":
        """The graph of the heads alone; its MLPs always run."""
        return Graph(self.n_layers, tuple(node for node in self.nodes if node.site.head is not None))

    def index(self, nodes: Sequence[Node]) -> Int[Tensor, " node"]:
        """Columns of these nodes."""
        place = {node: i for i, node in enumerate(self.nodes)}
        return torch.tensor([place[node] for node in nodes], dtype=torch.long)

    def kept(self, circuits: Sequence[Sequence[Node]]) -> Bool[Tensor, "circuit node"]:
        """A row for each circuit, True at the nodes that it keeps."""
        rows = torch.zeros(len(circuits), len(self.nodes), dtype=torch.bool)
        for row, circuit in zip(rows, circuits, strict=True):
            row[self.index(circuit)] = True
        return rows

    def streams(self) -> tuple[Site, ...]:
        """The activations that the nodes are parts of, each once."""
        return tuple(dict.fromkeys(Site(node.site.layer, node.site.stream) for node in self.nodes))

    def columns(self, stream: Site) -> Int[Tensor, " part"]:
        """Columns of the nodes in that activation, one per head or one for the MLP."""
        return self.index([node for node in self.nodes if (node.site.layer, node.site.stream) == (stream.layer, stream.stream)])


def graph(model: Model) -> Graph:
    """All heads and MLPs of a model."""
    nodes = []
    for layer in range(model.n_layers):
        nodes += [Node(Site(layer, "z", head)) for head in range(model.n_heads)]
        nodes.append(Node(Site(layer, "mlp_out")))
    return Graph(model.n_layers, tuple(nodes))


@dataclass(frozen=True, eq=False)
class Scores:
    """Change of the metric when a node is ablated, for each example."""

    nodes: tuple[Node, ...]
    per_example: Float[Tensor, "pair node"]

    def mean(self) -> Float[Tensor, " node"]:
        return self.per_example.mean(0)

    def among(self, graph: Graph) -> "Scores":
        """The scores of the nodes of a smaller graph."""
        place = {node: i for i, node in enumerate(self.nodes)}
        return Scores(graph.nodes, self.per_example[:, [place[node] for node in graph.nodes]])

    def ranking(self, by: Ranking = "absolute") -> tuple[Node, ...]:
        """All nodes, best first: by |score|, or by how much they help (lowest score first); equal scores in the order of the model."""
        worth = self.mean().abs() if by == "absolute" else -self.mean()
        return tuple(self.nodes[i] for i in worth.sort(descending=True, stable=True).indices.tolist())

    def top(self, n: int, by: Ranking = "absolute") -> tuple[Node, ...]:
        """The first n nodes of the ranking."""
        return self.ranking(by)[:n]
