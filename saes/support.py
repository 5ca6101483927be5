"""Where a code may differ from 0, with the pre-activations there: what a loss is written on, once for sparse and for dense products.

`Listed` holds (token, latent) pairs, and everything but the encoder's product costs in proportion to their number. `Full` holds every
latent of every token: plain dense products, faster while many latents are active, and on a GPU where counting pairs would wait for it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.kernels import autograd, products
from saes.kernels.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Listed:
    """Pre-activations at pairs."""

    pre: Float[Tensor, " n"]
    pairs: Pairs

    def of_latent(self, values: Float[Tensor, " d_dict"]) -> Float[Tensor, " n"]:
        """A value of each latent, wherever that latent stands."""
        return values.index_select(0, self.pairs.latents)

    def per_token(self, values: Float[Tensor, " n"]) -> Float[Tensor, " batch"]:
        """Sums over the latents of each token."""
        return products.token_sums(values, self.pairs)

    def per_latent(self, values: Float[Tensor, " n"]) -> Float[Tensor, " d_dict"]:
        """Sums over the tokens of each latent."""
        return products.latent_sums(values, self.pairs)

    def decode(self, code: Float[Tensor, " n"], rows: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, "batch d_out"]:
        """What the code writes with these rows."""
        return autograd.decode(code, self.pairs, rows)

    def nested(
        self, code: Float[Tensor, " n"], rows: Float[Tensor, "d_dict d_out"], ends: tuple[int, ...]
    ) -> Float[Tensor, "batch prefix d_out"]:
        """What the latents before each end write: one decode whose bags are (token, block of latents), then running sums over blocks."""
        device, n = code.device, len(ends)
        # Compared with numbers: a tensor of the ends would be copied to the device, which waits.
        block = torch.stack([self.pairs.latents >= end for end in ends]).sum(0)
        bags, order = (self.pairs.tokens * n + block).int().sort(stable=True)
        starts = torch.searchsorted(bags, torch.arange(self.pairs.n_tokens * n + 1, dtype=torch.int32, device=device))
        parts = autograd.decode(code[order], Pairs(self.pairs.latents[order], starts, self.pairs.d_dict), rows)
        return parts.view(self.pairs.n_tokens, n, rows.shape[1]).cumsum(1)


@dataclass(frozen=True, eq=False)
class Full:
    """Pre-activations of all latents."""

    pre: Float[Tensor, "batch d_dict"]

    def of_latent(self, values: Float[Tensor, " d_dict"]) -> Float[Tensor, "batch d_dict"]:
        """A value of each latent, at every token."""
        return values.expand_as(self.pre)

    def per_token(self, values: Float[Tensor, "batch d_dict"]) -> Float[Tensor, " batch"]:
        """Sums over the latents of each token."""
        return values.sum(1)

    def per_latent(self, values: Float[Tensor, "batch d_dict"]) -> Float[Tensor, " d_dict"]:
        """Sums over the tokens of each latent."""
        return values.sum(0)

    def decode(self, code: Float[Tensor, "batch d_dict"], rows: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, "batch d_out"]:
        """What the code writes with these rows."""
        return (code @ rows).to(code.dtype)

    def nested(
        self, code: Float[Tensor, "batch d_dict"], rows: Float[Tensor, "d_dict d_out"], ends: tuple[int, ...]
    ) -> Float[Tensor, "batch prefix d_out"]:
        """What the latents before each end write."""
        sizes = [end - start for start, end in zip((0, *ends), ends, strict=False)]
        parts = [c @ r for c, r in zip(code.split(sizes, 1), rows.split(sizes), strict=True)]
        return torch.stack(parts, 1).cumsum(1)


Support = Listed | Full
