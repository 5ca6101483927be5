"""Centring and scale: measured once on a sample, used while training, folded into the weights when a dictionary is saved.

    x' = s_x (x - m_x)  with  E|x'|^2 = d_in,        y' = s_y (y - m_y)  with  E|y'|^2 = d_out

Several sites side by side (`parts`) get a scale each, so that every one has `E|x'_l|^2 = d`. Coefficients and learning rates then mean the
same for every model and site. A saved dictionary reads and writes raw activations: each module folds the maps into its weights.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.errors import InputError

# Raw rows that are kept to check a saved dictionary against the trained one.
SAMPLE = 64


@dataclass(frozen=True)
class Normalisation:
    """The two affine maps between raw and normalised activations."""

    mean_x: Float[Tensor, " d_in"]
    scale_x: Float[Tensor, " d_in"]
    """The same number throughout a part."""
    mean_y: Float[Tensor, " d_out"]
    scale_y: Float[Tensor, " d_out"]
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
        return y / self.scale_y.to(y) + self.mean_y.to(y)


def measure(x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"], parts: int = 1) -> Normalisation:
    """Mean and scale of both sides, in float64. Give the same tensor twice for an autoencoder.

    Raises InputError for a sample without variance, with a NaN, or of fewer than two tokens.
    """
    mean_x, scale_x = _moments(x, "x", parts)
    mean_y, scale_y = (mean_x, scale_x) if y is x else _moments(y, "y", parts)
    return Normalisation(mean_x, scale_x, mean_y, scale_y, _some(x))


def unit(x: Float[Tensor, "tokens d"]) -> Normalisation:
    """The maps that change nothing, for a dictionary that was trained on raw activations such as these."""
    nothing, one = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    return Normalisation(nothing, one, nothing, one, _some(x))


def _some(x: Tensor) -> Tensor:
    return x[:: max(1, len(x) // SAMPLE)][:SAMPLE].float().clone()


def _apply(raw: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    kind = torch.promote_types(raw.dtype, torch.float32)
    return (raw.to(kind) - mean.to(raw.device, kind)) * scale.to(raw.device, kind)


def _moments(sample: Tensor, name: str, parts: int) -> tuple[Tensor, Tensor]:
    if len(sample) < 2:
        raise InputError(f"{len(sample)} tokens of {name} are too few to measure a variance; give at least 2, better 32,768")
    values = sample.double()
    mean = values.mean(0).float()
    # Centred on what is stored, in float32, so that the measured scale is that of the values trained on.
    variance = (values - mean).square().mean(0).view(parts, -1).mean(1)
    if not (variance.isfinite() & (variance > 0)).all():
        raise InputError(
            f"the sample of {name} has variance {variance.tolist()}; activations must be finite and must differ from token to token"
        )
    return mean, variance.rsqrt().float().repeat_interleave(sample.shape[1] // parts)
