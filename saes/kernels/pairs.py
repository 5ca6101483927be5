"""Which latents of which tokens: the places where a code may differ from 0, token after token, as every sparse kernel reads them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """(token, latent) pairs sorted by token; tokens may have different numbers of them, or none."""

    latents: Int[Tensor, " n"]
    starts: Int[Tensor, " bounds"]
    """The pairs of token b are `starts[b] : starts[b + 1]`; one bound more than tokens."""
    d_dict: int

    @staticmethod
    def of_rows(indices: Int[Tensor, "batch k"], d_dict: int) -> "Pairs":
        """The same number of latents for each token."""
        batch, k = indices.shape
        return Pairs(indices.flatten(), torch.arange(batch + 1, device=indices.device) * k, d_dict)

    @property
    def n_tokens(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def tokens(self) -> Int[Tensor, " n"]:
        """The token of each pair."""
        numbers = torch.arange(self.n_tokens, device=self.latents.device)
        return numbers.repeat_interleave(self.starts.diff(), output_size=len(self.latents))

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " bounds"]]:
        """Order that sorts the pairs by latent, their tokens in that order, and the bounds of each latent's segment.

        A stable sort of 32-bit integers is a radix sort, 0.4 ms for 65,536 pairs on one core. The bounds come from a binary search, which
        needs no device sync. Both weight gradients of a step share them.
        """
        latents, order = self.latents.int().sort(stable=True)
        bounds = torch.searchsorted(latents, torch.arange(self.d_dict + 1, dtype=torch.int32, device=latents.device))
        return order, self.tokens[order], bounds
