"""How well a dictionary rebuilds activations: FVU, L0, dead and dense share."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.evals.bootstrap import Estimate, estimate
from saes.architectures import Module

# A latent active on more than a tenth of all tokens says little about any.
DENSE = 0.1


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Sums per sequence over the tokens that count."""

    error: Float[np.ndarray, "seq site"]
    """Squared reconstruction error at each site that is written."""
    variance: Float[np.ndarray, "seq site"]
    """Squared distance from the mean activation of all tokens that count."""
    active: Float[np.ndarray, " seq"]
    """Active latents."""
    tokens: Float[np.ndarray, " seq"]
    fired: Int[np.ndarray, " d_dict"]
    """Tokens on which each latent is active."""

    def table(self) -> dict[str, Estimate]:
        """fvu (global: total error over total variance, averaged over sites), l0, dead_share, dense_share."""
        n_sites = self.error.shape[1]
        sums = {"active": self.active, "tokens": self.tokens}
        sums |= {f"error {i}": self.error[:, i] for i in range(n_sites)} | {f"variance {i}": self.variance[:, i] for i in range(n_sites)}
        n = len(self.tokens)
        dead, dense = self.fired == 0, self.fired > DENSE * self.tokens.sum()
        return {
            "fvu": estimate(sums, lambda s: sum(s[f"error {i}"] / s[f"variance {i}"] for i in range(n_sites)) / n_sites),
            "l0": estimate(sums, lambda s: s["active"] / s["tokens"]),
            "dead_share": _share(dead, n),
            "dense_share": _share(dense, n),
        }


class Accumulator:
    """One pass over (what is read, what should be written, which tokens count); means come from running sums, nothing is read twice."""

    def __init__(self, dictionary: Module, n_sites: int = 1) -> None:
        self.dictionary, self.n_sites = dictionary, n_sites
        self.parts: list[tuple[Tensor, ...]] = []
        self.fired = torch.zeros(dictionary.d_dict, dtype=torch.int64)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "seq pos d_in"], y: Float[Tensor, "seq pos d_out"], keep: Bool[Tensor, "seq pos"]) -> None:
        """Add some sequences."""
        rows, y = x.float().flatten(0, 1), y.float()
        code = self.dictionary.encode_sparse(rows)
        gap = y - self.dictionary.reconstruct(rows, code).view_as(y)
        error = gap.square().unflatten(-1, (self.n_sites, -1)).sum(-1) * keep[..., None]
        active = (code.values > 0).view(*keep.shape, -1) & keep[..., None]
        self.fired += torch.bincount(code.indices.view_as(active)[active], minlength=self.dictionary.d_dict).cpu()
        kept = y.double() * keep[..., None]
        square = kept.square().unflatten(-1, (self.n_sites, -1)).sum((1, 3))
        parts = (error.double().sum(1), square, kept.sum(1), active.sum((1, 2)).double(), keep.sum(1).double())
        self.parts.append(tuple(part.cpu() for part in parts))

    def result(self) -> Reconstruction:
        """What has been summed."""
        error, square, total, active, tokens = (torch.cat(column) for column in zip(*self.parts, strict=True))
        mean = (total.sum(0) / tokens.sum()).unflatten(0, (self.n_sites, -1))
        # sum |y - m|^2 = sum |y|^2 - 2 m . sum y + n |m|^2, per sequence and site
        along = torch.einsum("nsd,sd->ns", total.unflatten(1, (self.n_sites, -1)), mean)
        variance = square - 2 * along + tokens[:, None] * mean.square().sum(1)
        return Reconstruction(error.numpy(), variance.numpy(), active.numpy(), tokens.numpy(), self.fired.numpy())


def _share(mask: Bool[np.ndarray, " d_dict"], n: int) -> Estimate:
    """The share of latents, with its Wilson interval over latents."""
    p, z, size = float(mask.mean()), 1.96, len(mask)
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * (p * (1 - p) / size + z * z / (4 * size * size)) ** 0.5
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)
