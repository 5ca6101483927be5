"""Precision, recall and F1 of all codes at once, with intervals that know that tokens of a text are not independent.

Counts come in groups of consecutive sequences. A share is p = Σ t_g / Σ n_g. Its variance between groups, linearised (Cochran 1977,
Sampling Techniques, section 3.12), is G / (G - 1) Σ (t_g - p n_g)² / n². How many times that exceeds p (1 - p) / n is the design effect
(Kish 1965), and n over the design effect is how many independent tokens would say as much. The interval is Wilson's (1927) for that
number. A design effect below 1 counts as 1, so no interval is narrower than if tokens were independent.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# The 97.5 % point of the normal distribution: 95 % intervals.
Z = 1.959964


@dataclass(frozen=True)
class Shares:
    """A share of each code with its 95 % interval; NaN where nothing was counted."""

    value: Float[np.ndarray, " code"]
    low: Float[np.ndarray, " code"]
    high: Float[np.ndarray, " code"]

    def __getitem__(self, codes: Int[np.ndarray, " some"]) -> "Shares":
        return Shares(self.value[codes], self.low[codes], self.high[codes])


def share(part: Int[np.ndarray, "group code"], whole: Int[np.ndarray, "group _"]) -> Shares:
    """`part` of `whole` over all groups; `whole` has one column for each code, or one for all."""
    t, n = part.sum(0), whole.sum(0).astype(float)
    groups = len(part)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = t / n
        between = groups / max(1, groups - 1) * ((part - p * whole) ** 2).sum(0) / n**2
        within = p * (1 - p) / n
        effect = np.where(within > 0, np.maximum(1, between / within), 1)
        low, high = wilson(p, n / effect)
    return Shares(p, low, high)


def wilson(p: Float[np.ndarray, "*code"], n: Float[np.ndarray, "*code"]) -> tuple[Float[np.ndarray, "*code"], Float[np.ndarray, "*code"]]:
    """Bounds of Wilson's interval of a share p of n."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return np.minimum(p, np.maximum(0, centre - half)), np.maximum(p, np.minimum(1, centre + half))


def f1(hits: Int[np.ndarray, "group code"], active: Int[np.ndarray, "group code"], marked: Int[np.ndarray, "group 1"]) -> Shares:
    """The harmonic mean of precision and recall, 2 J / (1 + J), from J, the share of hits in what is active or marked."""
    j = share(hits, active + marked - hits)
    return Shares(*(2 * bound / (1 + bound) for bound in (j.value, j.low, j.high)))
