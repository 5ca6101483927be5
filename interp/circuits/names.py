"""Names of what writes to the residual stream and of what reads it, and every edge that a model of a given shape can have.

A source writes: `embed`, `pos`, head `9.6`, MLP `m3`. A destination reads: `9.6.q`, `9.6.k`, `9.6.v`, `m3`, `logits`; with shared keys
`9.g1.k` and `9.g1.v` are read once for a group of query heads. An edge is a pair (source, destination). ACDC (Conmy et al. 2023) counts
three edges more for each head, from the input of q, k and v to the q, k or v itself: a *direct* edge, written (`9.6.q`, `9.6.q`).
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from saes.errors import InputError

Edge = tuple[str, str]
Kind = Literal["embed", "head", "input", "mlp", "logits"]
_NAME = re.compile(r"(?P<layer>\d+)\.(?P<head>\d+)(\.(?P<input>[qkv]))?|(?P<of>\d+)\.g(?P<group>\d+)\.(?P<shared>[kv])|m(?P<mlp>\d+)")


@dataclass(frozen=True)
class Name:
    """A name taken apart."""

    kind: Kind
    layer: int | None
    """None for `embed`, `pos` and `logits`."""
    head: int | None = None
    """The head, or the group of heads for shared keys and values."""
    input: str | None = None
    """q, k or v of an attention input."""


@cache
def parse(name: str) -> Name:
    """The parts of a name; raises InputError for what is none."""
    if name in ("embed", "pos"):
        return Name("embed", None)
    if name == "logits":
        return Name("logits", None)
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name!r} names no node; write embed, pos, 9.6, 9.6.q, 9.g1.k, m3 or logits")
    if found["mlp"]:
        return Name("mlp", int(found["mlp"]))
    if found["shared"]:
        return Name("input", int(found["of"]), int(found["group"]), found["shared"])
    return Name("input" if found["input"] else "head", int(found["layer"]), int(found["head"]), found["input"])


def owner(name: str) -> str:
    """The node that a destination belongs to: `9.6` for `9.6.q`; anything else is its own."""
    parts = parse(name)
    return name.rsplit(".", 1)[0] if parts.kind == "input" else name


def is_direct(edge: Edge) -> bool:
    """Whether an edge only leads from the input of q, k or v to that q, k or v."""
    return edge[0] == edge[1]


def touches_mlp(edge: Edge) -> bool:
    """Whether one end is an MLP."""
    return any(name.startswith("m") for name in edge)


def edge_order(edge: Edge) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sort key: by destination, then source, each in the order of the model."""
    return _place(edge[1]), _place(edge[0])


def _place(name: str) -> tuple[float, ...]:
    parts = parse(name)
    if parts.layer is None:
        return (("embed", "pos").index(name) - 2.0,) if parts.kind == "embed" else (float("inf"),)
    return float(parts.layer), float(parts.kind == "mlp"), float(parts.head or 0), float("qkv".index(parts.input or "q"))


@dataclass(frozen=True)
class Shape:
    """What of a model decides which edges it can have."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlps: bool = True
    positions_apart: bool = False
    """Token and position embeddings are two sources, `embed` and `pos`."""
    parallel: bool = False
    """The MLP of a layer does not read the heads of that layer."""

    def sources(self) -> tuple[str, ...]:
        """Everything that writes, in the order of the model."""
        embeddings = ("embed", "pos") if self.positions_apart else ("embed",)
        return (*embeddings, *(name for layer in range(self.n_layers) for name in self._writers(layer)))

    def destinations(self, grouped: bool = False) -> tuple[str, ...]:
        """Everything that reads, in the order of the model; `grouped` names shared keys and values once for their group."""
        return (*(name for layer in range(self.n_layers) for name in self._readers(layer, grouped)), "logits")

    def edges(self, grouped: bool = False) -> tuple[Edge, ...]:
        """All residual edges: from a source to every destination that runs later."""
        sources = [(name, self._step(name)) for name in self.sources()]
        ends = [(name, self._step(name)) for name in self.destinations(grouped)]
        return tuple((source, to) for to, end in ends for source, step in sources if step < end)

    def direct(self, grouped: bool = False) -> tuple[Edge, ...]:
        """The direct edges that ACDC counts besides."""
        return tuple((to, to) for to in self.destinations(grouped) if parse(to).kind == "input")

    def legal(self, edge: Edge) -> bool:
        """Whether the source runs before the destination."""
        return self._step(edge[0]) < self._step(edge[1])

    def _step(self, name: str) -> float:
        parts = parse(name)
        if parts.layer is None:
            return -1.0 if parts.kind == "embed" else float("inf")
        return 2.0 * parts.layer + (parts.kind == "mlp" and not self.parallel)

    def _writers(self, layer: int) -> list[str]:
        return [f"{layer}.{head}" for head in range(self.n_heads)] + [f"m{layer}"] * self.mlps

    def _readers(self, layer: int, grouped: bool) -> list[str]:
        queries = [f"{layer}.{head}.q" for head in range(self.n_heads)]
        heads = (
            [f"{layer}.g{group}" for group in range(self.n_kv_heads)] if grouped else [f"{layer}.{head}" for head in range(self.n_heads)]
        )
        return queries + [f"{head}.{side}" for side in "kv" for head in heads] + [f"m{layer}"] * self.mlps
