"""How well scores separate true edges from others: areas under the ROC curve, average precision, and the staircase of ACDC's tables.

    AUROC        (#{true > other} + #{ties} / 2) / (n_true n_other)
    pessimistic   #{true > other}               / (n_true n_other)

Nine in ten edges of a compiled model score exactly zero, so ties are the rule and both figures are needed. Higher scores mean more
probably true throughout; turn effects into scores first (`interp.circuits.verdicts`).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from saes.errors import InputError

Scores = Float[np.ndarray, " edge"]
Labels = Bool[np.ndarray, " edge"]
Curve = tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]


def auroc(scores: Scores, true: Labels) -> float:
    """The probability that a true edge outranks another, a tie counting one half."""
    _require(scores, true)
    n_true, n_other = int(true.sum()), int((~true).sum())
    return float((rankdata(scores)[true].sum() - n_true * (n_true + 1) / 2) / (n_true * n_other))


def pessimistic_auroc(scores: Scores, true: Labels) -> float:
    """The same with ties counted as lost."""
    _require(scores, true)
    others = np.sort(scores[~true])
    return float(np.searchsorted(others, scores[true], side="left").mean() / len(others))


def average_precision(scores: Scores, true: Labels) -> float:
    """Precision averaged over recall; equal scores enter together, so their order cannot matter."""
    _require(scores, true)
    found, chosen = _cumulated(scores, true)
    gained = np.diff(found, prepend=0) / found[-1]
    return float((gained * found / chosen).sum())


def roc(scores: Scores, true: Labels) -> Curve:
    """False and true positive rates, from (0, 0) to (1, 1), one point for each distinct score."""
    _require(scores, true)
    found, chosen = _cumulated(scores, true)
    wrong = chosen - found
    return np.concatenate(([0.0], wrong / wrong[-1])), np.concatenate(([0.0], found / found[-1]))


def partial_auroc(scores: Scores, true: Labels, limit: float = 0.05) -> float:
    """The mean true positive rate over false positive rates up to `limit`: 1 is perfect, limit / 2 is chance."""
    x, y = roc(scores, true)
    # Along a vertical step the upper end is the rate reached at that x.
    cut = np.searchsorted(x, limit, side="right")
    if cut == len(x):
        return trapezoid(x, y) / limit
    end = y[cut - 1] + (y[cut] - y[cut - 1]) * (limit - x[cut - 1]) / (x[cut] - x[cut - 1])
    return trapezoid(np.append(x[:cut], limit), np.append(y[:cut], end)) / limit


def trapezoid(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> float:
    """The area under straight lines between points in the order given."""
    return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)


def recorded_points(x: Sequence[float], y: Sequence[float]) -> Curve:
    """Points of a sweep over thresholds, sorted, each once, with both corners."""
    points = np.array(sorted({(0.0, 0.0), (1.0, 1.0), *zip(map(float, x), map(float, y), strict=True)}))
    return points[:, 0], points[:, 1]


def staircase(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> float:
    """ACDC's area (Conmy et al. 2023): between thresholds the curve stays at the lower true positive rate, so few thresholds lower it."""
    return float(((1 - x[1:]) * np.diff(y)).sum())


def threshold_scores(kept: Bool[np.ndarray, "threshold edge"], thresholds: Float[np.ndarray, " given"]) -> Scores:
    """The largest threshold under which each edge is kept; minus infinity for an edge that never is."""
    if len(kept) != len(thresholds) or np.isnan(thresholds).any():
        raise InputError(f"{len(kept)} circuits came with {len(thresholds)} thresholds; give each circuit the threshold it was found with")
    return np.where(kept, thresholds[:, None].astype(float), -np.inf).max(0, initial=-np.inf)


def _cumulated(scores: Scores, true: Labels) -> Curve:
    """True edges and all edges among those with at least each distinct score, best score first."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(scores[order][1:] != scores[order][:-1], True)
    return np.cumsum(true[order])[last].astype(float), np.flatnonzero(last).astype(float) + 1


def _require(scores: Scores, true: Labels) -> None:
    if np.isnan(scores).any():
        raise InputError(
            f"{int(np.isnan(scores).sum())} of {len(scores)} scores are no numbers; score every edge, or leave those edges out"
        )
    if not true.any() or true.all():
        raise InputError(
            f"{int(true.sum())} of {len(true)} scored edges are true: there is nothing to tell apart; score every edge of the graph"
        )
