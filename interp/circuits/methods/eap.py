"""Edge attribution patching: every edge from two forwards and one backward (Syed et al. 2023, arXiv:2310.10348), or along a path of
integrated gradients (Hanna et al. 2024, arXiv:2403.17806).

    s(u -> t) = sum_N <a_u - y_u, G_t>

a_u - y_u is what ablation adds to the output of u, G_t the gradient at what t reads (`pullback`). The differences do not depend on the
point of the path, so the gradients of all points are added before the one contraction.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Outputs, outputs, seen
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.pullback import TOLERANCE, Backward, Reader, backward, of_nodes
from interp.circuits.rules import relevance
from interp.hooks import record
from interp.models.bridge import Hook, Model
from interp.sites import Site
from interp.tasks import Pairs, Task
from saes.errors import InputError

Rule = Literal["midpoint", "left", "right", "gauss"]
# Rows of one backward: activations and gradients of every stream are held.
ROWS = 64
# Bytes of what all sources write for one group of pairs.
SOURCE_BYTES = 800_000_000


@dataclass(frozen=True)
class Eap:
    """Edge attribution patching: gradient at the clean prompts times difference."""

    NAME: ClassVar[str] = "eap"
    ABOUT: ClassVar[str] = "estimates the effect of ablating each edge from one gradient"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Predicted change of the metric when each edge is ablated."""
        return _scores(graph, pairs, lambda some, part: _along_inputs(model, task, some, graph, values.rows(part), (0.0,)), model)


@dataclass(frozen=True)
class EapIg:
    """EAP along a path: from the clean input, or from each source's own output, to what replaces it."""

    NAME: ClassVar[str] = "eap-ig"
    ABOUT: ClassVar[str] = "estimates the effect of ablating each edge from gradients along the way from corrupt to clean embeddings"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    steps: int = 5
    """Points of the path."""
    rule: Rule = "midpoint"
    """Where the points lie. midpoint: the middles of equal parts. left, right: their ends (left is what EAP-IG's code does). gauss:
    Gauss-Legendre."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: a path needs at least one point")

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Predicted change of the metric when each edge is ablated, gradients averaged between the two inputs."""
        points, weights = path(self.steps, self.rule)
        return _scores(graph, pairs, lambda some, part: _along_inputs(model, task, some, graph, values.rows(part), points, weights), model)

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: a forward and a backward of two each point."""
        return 2 + 3.0 * self.steps


@dataclass(frozen=True)
class EapIgActivations:
    """EAP along the path of each source's own output, all others as they follow from it."""

    NAME: ClassVar[str] = "eap-ig-activations"
    ABOUT: ClassVar[str] = "estimates the effect of ablating each edge from gradients along the way from ablated to clean activations"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    steps: int = 5
    """Points of the path."""
    rule: Rule = "midpoint"
    """Where the points lie: midpoint, left, right or gauss."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Predicted change of the metric when each edge is ablated; `steps` forwards and backwards for every source."""
        points, weights = path(self.steps, self.rule)
        return _scores(graph, pairs, lambda some, part: _along_outputs(model, task, some, graph, values.rows(part), points, weights), model)

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: every source has its own path."""
        return 2 + 3.0 * self.steps * len(graph.sources)


@dataclass(frozen=True)
class RelP:
    """EAP with the backward rules of relevance patching (Jafari et al. 2025, arXiv:2508.21258): norms and attention patterns are held
    constant, an activation passes x * constant, and each factor of a gate takes half."""

    NAME: ClassVar[str] = "relp"
    ABOUT: ClassVar[str] = "estimates the effect of ablating each edge with the propagation rules of relevance"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Relevance times difference for each edge."""
        with relevance(model):
            return _scores(
                graph, pairs, lambda some, part: _along_inputs(model, task, some, graph, values.rows(part), (0.0,), frozen_norm=True), model
            )


def path(steps: int, rule: Rule) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Points in [0, 1], 0 the clean end, and their weights, which add to 1."""
    if rule == "gauss":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist())
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return tuple((i + shift) / steps for i in range(steps)), (1 / steps,) * steps


def _scores(graph: Graph, pairs: Pairs, score: Callable[[Pairs, slice], Tensor], model: Model) -> Scores:
    """Scores of all pairs, some at a time."""
    element = torch.empty(0, dtype=model.dtype).element_size()
    per_pair = len(graph.sources) * pairs.clean.shape[1] * model.d_model * element
    size = max(1, min(ROWS, SOURCE_BYTES // per_pair))
    found = []
    source, destination = graph.edges.T
    for first in range(0, len(pairs), size):
        part = slice(first, first + size)
        found.append(score(pairs.rows(part), part)[:, source, destination].float().cpu())
    return Scores.of(graph, "edge", torch.cat(found))


def _along_inputs(
    model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs, points: tuple[float, ...], weights: tuple[float, ...] = (1.0,),
    frozen_norm: bool = False,
) -> Float[Tensor, "pair source destination"]:  # fmt: skip
    """Gradients at points between the clean input and its replacement, added, times the differences at the clean point."""
    # At the clean prompts alone the pass that has the gradients has the outputs too.
    at_clean = backward(model, task, pairs, graph) if points == (0.0,) else None
    own = outputs(model, graph, pairs.clean) if at_clean is None else seen(model, graph, at_clean.values)
    away = values.minus(own)
    clean, moved = own.embed.sum(0), away.embed.sum(0)
    reader = Reader(model, graph, frozen_norm)
    positions = _positions(away, pairs)
    total = _Contraction(model, graph, away, positions)
    for chunk in _chunks(len(points), max(1, ROWS // len(pairs))):
        back = at_clean or backward(model, task, pairs, graph, torch.cat([clean + points[i] * moved for i in chunk]))
        total.add(reader, back, [weights[i] for i in chunk])
    return total.result()


class _Contraction:
    """Adds gradients of destinations over the points of a path, then meets them once with the differences of sources."""

    def __init__(self, model: Model, graph: Graph, away: Outputs, positions: slice) -> None:
        self.model, self.graph, self.positions = model, graph, positions
        self.difference = _at(away, positions).written(model, graph).transpose(0, 1).flatten(2)
        self.away = away
        self.gradients: list[Tensor] = []
        self.nodes: list[Tensor] = []

    def add(self, reader: Reader, back: Backward, weights: list[float]) -> None:
        """Gradients of rows [point * pair]."""
        layers = range(self.graph.n_layers)
        found = [*(reader(back, layer, self.positions) for layer in layers), reader.logits(back, self.positions)]
        scale = torch.tensor(weights, device=found[0].device, dtype=found[0].dtype)
        added = [
            g if len(weights) == 1 == scale[0] else torch.einsum("tibpe,i->tbpe", g.unflatten(1, (len(weights), -1)), scale) for g in found
        ]
        self.gradients = [a + b for a, b in zip(self.gradients, added, strict=True)] if self.gradients else added
        own = of_nodes(self.graph, self.away, back).unflatten(0, (len(weights), -1))
        self.nodes.append(torch.einsum("ibn,i->bn", own, scale))

    def result(self) -> Float[Tensor, "pair source destination"]:
        """Scores; raises AssertionError where those of a source do not add up to its own."""
        out = self.difference.new_zeros(len(self.difference), *self.graph.valid.shape)
        start = 0
        for gradient in self.gradients:
            stop = start + len(gradient)
            n = int(self.graph.reach[stop - 1])
            read = gradient.transpose(0, 1).flatten(2)
            out[:, :n, start:stop] = torch.bmm(self.difference[:, :n], read.transpose(1, 2))
            start = stop
        out = out * self.graph.valid.to(out)
        self._require_sums(out)
        return out

    def _require_sums(self, out: Float[Tensor, "pair source destination"]) -> None:
        nodes, summed = torch.stack(self.nodes).sum(0), out.sum(2)[:, self.graph.n_embeddings :]
        off = float((nodes - summed).norm() / nodes.norm().clamp(min=1e-30))
        assert off < TOLERANCE[self.model.dtype], f"edge scores add up to their node's within {off:.2%} only"


def _along_outputs(
    model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs, points: tuple[float, ...], weights: tuple[float, ...]
) -> Float[Tensor, "pair source destination"]:
    """For each source the gradients along its own path, met with its own difference."""
    away = values.minus(outputs(model, graph, pairs.clean))
    positions = _positions(away, pairs)
    written = _at(away, positions).written(model, graph)
    clean = record(model, pairs.clean, [Site(0, "resid_pre")])[Site(0, "resid_pre")]
    out = written.new_zeros(len(pairs), *graph.valid.shape)
    reader = Reader(model, graph)
    scale = torch.tensor(weights, device=out.device, dtype=out.dtype)
    for source, site, step in _moves(graph, away):
        for chunk in _chunks(len(points), max(1, ROWS // len(pairs))):
            at = torch.tensor([points[i] for i in chunk], device=out.device, dtype=out.dtype)
            back = backward(model, task, pairs, graph, clean.repeat(len(chunk), 1, 1), {site: _moved(step, at)})
            for layer in range(0 if site.stream == "resid_pre" else site.layer, graph.n_layers + 1):
                read = reader.logits(back, positions) if layer == graph.n_layers else reader(back, layer, positions)
                columns = slice(graph.first_destination(layer), graph.first_destination(layer) + len(read))
                read = torch.einsum("tibpe,i->tbpe", read.unflatten(1, (len(chunk), -1)), scale[list(chunk)])
                out[:, source, columns] += torch.einsum("bpe,tbpe->bt", written[source], read)
    return out * graph.valid.to(out)


def _moves(graph: Graph, away: Outputs) -> Iterator[tuple[int, Site, Tensor]]:
    """Each source with its site and the whole way to its replacement."""
    for i in range(graph.n_embeddings):
        yield i, Site(0, "resid_pre"), away.embed[i]
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            step = torch.zeros_like(away.z[layer])
            step[:, :, head] = away.z[layer][:, :, head]
            yield graph.first_source(layer) + head, Site(layer, "z"), step
        if graph.mlps:
            yield graph.first_source(layer) + graph.n_heads, Site(layer, "mlp_out"), away.mlp[layer]


def _moved(step: Tensor, at: Float[Tensor, " point"]) -> Hook:
    """Rows [point * pair] moved by shares of the step."""

    def hook(activation: Tensor) -> Tensor:
        rows = activation.unflatten(0, (len(at), -1))
        return (rows + at.reshape(-1, *[1] * step.ndim) * step).flatten(0, 1)

    return hook


def _positions(away: Outputs, pairs: Pairs) -> slice:
    """From the first position where some source changes to the last that is read."""
    moved = torch.stack([part.flatten(2).any(2).any(0) for part in (away.embed.flatten(0, 1), *away.z, *away.mlp)]).any(0)
    first = int(moved.int().argmax()) if bool(moved.any()) else 0
    return slice(first, int(pairs.end.max()) + 1)


def _at(away: Outputs, positions: slice) -> Outputs:
    """The outputs at these positions."""
    return Outputs(away.embed[:, :, positions], *(tuple(one[:, positions] for one in part) for part in (away.z, away.mlp)))


def _chunks(n: int, size: int) -> list[range]:
    return [range(first, min(n, first + size)) for first in range(0, n, size)]
