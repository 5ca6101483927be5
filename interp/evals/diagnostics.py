"""What activations look like before a dictionary is trained on them: the troubles that cost dead latents and wasted runs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Rows that the covariance is taken from.
ROWS = 8192
# Above these a dictionary trained without care goes wrong: most of the norm is a constant (arXiv 2605.31518), or lies in one direction.
MEAN, TOP = 3.0, 0.5


@dataclass(frozen=True)
class Diagnosis:
    """Figures of a sample of activations."""

    mean_to_spread: float
    """|mean| over the root of the total variance. Centring removes it."""
    top_component: float
    """Share of the variance along the first principal component."""
    effective_dimensions: float
    """Participation ratio of the spectrum, (sum l)^2 / sum l^2: how many directions carry the variance."""

    def advice(self) -> list[str]:
        """What to do about it, a sentence each."""
        found = []
        if self.mean_to_spread > MEAN:
            found.append(
                f"the mean is {self.mean_to_spread:.1f} times the spread: training centres it away, and so must whoever uses raw norms"
            )
        if self.top_component > TOP:
            found.append(
                f"one direction holds {self.top_component:.0%} of the variance: check for outlier tokens, and read FVU beside CE recovered"
            )
        return found


@torch.no_grad()
def diagnose(x: Float[Tensor, "tokens d"]) -> Diagnosis:
    """Look at a sample of raw activations."""
    rows = x[:ROWS].double()
    mean = rows.mean(0)
    spectrum = torch.linalg.eigvalsh((rows - mean).T @ (rows - mean) / len(rows)).clamp_min(0)
    total = spectrum.sum()
    return Diagnosis(float(mean.norm() / total.sqrt()), float(spectrum[-1] / total), float(total.square() / spectrum.square().sum()))
