"""What everything downstream relies on: the `Dictionary` protocol, the `Batch` that a loss reads and the `Losses` that it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Normalised activations, and which latents have been silent for long."""

    x: Float[Tensor, "batch d_in"]
    y: Float[Tensor, "batch d_out"]
    """x itself for an autoencoder; another site's activations for a transcoder."""
    dead: Bool[Tensor, " d_dict"]
    """Latents that count as dead unless they fire in this very batch."""
    generator: torch.Generator | None = None
    """The only randomness that a loss may use: its state is part of every checkpoint."""


@dataclass(frozen=True)
class Losses:
    """The terms of a loss by name, each with its coefficient, and what is reported beside them."""

    terms: dict[str, Float[Tensor, ""]]
    active: Float[Tensor, " d_dict"]
    """Tokens of the batch on which each latent is active."""
    metrics: dict[str, Float[Tensor, ""]]
    """Detached means over the tokens of the batch, such as `fvu` and `l0`."""
    revive: Callable[[Bool[Tensor, " d_dict"], torch.Generator], dict[str, Bool[Tensor, "..."]]] | None = None
    """Replace the weights of these dead latents, in place, by something of this batch; returns, by parameter, which rows are new."""

    @property
    def total(self) -> Float[Tensor, ""]:
        return torch.stack(tuple(self.terms.values())).sum()


@runtime_checkable
class Dictionary(Protocol):
    """Vectors to a sparse code and back."""

    d_in: int
    d_out: int
    d_dict: int

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_dict"]: ...

    def decode(self, code: Float[Tensor, "*batch d_dict"]) -> Float[Tensor, "*batch d_out"]: ...

    def directions(self) -> Float[Tensor, "d_dict d_out"]: ...


@runtime_checkable
class Recipe(Protocol):
    """What an architecture is: a frozen dataclass that builds a dictionary, says what it loses, and finishes it."""

    @property
    def k(self) -> int: ...

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> Any: ...

    def loss(self, dictionary: Any, batch: Batch) -> Losses: ...

    def finish(self, dictionary: Any, x: Float[Tensor, "tokens d_in"]) -> None: ...


@runtime_checkable
class StartsFromData(Protocol):
    """An architecture whose dictionaries start from a sample of normalised inputs."""

    def start(self, dictionary: Any, x: Float[Tensor, "tokens d_in"]) -> None: ...
