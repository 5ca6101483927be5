"""Losses of strict interchange-intervention training (InterpBench: Gupta et al. 2024, arXiv:2407.14494), down to single edges.

    L = b CE(M(x), P(x)) + i CE(M(x; c <- x'), P(x; c <- x')) + n CE(M(x; N <- x'), P(x)) + e CE(M(x; E <- x'), P(x))

M the model, P the program; c a node of the circuit or one of its edges, N some nodes that are no part of it, E some edges that are none;
`<- x'` gives them what they write, or carry, on another input. Strictness over nodes alone says nothing of which edges a circuit needs:
a head of it may read from where the program has it read nothing. Each weight multiplies its term once (in the code of InterpBench the
strict weight does so twice, in the loss and in the training step).
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.trained.network import Network, Sizes
from interp.models.trained.programs import UNDEFINED, Program
from saes.dictionary import Batch, Losses


@dataclass(frozen=True)
class Weights:
    """How much each term counts."""

    behaviour: float = 1.0
    interchange: float = 3.0
    strict_node: float = 0.4
    strict_edge: float = 1.0


TERMS = tuple(field.name for field in fields(Weights))


@dataclass(frozen=True)
class Siit:
    """The loss of a program: what `fit` is given."""

    program: Program
    sizes: Sizes
    weights: Weights
    alone: bool = False
    """In every row all edges outside the circuit are cut. A circuit that is trained so at first is there before there are shortcuts."""

    def __call__(self, module: Any, batch: Batch) -> Losses:
        """Terms by name. `batch.x` are token ids, floats because `fit` knows vectors only; the other input of each is its neighbour."""
        network: Network = module
        tokens = batch.x.long()
        other, answers = tokens.roll(1, 0), self.program.answers(tokens)
        assert batch.generator is not None
        logits, written = network(tokens)
        # What replaces is a constant, as an intervention is: a circuit learns to ignore it where it reads, not where it is written.
        away = written.detach().roll(1, 0)
        changed = self.interchanges(len(tokens), batch.generator)
        asked = {
            "interchange": (changed, self.program.answers(tokens, other, self._in_program(changed))),
            "strict_node": (self.stray_nodes(len(tokens), batch.generator), answers),
            "strict_edge": (self.stray_edges(len(tokens), batch.generator), answers),
        }
        cuts = torch.cat([cut for cut, _ in asked.values()])
        found = network(tokens.repeat(len(asked), 1), cuts.to(logits), away.repeat(len(asked), 1, 1, 1))[0].chunk(len(asked))
        pairs = {"behaviour": (logits, answers)}
        pairs |= {name: (own, right) for own, (name, (_, right)) in zip(found, asked.items(), strict=True)}
        terms = {name: getattr(self.weights, name) * _cross_entropy(*pair) for name, pair in pairs.items()}
        metrics = {f"{name}_accuracy": accuracy(*pair) for name, pair in pairs.items()}
        return Losses(terms, torch.full((1,), float(len(tokens))), {**{n: t.detach() for n, t in terms.items()}, **metrics})

    def interchanges(self, n: int, rng: torch.Generator) -> Bool[Tensor, "row source destination"]:
        """In each row one node of the circuit, or one of its edges, carries another input's value; in half of them stray edges do too.

        Alone, an interchange can be answered through edges that strictness takes away later, so the two would pull apart.
        """
        edges = self.place[self.is_circuit]
        sources = edges[:, 0].unique()
        cut = torch.zeros(n, *self.shape, dtype=torch.bool)
        source = sources[torch.randint(len(sources), (n,), generator=rng)]
        cut[torch.arange(n), source] = True
        row, column = edges[torch.randint(len(edges), (n,), generator=rng)].T
        one = torch.zeros_like(cut)
        one[torch.arange(n), row, column] = True
        cut = torch.where(torch.rand(n, 1, 1, generator=rng) < 0.5, one, cut)
        return cut | ((torch.rand(n, 1, 1, generator=rng) < (1.0 if self.alone else 0.5)) & self.stray_edges(n, rng))

    def stray_nodes(self, n: int, rng: torch.Generator) -> Bool[Tensor, "row source destination"]:
        """In each row one node that is no part of the circuit, or several of them."""
        inside = {source for source, _ in self.program.edges}
        outside = torch.tensor([i for i, name in enumerate(self.sizes.sources) if name not in inside])
        cut = torch.zeros(n, *self.shape, dtype=torch.bool)
        cut[:, outside] = _some(n, len(outside), rng)[:, :, None]
        return cut

    def stray_edges(self, n: int, rng: torch.Generator) -> Bool[Tensor, "row source destination"]:
        """In each row one edge that is no part of the circuit, or several, or all."""
        row, column = self.place[~self.is_circuit].T
        cut = torch.zeros(n, *self.shape, dtype=torch.bool)
        cut[:, row, column] = True if self.alone else _some(n, len(row), rng)
        return cut

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.sizes.sources), len(self.sizes.destinations)

    @cached_property
    def place(self) -> Int[Tensor, "edge 2"]:
        """Row and column of every edge."""
        return torch.tensor([self.sizes.place(edge) for edge in self.sizes.edges])

    @cached_property
    def is_circuit(self) -> Bool[Tensor, " edge"]:
        """Which edges the program names."""
        assert set(self.program.edges) <= set(self.sizes.edges), f"{self.program.name} names edges that a network of {self.sizes} lacks"
        return torch.tensor([edge in self.program.edges for edge in self.sizes.edges])

    def _in_program(self, cut: Bool[Tensor, "row source destination"]) -> dict[tuple[str, str], Bool[Tensor, " row"]]:
        return {edge: cut[:, row, column] for edge in self.program.edges for row, column in [self.sizes.place(edge)]}


def _some(n: int, of: int, rng: torch.Generator) -> Bool[Tensor, "row of"]:
    """In a third of the rows one thing, in a third a random share of them, in a third all."""
    share = torch.rand(n, 1, generator=rng)
    several = torch.rand(n, of, generator=rng) < share
    one = torch.randint(of, (n, 1), generator=rng) == torch.arange(of)
    kind = torch.randint(3, (n, 1), generator=rng)
    return torch.where(kind == 0, one, several | (kind == 2))


def _cross_entropy(logits: Float[Tensor, "row vocab"], answers: Int[Tensor, " row"]) -> Float[Tensor, ""]:
    total = torch.nn.functional.cross_entropy(logits, answers, ignore_index=UNDEFINED, reduction="sum")
    return total / (answers != UNDEFINED).sum().clamp(min=1)


def accuracy(logits: Float[Tensor, "row vocab"], answers: Int[Tensor, " row"]) -> Float[Tensor, ""]:
    """The share of the rows with an answer whose largest logit is that answer."""
    right = (logits.detach().argmax(-1) == answers).sum()
    return right / (answers != UNDEFINED).sum().clamp(min=1)
