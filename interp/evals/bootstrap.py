"""Bootstrap intervals over sequences: tokens of a sequence are not independent, sequences are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Sums = Mapping[str, Float[np.ndarray, " seq"]]


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval, from n sequences."""

    value: float
    low: float
    high: float
    n: int


def estimate(sums: Sums, statistic: Callable[[dict[str, float]], float], n_resamples: int = 1000, seed: int = 0) -> Estimate:
    """The statistic of the totals, and its percentile interval over resampled sequences.

    Numerators and denominators are resampled together, so a ratio is recomputed as a ratio.
    """
    names = list(sums)
    table = np.stack([np.asarray(sums[name], dtype=np.float64) for name in names])
    n = table.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    resampled = draws @ table.T
    values = np.array([statistic(dict(zip(names, row, strict=True))) for row in resampled])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Estimate(float(statistic(dict(zip(names, table.sum(1), strict=True)))), float(low), float(high), n)
