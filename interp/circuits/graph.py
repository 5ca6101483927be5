"""The graph of a decoder, the scores of its nodes or edges on a task, and the circuits that scores pick.

A source writes to the residual stream, a destination reads it, before its norm; an edge is a pair of the two.

    source       embed, pos (where tokens and positions are apart), head 9.6, MLP m3
    destination  9.6.q 9.6.k 9.6.v, with grouped queries 9.g1.k 9.g1.v, m3, logits

A circuit is a mask [source, destination] of the edges that it keeps. A node (a head or an MLP) is kept with all edges that leave it. A
score is the change of the metric, true or predicted, when that node or edge alone is ablated: **negative means that it helps**.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.paths import Wiring, owners
from interp.models.bridge import Model
from interp.sites import Node, Site

Ranking = Literal["helping", "absolute"]
Unit = Literal["node", "edge"]
KeyValue = Literal["grouped", "per_query_head"]
# Scores of each example are kept below this many numbers (200 MB); above it, mean and deviation are.
PER_EXAMPLE = 50_000_000


@dataclass(frozen=True)
class Graph:
    """Sources and destinations in the order of the model: in each layer the heads, then the MLP."""

    n_layers: int
    n_heads: int
    n_kv: int
    """Key and value destinations of a layer: key-value heads (grouped), or one for each query head."""
    mlps: bool = True
    parallel: bool = False
    """Whether the MLP of a layer reads the same stream as its heads (GPT-J, NeoX)."""
    pos: bool = False
    """Whether token and position embedding are two sources."""

    @cached_property
    def sources(self) -> tuple[str, ...]:
        return ("embed", *(["pos"] if self.pos else []), *map(short, self.nodes))

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        return (*(name for layer in range(self.n_layers) for name in self._read_in(layer)), "logits")

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Heads and MLPs: what a circuit of nodes keeps or ablates; embeddings always run."""
        layers = range(self.n_layers)
        return tuple(node for i in layers for node in (*_heads(i, self.n_heads), *([Node(Site(i, "mlp_out"))] * self.mlps)))

    @cached_property
    def reach(self) -> Int[Tensor, " destination"]:
        """How many sources each destination can read: they are the first ones."""
        per_layer = self.n_heads + self.mlps
        counts = []
        for layer in range(self.n_layers):
            before = self.n_embeddings + layer * per_layer
            counts += [before] * (self.n_heads + 2 * self.n_kv)
            counts += [before + (0 if self.parallel else self.n_heads)] * self.mlps
        return torch.tensor([*counts, self.n_embeddings + self.n_layers * per_layer])

    @cached_property
    def valid(self) -> Bool[Tensor, "source destination"]:
        """Which pairs are edges."""
        return torch.arange(len(self.sources))[:, None] < self.reach

    @cached_property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """Source and destination of every edge, by destination."""
        return self.valid.T.nonzero().flip(1)

    @cached_property
    def owners(self) -> tuple[tuple[int, ...], ...]:
        """Rows of the sources behind each destination: the head of a query, the heads of a group's key, the MLP; none for logits."""
        place = {name: i for i, name in enumerate(self.sources)}
        behind = owners(self.sources, self.destinations)
        return tuple(tuple(place[name] for name in behind[end]) for end in self.destinations)

    @property
    def n_embeddings(self) -> int:
        return 1 + self.pos

    @property
    def n_edges(self) -> int:
        return int(self.reach.sum())

    def heads(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.site.head is not None)

    def is_head(self) -> Bool[Tensor, " node"]:
        """Which nodes are heads."""
        return torch.tensor([node.site.head is not None for node in self.nodes])

    def first_source(self, layer: int) -> int:
        """Row of the layer's first head; the heads and the MLP follow."""
        return self.n_embeddings + layer * (self.n_heads + self.mlps)

    def first_destination(self, layer: int) -> int:
        """Column of the layer's first query; queries, keys, values and the MLP follow."""
        return layer * (self.n_heads + 2 * self.n_kv + self.mlps)

    def columns(self, site: Site) -> slice:
        """Columns of the destinations that are read at a site: q, k, v of a layer, mlp_in, or the last resid_post."""
        if site.stream == "resid_post":
            return slice(len(self.destinations) - 1, len(self.destinations))
        first, h, k = self.first_destination(site.layer), self.n_heads, self.n_kv
        start, stop = {"q": (0, h), "k": (h, h + k), "v": (h + k, h + 2 * k), "mlp_in": (h + 2 * k, h + 2 * k + 1)}[site.stream]
        return slice(first + start, first + stop)

    def rows(self, site: Site) -> slice:
        """Rows of the sources that are written at a site: z or mlp_out of a layer."""
        first = self.first_source(site.layer)
        return slice(first, first + self.n_heads) if site.stream == "z" else slice(first + self.n_heads, first + self.n_heads + 1)

    def index(self, nodes: Iterable[Node]) -> Int[Tensor, " node"]:
        """Places of nodes in `nodes`."""
        place = {node: i for i, node in enumerate(self.nodes)}
        return torch.tensor([place[node] for node in nodes], dtype=torch.long)

    def keeping(self, circuits: Sequence[Sequence[Node]]) -> Bool[Tensor, "circuit source destination"]:
        """A mask for each list of nodes: they and the embeddings keep all their edges, the other nodes none."""
        kept = torch.zeros(len(circuits), len(self.sources), dtype=torch.bool)
        kept[:, : self.n_embeddings] = True
        for row, circuit in zip(kept, circuits, strict=True):
            row[self.n_embeddings + self.index(circuit)] = True
        return kept[:, :, None] & self.valid

    def connected(self, mask: Bool[Tensor, "*circuit source destination"]) -> Bool[Tensor, "*circuit source destination"]:
        """The edges of circuits that lie on a path from an embedding to the logits; the others change nothing in a resampled run."""
        source, destination = self.edges.T
        flat = mask.reshape(-1, *self.valid.shape)
        found = torch.zeros_like(flat)
        for own, row in zip(flat, found, strict=True):
            kept = own[source, destination].nonzero().flatten().cpu()
            on = torch.from_numpy(self._wiring.on_path(kept.numpy()))
            row[source[kept[on]], destination[kept[on]]] = True
        return found.reshape(mask.shape)

    @cached_property
    def _wiring(self) -> Wiring:
        return Wiring.of(self.sources, self.destinations, *self.edges.T.numpy())

    def _read_in(self, layer: int) -> list[str]:
        heads = [f"{layer}.{h}" for h in range(self.n_heads)]
        groups = heads if self.n_kv == self.n_heads else [f"{layer}.g{g}" for g in range(self.n_kv)]
        return [*(f"{h}.q" for h in heads), *(f"{g}.k" for g in groups), *(f"{g}.v" for g in groups), *([f"m{layer}"] * self.mlps)]


def graph(model: Model, kv: KeyValue = "grouped", pos: bool = False) -> Graph:
    """The graph of a model."""
    n_kv = model.n_kv_heads if kv == "grouped" else model.n_heads
    return Graph(model.n_layers, model.n_heads, n_kv, not model.attn_only, model.parallel, pos)


def short(node: Node) -> str:
    """The short name of a head or an MLP: `9.6`, `m3`."""
    return f"m{node.site.layer}" if node.site.head is None else f"{node.site.layer}.{node.site.head}"


def _heads(layer: int, n: int) -> list[Node]:
    return [Node(Site(layer, "z", head)) for head in range(n)]


@dataclass(frozen=True, eq=False)
class Scores:
    """Change of the metric when a node, or an edge, is ablated: over the examples its mean, deviation and agreement in sign."""

    graph: Graph
    unit: Unit
    mean: Float[Tensor, " unit"]
    """One for each of `graph.nodes` or `graph.edges`."""
    deviation: Float[Tensor, " unit"]
    """Standard deviation over the examples."""
    agreement: Float[Tensor, " unit"]
    """Share of the examples whose score has the sign of the mean."""
    n: int
    per_example: Float[Tensor, "pair unit"] | None = None
    """Kept for nodes, and for edges where there is room."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """What a method says of itself: passes, smallest margin of a decision."""

    @staticmethod
    def of(graph: Graph, unit: Unit, per_example: Float[Tensor, "pair unit"]) -> "Scores":
        """Scores from those of each example."""
        per_example = per_example.detach().cpu()
        mean = per_example.mean(0)
        agreement = (per_example.sign() == mean.sign()).to(mean.dtype).mean(0)
        kept = per_example if per_example.numel() <= PER_EXAMPLE else None
        return Scores(graph, unit, mean, per_example.std(0, correction=min(1, len(per_example) - 1)), agreement, len(per_example), kept)

    def names(self) -> list[str]:
        """`3.5` or `m2` for nodes, `3.5->9.6.q` for edges."""
        if self.unit == "node":
            return [short(node) for node in self.graph.nodes]
        return [f"{self.graph.sources[s]}->{self.graph.destinations[d]}" for s, d in self.graph.edges.tolist()]

    def interval(self) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """95 % normal intervals of the means."""
        half = 1.96 * self.deviation / max(1, self.n) ** 0.5
        return self.mean - half, self.mean + half

    def order(self, by: Ranking = "absolute", among: Bool[Tensor, " unit"] | None = None) -> Int[Tensor, " ranked"]:
        """Units, best first: by |score|, or by how much they help (lowest score first); equal scores in the order of the model."""
        worth = self.mean.abs() if by == "absolute" else -self.mean
        order = worth.sort(descending=True, stable=True).indices
        return order if among is None else order[among[order]]

    def circuits(
        self, sizes: Sequence[int], by: Ranking = "absolute", among: Bool[Tensor, " unit"] | None = None
    ) -> Bool[Tensor, "size source destination"]:
        """The circuits of the first n units, for each n; units outside `among` are kept in all of them."""
        order = self.order(by, among)
        kept = torch.zeros(len(sizes), len(self.mean), dtype=torch.bool) if among is None else ~among.expand(len(sizes), -1).clone()
        for row, n in zip(kept, sizes, strict=True):
            row[order[:n]] = True
        return self.mask(kept)

    def mask(self, kept: Bool[Tensor, "circuit unit"]) -> Bool[Tensor, "circuit source destination"]:
        """Circuits from the units that they keep."""
        if self.unit == "node":
            embeddings = kept.new_ones(len(kept), self.graph.n_embeddings)
            return torch.cat((embeddings, kept), 1)[:, :, None] & self.graph.valid
        masks = torch.zeros(len(kept), *self.graph.valid.shape, dtype=torch.bool)
        source, destination = self.graph.edges.T
        masks[:, source, destination] = kept
        return masks

    def matrix(self) -> Float[Tensor, "source destination"]:
        """Mean scores of edges in place, 0 where there is no edge."""
        assert self.unit == "edge"
        out = self.mean.new_zeros(self.graph.valid.shape)
        out[self.graph.edges[:, 0], self.graph.edges[:, 1]] = self.mean
        return out
