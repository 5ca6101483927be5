"""Data whose features are known, and how many of them a dictionary has found: ground truth that a refactoring cannot quietly lose.

    x = sum_i c_i f_i + noise        f_i random directions of length 1, more of them than dimensions;    c_i > 0 on a few, 0 elsewhere

Recovery is judged by cosines of directions with features: the mean over features of the best one-to-one match (MCC), and the share of
features whose match is above a bound.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saes.errors import InputError

FOUND = 0.9


@dataclass(frozen=True)
class Planted:
    """A source of vectors with known features, the same for the same seed."""

    kind: Literal["features", "centres", "sites", "layers"] = "features"
    """features: sums of a few features. centres: one feature at a time. sites: two sites side by side that share the code. layers: what two
    layers read, and what they write: each feature a direction of its own in its layer and all later ones."""
    d: int = 64
    """Dimensions of a site."""
    n: int = 128
    """Features; of a layer, where there are layers."""
    active: float = 4.0
    """Active features an input, on average."""
    noise: float = 0.02
    """Standard deviation of the noise in each dimension."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.active < self.n:
            raise InputError(f"active={self.active} of n={self.n} features is no sparse code; choose a number between 0 and {self.n}")

    @property
    def parts(self) -> int:
        """Sites, or layers, side by side."""
        return 2 if self.kind in ("sites", "layers") else 1

    @property
    def n_features(self) -> int:
        return self.n * (2 if self.kind == "layers" else 1)

    def reads(self) -> Float[Tensor, "n_features d_in"]:
        """The direction of each feature in x."""
        if self.kind == "layers":
            blocks = [self._directions(self.n, 1, layer) for layer in range(2)]
            return torch.block_diag(*blocks)
        return self._directions(self.n, self.parts, 0)

    def writes(self) -> Float[Tensor, "n_features d_out"]:
        """The direction of each feature in y; x is y but for layers."""
        if self.kind != "layers":
            return self.reads()
        first, second = self._directions(self.n, 2, 2), self._directions(self.n, 1, 3)
        return torch.cat([first, F.pad(second, (self.d, 0))])

    def batch(self, size: int, step: int) -> tuple[Float[Tensor, "size d_in"], Float[Tensor, "size d_out"]]:
        """The inputs and targets of a step."""
        generator = self._generator(1000 + step)
        code = self._code(size, generator)
        x = code @ self.reads()
        y = x if self.kind != "layers" else code @ self.writes()
        noisy = x + self.noise * torch.randn(x.shape, generator=generator)
        return noisy, noisy if y is x else y + self.noise * torch.randn(y.shape, generator=generator)

    def _code(self, size: int, generator: torch.Generator) -> Float[Tensor, "size n_features"]:
        strength = 0.5 + torch.rand(size, self.n_features, generator=generator)
        if self.kind == "centres":
            which = torch.randint(self.n, (size,), generator=generator)
            return F.one_hot(which, self.n).float()
        return strength * (torch.rand(strength.shape, generator=generator) < self.active / self.n)

    def _directions(self, n: int, parts: int, stream: int) -> Float[Tensor, "n width"]:
        return F.normalize(torch.randn(n, parts * self.d, generator=self._generator(stream)), dim=1)

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + stream)


@dataclass(frozen=True)
class Recovery:
    """How well directions match features."""

    mcc: float
    """Mean cosine of each feature with the direction that it is matched with, one to one."""
    found: float
    """Share of features whose match has a cosine of at least `FOUND`."""


def recovery(directions: Float[Tensor, "d_dict d"], features: Float[Tensor, "n d"]) -> Recovery:
    """Match features to directions so that the sum of cosines is largest."""
    cosines = F.normalize(features.double(), dim=1) @ F.normalize(directions.detach().double(), dim=1).t()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    matched = cosines[rows, columns]
    return Recovery(float(matched.sum() / len(features)), float((matched >= FOUND).double().sum() / len(features)))
