"""How a dictionary's code is made from its scores: small frozen values that are saved with it, apart from how it was trained.

`find` lists where a code may differ from 0 (None: nearly everywhere, use dense products), `values` is the code there. `TENSORS` names what
an activation keeps for each latent beside encoder and decoder; `own` holds these by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saes.kernels.pairs import Pairs
from saes.kernels.scores import Scores
from saes.support import Support

Own = Mapping[str, Tensor]
Found = tuple[Float[Tensor, " n"], Pairs] | None


@runtime_checkable
class Choice(Protocol):
    """Where a code may differ from 0: every activation says it, and a loss may look wider."""

    def find(self, scores: Scores, own: Own) -> Found: ...


@dataclass(frozen=True)
class Positive:
    """`z = relu(pre)`: every latent that is positive."""

    TENSORS: ClassVar[tuple[str, ...]] = ()

    def find(self, scores: Scores, own: Own) -> Found:
        return scores.above(torch.zeros_like(scores.norms))

    def values(self, support: Support, own: Own) -> Tensor:
        return support.pre.relu()


@dataclass(frozen=True)
class KLargest:
    """`z = relu(pre)` at the k largest scores of each token (Gao et al. 2024, arXiv 2406.04093)."""

    TENSORS: ClassVar[tuple[str, ...]] = ()

    k: int

    def find(self, scores: Scores, own: Own) -> Found:
        values, indices = scores.largest(self.k)
        return values.flatten(), Pairs.of_rows(indices, scores.d_dict)

    def values(self, support: Support, own: Own) -> Tensor:
        return support.pre.relu()


@dataclass(frozen=True)
class BatchLargest:
    """`z = relu(pre)` at the k B largest scores of a batch of B tokens (Bussmann et al. 2024, arXiv 2412.06410), for training only.

    At most `most` k latents a token. A code that does not depend on its neighbours comes from `Jump`, with a threshold measured at the end.
    """

    TENSORS: ClassVar[tuple[str, ...]] = ()

    k: int
    most: int = 4

    def find(self, scores: Scores, own: Own) -> Found:
        values, indices = scores.largest(min(self.most * self.k, scores.d_dict))
        chosen = largest_of_all(values, self.k * len(scores))
        starts = torch.searchsorted(chosen, torch.arange(len(scores) + 1, device=chosen.device) * values.shape[1])
        return values.flatten()[chosen], Pairs(indices.flatten()[chosen], starts, scores.d_dict)

    def values(self, support: Support, own: Own) -> Tensor:
        return support.pre.relu()


@dataclass(frozen=True)
class Jump:
    """`z = pre` where `pre > threshold`, a threshold of 0 or more for each latent (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

    TENSORS: ClassVar[tuple[str, ...]] = ("threshold",)

    def find(self, scores: Scores, own: Own) -> Found:
        return scores.above(own["threshold"] * scores.norms)

    def values(self, support: Support, own: Own) -> Tensor:
        return torch.where(support.pre > support.of_latent(own["threshold"]), support.pre.relu(), 0)


@dataclass(frozen=True)
class Gate:
    """`z = relu(u exp(r_mag) + b_mag)` where `pre = u + b_gate > 0` (Rajamanoharan et al. 2024, arXiv 2404.16014); b_enc is b_gate."""

    TENSORS: ClassVar[tuple[str, ...]] = ("r_mag", "b_mag")

    def find(self, scores: Scores, own: Own) -> Found:
        return scores.above(torch.zeros_like(scores.norms))

    def values(self, support: Support, own: Own) -> Tensor:
        u = support.pre - support.of_latent(own["b_enc"])
        magnitude = (u * support.of_latent(own["r_mag"].exp()) + support.of_latent(own["b_mag"])).relu()
        return torch.where(support.pre > 0, magnitude, 0)


@dataclass(frozen=True)
class OneHot:
    """1 at the largest score, in the code of arXiv 2405.12522; the last latent, which reads nothing, wins where no other is positive."""

    TENSORS: ClassVar[tuple[str, ...]] = ()

    def find(self, scores: Scores, own: Own) -> Found:
        values, indices = scores.largest(1)
        return values.flatten(), Pairs.of_rows(torch.where(values > 0, indices, scores.d_dict - 1), scores.d_dict)

    def values(self, support: Support, own: Own) -> Tensor:
        return torch.ones_like(support.pre)


Activation = Positive | KLargest | BatchLargest | Jump | Gate | OneHot
ACTIVATIONS: dict[str, type[Activation]] = {kind.__name__: kind for kind in get_args(Activation)}
"""Name to class, derived from the union: the name is what a saved dictionary says."""


def largest_of_all(values: Float[Tensor, "batch m"], n: int) -> Tensor:
    """Flat places of the n largest values, ascending; a number known beforehand, so nothing waits for a device."""
    return values.flatten().float().topk(n, sorted=False).indices.sort().values
