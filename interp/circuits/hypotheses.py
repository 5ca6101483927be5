"""Is it a circuit? Tests of equivalence, independence, minimality, sufficiency and necessity, after Shi et al. 2024 (arXiv:2410.13032).

Each test says what p is small for. The published code has three slips that cost its guarantees, so the tests here differ from it:
equivalence tests a win rate and is fed with wins, not with a mean difference of scores; minimality corrects for testing every edge (Holm);
independence gives each variable its own bandwidth and counts the observed arrangement among the permutations, so p is never zero.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom, rankdata, t

from saes.errors import InputError

# Relative difference that rounding may make between two orders of one sum.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Equivalence:
    """Whether circuit and model win equally often; p is small when the win rate is shown to be within `margin` of one half."""

    win_rate: float
    margin: float
    n: int
    p: float


def equivalence(circuit: Float[np.ndarray, " pair"], model: Float[np.ndarray, " pair"], margin: float = 0.1) -> Equivalence:
    """Two one-sided binomial tests that the circuit's metric beats the model's on one half of the examples, up to `margin`.

    A tie is half a win; half a win left over goes against equivalence. A test of *non*-equivalence that fails shows nothing, hence two
    one-sided tests.
    """
    _same_length(circuit, model)
    n, wins = len(circuit), float((circuit > model).sum() + (circuit == model).sum() / 2)
    too_few = binom.sf(np.floor(wins) - 1, n, 0.5 - margin)
    too_many = binom.cdf(np.ceil(wins), n, 0.5 + margin)
    return Equivalence(wins / n, margin, n, float(max(too_few, too_many)))


@dataclass(frozen=True)
class Independence:
    """Dependence of two variables; p is small when they are shown to be dependent."""

    hsic: float
    p: float
    bandwidths: tuple[float, float]


def independence(
    x: Float[np.ndarray, "example dx"], y: Float[np.ndarray, "example dy"], permutations: int = 1000, seed: int = 0
) -> Independence:
    """Hilbert-Schmidt independence criterion (Gretton et al. 2005) with Gaussian kernels, for example between what the complement of a
    circuit does and what the model does; bandwidths are the median distances, one for each variable.

    One Gram matrix is centred once and the rows and columns of the other are permuted: O(n^2) each time.
    """
    _same_length(x, y)
    (gram_x, sigma_x), (gram_y, sigma_y) = (_gram(z) for z in (x, y))
    n = len(x)
    centred = gram_x - gram_x.mean(0) - gram_x.mean(1)[:, None] + gram_x.mean()
    generator = np.random.default_rng(seed)

    def hsic(order: Int[np.ndarray, " example"]) -> float:
        return float((centred * gram_y[np.ix_(order, order)]).sum() / (n - 1) ** 2)

    observed = hsic(np.arange(n))
    drawn = np.array([hsic(generator.permutation(n)) for _ in range(permutations)])
    return Independence(observed, _rank_p(observed, drawn), (sigma_x, sigma_y))


@dataclass(frozen=True)
class Minimality:
    """Which edges of a circuit are needed; p of an edge is small when its knock-out is shown to matter more than most random ones."""

    p: Float[np.ndarray, " edge"]
    adjusted: Float[np.ndarray, " edge"]
    """After Holm: a bound on the chance that any edge is called needed by mistake."""
    needed: Bool[np.ndarray, " edge"]


def minimality(
    effects: Float[np.ndarray, " edge"], inflated: Float[np.ndarray, " draw"], q: float = 0.9, level: float = 0.05
) -> Minimality:
    """For each edge a binomial test that its knock-out effect exceeds the q-quantile of the effects in `inflated`.

    `effects` and `inflated` are sizes (not signed): of knocking an edge of the circuit out, and of knocking an edge out of the random path
    by which an inflated circuit is larger. With n draws no p is below q^n: 100 draws are enough for 500 edges at q = .9.
    """
    # An effect that ties with a draw does not exceed it.
    exceeded = (effects[:, None] > inflated).sum(1)
    p = np.asarray(binom.sf(exceeded - 1, len(inflated), q), dtype=float)
    adjusted = holm(p)
    return Minimality(p, adjusted, adjusted <= level)


@dataclass(frozen=True)
class AgainstRandom:
    """A circuit among random ones of its size and layers; both p are small when it is shown to be better."""

    rate: float
    """Share of random circuits that it beats; a tie is half."""
    p_rank: float
    """That it is itself a random circuit: (1 + #{random >= it}) / (1 + n)."""
    p_quantile: float
    """That it beats at most a share q of all random circuits: binomial."""


def sufficiency(faithfulness: float, random: Float[np.ndarray, " draw"], q: float = 0.9) -> AgainstRandom:
    """Whether the circuit alone does better than random circuits alone; scores where higher is more faithful."""
    return _against(faithfulness, random, q)


def partial_necessity(damage: float, random: Float[np.ndarray, " draw"], q: float = 0.9) -> AgainstRandom:
    """Whether knocking the circuit out does more damage than knocking random circuits out; scores where higher is worse."""
    return _against(damage, random, q)


def matched(
    chosen: Bool[np.ndarray, " edge"], strata: Int[np.ndarray, " edge"], draws: int = 100, seed: int = 0
) -> Bool[np.ndarray, "draw edge"]:
    """Random circuits with as many edges as `chosen` in every stratum, for example the layer of the destination."""
    generator = np.random.default_rng(seed)
    circuits = np.zeros((draws, len(chosen)), dtype=bool)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        size = int(chosen[members].sum())
        for row in circuits:
            row[generator.choice(members, size, replace=False)] = True
    return circuits


@dataclass(frozen=True)
class Paired:
    """The mean difference a - b over examples with its 95 % interval; p are small when it is shown to differ from zero."""

    difference: float
    low: float
    high: float
    p_t: float
    p_flip: float
    """Signs of the differences flipped at random: needs no normal distribution."""


def paired(a: Float[np.ndarray, " pair"], b: Float[np.ndarray, " pair"], flips: int = 2000, seed: int = 0) -> Paired:
    """Two circuits, or two scores, on the same examples."""
    _same_length(a, b)
    change = (a - b).astype(float)
    n, mean = len(change), float(change.mean())
    error = float(change.std(ddof=1)) / n**0.5
    reach = float(t.ppf(0.975, n - 1)) * error
    p_t = float(2 * t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (flips, n))
    return Paired(mean, mean - reach, mean + reach, p_t, _rank_p(abs(mean), np.abs(signs @ change) / n))


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p: calling those below a level bounds the chance of any mistake by that level, whatever the dependence (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p: calling those below a level bounds the expected share of mistakes among the called (Benjamini and Hochberg 1995)."""
    order = np.argsort(p, kind="stable")
    stepped = np.minimum.accumulate((p[order] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _against(observed: float, random: Float[np.ndarray, " draw"], q: float) -> AgainstRandom:
    beaten = int((observed > random).sum())
    rate = float(rankdata([observed, *random])[0] - 1) / len(random)
    return AgainstRandom(rate, _rank_p(observed, random), float(binom.sf(beaten - 1, len(random), q)))


def _rank_p(observed: float, drawn: Float[np.ndarray, " draw"]) -> float:
    reached = drawn >= observed - ROUNDING * abs(observed)
    return float((1 + reached.sum()) / (1 + len(drawn)))


def _gram(x: Float[np.ndarray, "example d"]) -> tuple[Float[np.ndarray, "example example"], float]:
    """Gaussian kernel with the median distance as its bandwidth."""
    distances = pdist(x.astype(float))
    sigma = float(np.median(distances)) if len(distances) else 0.0
    if not sigma > 0:
        raise InputError(f"half of the {len(x)} examples or more are equal, so the median distance sets no bandwidth; give varied examples")
    return squareform(np.exp(-(distances**2) / (2 * sigma**2))) + np.eye(len(x)), sigma


def _same_length(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b) or len(a) < 2:
        raise InputError(f"{len(a)} and {len(b)} examples cannot be paired; give both on the same examples, two at least")
