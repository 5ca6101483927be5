"""How well a dictionary rebuilds activations: FVU, L0, dead and dense share."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.evals.bootstrap import Estimate, estimate
from saes.sparse import SparseDictionary

# A latent active on more than a tenth of all tokens says little about any.
DENSE = 0.1


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Sums per sequence over the tokens that count."""

    error: Float[np.ndarray, " seq"]
    """Squared reconstruction error."""
    variance: Float[np.ndarray, " seq"]
    """Squared distance from the mean activation of all tokens that count."""
    active: Float[np.ndarray, " seq"]
    """Active latents."""
    tokens: Float[np.ndarray, " seq"]
    fired: Int[np.ndarray, " d_dict"]
    """Tokens on which each latent is active."""

    def table(self) -> dict[str, Estimate]:
        """fvu (global: total error over total variance), l0, dead_share, dense_share."""
        sums = {"error": self.error, "variance": self.variance, "active": self.active, "tokens": self.tokens}
        n = len(self.tokens)
        dead, dense = self.fired == 0, self.fired > DENSE * self.tokens.sum()
        return {
            "fvu": estimate(sums, lambda s: s["error"] / s["variance"]),
            "l0": estimate(sums, lambda s: s["active"] / s["tokens"]),
            "dead_share": _share(dead, n),
            "dense_share": _share(dense, n),
        }


@torch.no_grad()
def reconstruction(
    dictionary: SparseDictionary, chunks: Iterable[tuple[Float[Tensor, "seq pos d_in"], Bool[Tensor, "seq pos"]]]
) -> Reconstruction:
    """One pass over (activations, which tokens count); the mean comes from running sums, so nothing is read twice."""
    parts, fired = [], torch.zeros(dictionary.d_dict, dtype=torch.int64)
    for activations, keep in chunks:
        x = activations.float()
        code = dictionary.encode_sparse(x.flatten(0, 1))
        error = (x - dictionary.reconstruct(x.flatten(0, 1), code).view_as(x)).square().sum(-1) * keep
        active = (code.values > 0).view(*keep.shape, -1) & keep[..., None]
        fired += torch.bincount(code.indices.view_as(active)[active], minlength=dictionary.d_dict).cpu()
        kept = x.double() * keep[..., None]
        parts.append((error.double().sum(1), kept.square().sum((1, 2)), kept.sum(1), active.sum((1, 2)).double(), keep.sum(1).double()))
    error, square, total, active, tokens = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    mean = total.sum(0) / tokens.sum()
    # sum |x - m|^2 = sum |x|^2 - 2 m . sum x + n |m|^2, per sequence
    variance = square - 2 * total @ mean + tokens * mean.square().sum()
    return Reconstruction(error.numpy(), variance.numpy(), active.numpy(), tokens.numpy(), fired.numpy())


def _share(mask: Bool[np.ndarray, " d_dict"], n: int) -> Estimate:
    """The share of latents, with its Wilson interval over latents."""
    p, z, size = float(mask.mean()), 1.96, len(mask)
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * (p * (1 - p) / size + z * z / (4 * size * size)) ** 0.5
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)
