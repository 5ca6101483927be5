"""A curve of faithfulness over circuit size as one number: the areas of MIB (Mueller et al. 2025, arXiv:2504.13151), with intervals.

    f(k) = (m(C_k) - m(empty)) / (m(full) - m(empty))        k the share of edges kept, m the mean metric over examples
    CPR  = area of f over k         how much of the metric the circuits recover; higher is better
    CMD  = area of |1 - f| over k   how far they are from the model; lower is better

both by the trapezoid rule over MIB's shares. Half of that area lies on [.5, 1], where any circuit is nearly the model, so each also comes
over log k, divided by the range of log k: 1 and 0 for a perfect method. MIB takes CPR from circuits ranked by signed scores and CMD from
circuits ranked by |scores|: two curves, each with its own call. Intervals resample examples, numerator and denominator together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.faithfulness import HIGH, LOW, faithfulness, ratio_intervals, require_effect, resamples
from saes.errors import InputError

# The shares of MIB's leaderboard; its integral starts at .001, not at 0.
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over examples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Areas:
    """The areas of one curve, and the curve."""

    shares: tuple[float, ...]
    faithfulness: tuple[Estimate, ...]
    cpr: Estimate
    cmd: Estimate
    cpr_log: Estimate
    """Mean of f over log k."""
    cmd_log: Estimate
    """Mean of |1 - f| over log k."""


def areas(
    metric: Float[Tensor, "circuit pair"],
    full: Float[Tensor, " pair"],
    empty: Float[Tensor, " pair"],
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> Areas:
    """CPR and CMD of circuits that keep these shares of the edges, asked for or really kept.

    `metric`, `full` and `empty` hold the metric of each circuit, of the whole model and of the model with every edge ablated, example by
    example. Raises InputError for shares that do not rise from above 0 to 1, and when m(full) - m(empty) is below its standard error.
    """
    x = torch.tensor(shares, dtype=metric.dtype)
    if len(x) != len(metric) or len(x) < 2 or not bool((x.diff() > 0).all()) or not 0 < shares[0] < shares[-1] <= 1:
        raise InputError(f"{len(metric)} circuits came with shares {list(shares)}; give one share for each, rising, above 0 and up to 1")
    require_effect(full, empty)
    draw = resamples(len(full), seed)
    f = faithfulness(metric.mean(1), full.mean(), empty.mean())
    drawn = faithfulness(metric.T[draw].mean(1), full[draw].mean(1), empty[draw].mean(1))
    span = torch.log(x[-1] / x[0])

    def estimate(of: Callable[[Tensor], Tensor]) -> Estimate:
        return Estimate(*(float(figure) for figure in (of(f), of(drawn).quantile(LOW), of(drawn).quantile(HIGH))))

    points = zip(f, *ratio_intervals(metric, full, empty, seed), strict=True)
    return Areas(
        shares=tuple(shares),
        faithfulness=tuple(Estimate(*(float(figure) for figure in point)) for point in points),
        cpr=estimate(lambda f: torch.trapezoid(f, x)),
        cmd=estimate(lambda f: torch.trapezoid((1 - f).abs(), x)),
        cpr_log=estimate(lambda f: torch.trapezoid(f, x.log()) / span),
        cmd_log=estimate(lambda f: torch.trapezoid((1 - f).abs(), x.log()) / span),
    )
