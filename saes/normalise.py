"""Centring and scale: measured once on a sample, used while training, folded into the weights when a dictionary is saved.

    x' = s_x (x - m_x)  with  E|x'|^2 = d_in,        y' = s_y (y - m_y)  with  E|y'|^2 = d_out

Coefficients and learning rates then mean the same for every model and site. A saved dictionary reads and writes raw activations.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.errors import InputError
from saes.sparse import SparseDictionary

# Raw rows that are kept to check a saved dictionary against the trained one.
SAMPLE = 64


@dataclass(frozen=True)
class Normalisation:
    """The two affine maps between raw and normalised activations."""

    mean_x: Float[Tensor, " d_in"]
    scale_x: float
    mean_y: Float[Tensor, " d_out"]
    scale_y: float
    variance: float
    """Total variance of raw y, `E|y - m_y|^2`."""
    sample: Float[Tensor, "rows d_in"]
    """Some raw rows of x."""

    def x(self, raw: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Raw inputs as they are trained on."""
        return _apply(raw, self.mean_x, self.scale_x)

    def y(self, raw: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "*batch d_out"]:
        """Raw targets as they are trained on."""
        return _apply(raw, self.mean_y, self.scale_y)

    def raw_y(self, y: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "*batch d_out"]:
        """Outputs of a trained dictionary in raw units."""
        return y / self.scale_y + self.mean_y.to(y)


def measure(x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Normalisation:
    """Mean and scale of both sides, in float64. Give the same tensor twice for an autoencoder.

    Raises InputError for a sample without variance, with a NaN, or of fewer than two tokens.
    """
    mean_x, variance_x = _moments(x, "x")
    mean_y, variance_y = _moments(y, "y")
    scale_x, scale_y = (x.shape[1] / variance_x) ** 0.5, (y.shape[1] / variance_y) ** 0.5
    sample = x[:: max(1, len(x) // SAMPLE)][:SAMPLE].float().clone()
    return Normalisation(mean_x.float(), scale_x, mean_y.float(), scale_y, variance_y, sample)


@torch.no_grad()
def fold(dictionary: SparseDictionary, norm: Normalisation) -> SparseDictionary:
    """The same function on raw activations, with the same latents and values, in float64.

    Autoencoder (h = x - b_dec, one map for both sides):
        W_enc <- s W_enc        W_dec <- W_dec / s        b_dec <- m + b_dec / s
    Transcoder:
        W_enc <- s_x W_enc      b_enc <- b_enc - s_x m_x W_enc(old)      W_dec <- W_dec / s_y
        W_skip <- (s_x / s_y) W_skip        b_dec <- m_y + (b_dec - s_x W_skip(old) m_x) / s_y
    """
    folded = copy.deepcopy(dictionary).double()
    m_x, m_y, s_x, s_y = norm.mean_x.to(folded.b_dec), norm.mean_y.to(folded.b_dec), norm.scale_x, norm.scale_y
    if dictionary.centred:
        if s_x != s_y or not torch.equal(m_x, m_y):
            raise InputError("an autoencoder has one normalisation, but x and y were measured apart; call measure(x, x)")
    else:
        folded.b_enc.sub_(s_x * (m_x @ folded.W_enc))
    if folded.W_skip is not None:
        folded.b_dec.sub_(s_x * (folded.W_skip @ m_x))
        folded.W_skip.mul_(s_x / s_y)
    folded.W_enc.mul_(s_x)
    folded.W_dec.div_(s_y)
    folded.b_dec.div_(s_y).add_(m_y)
    return folded


def _apply(raw: Tensor, mean: Tensor, scale: float) -> Tensor:
    kind = torch.promote_types(raw.dtype, torch.float32)
    return (raw.to(kind) - mean.to(raw.device, kind)) * scale


def _moments(sample: Tensor, name: str) -> tuple[Tensor, float]:
    if len(sample) < 2:
        raise InputError(f"{len(sample)} tokens of {name} are too few to measure a variance; give at least 2, better 32,768")
    values = sample.double()
    mean = values.mean(0)
    # Centred on what is stored, in float32, so that the measured scale is that of the values trained on.
    variance = float((values - mean.float()).square().sum(1).mean())
    if not 0 < variance < float("inf"):
        raise InputError(f"the sample of {name} has variance {variance}; activations must be finite and must differ from token to token")
    return mean, variance
