import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control, ttest_rel

from interp.circuits.hypotheses import (
    benjamini_hochberg,
    equivalence,
    holm,
    independence,
    matched,
    minimality,
    paired,
    partial_necessity,
    sufficiency,
)
from saes.errors import InputError

LEVEL = 0.05
RUNS = 300
# With RUNS runs a test of true level 5 % rejects more often than this once in 3,000 times.
TOLERATED = binom.isf(1 / 3000, RUNS, LEVEL) / RUNS
probabilities = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.04, 0.3, 1.0]), min_size=1, max_size=12).map(np.array)


def _metrics(rng: np.random.Generator, n: int, win: float, tie: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A circuit that beats the model with probability `win` among examples that do not tie."""
    model = rng.normal(size=n)
    sign = np.where(rng.random(n) < win, 1.0, -1.0) * (rng.random(n) >= tie)
    return model + sign * rng.exponential(size=n), model


def _rejections(of: "list[float]") -> float:
    return float(np.mean(np.array(of) <= LEVEL))


@pytest.mark.parametrize("tie", [0.0, 0.3])
@pytest.mark.parametrize("side", [-1, 1])
def test_equivalence_is_claimed_by_mistake_at_most_as_often_as_its_level(side: int, tie: float) -> None:
    rng = np.random.default_rng(0)
    # A win rate on the border of the margin: .1 away from one half once ties are counted as halves.
    win = 0.5 + side * 0.1 / (1 - tie)
    assert _rejections([equivalence(*_metrics(rng, 200, win, tie)).p for _ in range(RUNS)]) <= TOLERATED


def test_equivalence_finds_circuits_that_win_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    assert _rejections([equivalence(*_metrics(rng, 400, 0.5)).p for _ in range(RUNS)]) > 0.95
    # Too few examples show nothing, in either direction.
    assert _rejections([equivalence(*_metrics(rng, 20, 0.5)).p for _ in range(RUNS)]) == 0


def test_equal_means_are_no_equivalence() -> None:
    # The circuit is better by a little on 90 of 100 examples and worse by much on 10; a test fed with the mean difference sees nothing.
    circuit = np.concatenate((np.full(90, 1.0), np.full(10, -9.0)))
    found = equivalence(circuit, np.zeros(100))
    assert circuit.mean() == 0
    assert found.win_rate == 0.9
    assert found.p > 0.999


def test_equivalence_equals_binomial_tails_and_counts_ties_as_halves() -> None:
    found = equivalence(np.array([1.0, 1.0, 0.0, -1.0, 2.0, -2.0]), np.zeros(6))
    assert found.win_rate == 3.5 / 6
    too_few = sum(binom.pmf(k, 6, 0.4) for k in range(3, 7))
    too_many = sum(binom.pmf(k, 6, 0.6) for k in range(5))
    assert found.p == pytest.approx(max(too_few, too_many))


def test_the_permuted_criterion_equals_the_full_formula() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(15, 2)), rng.normal(size=(15, 3))

    def literal(z: np.ndarray) -> np.ndarray:
        distance = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in z] for a in z])
        sigma = np.median([distance[i, j] for i in range(15) for j in range(i)])
        return np.exp(-(distance**2) / (2 * sigma**2))

    h = np.eye(15) - 1 / 15
    full = float(np.trace(literal(x) @ h @ literal(y) @ h)) / 14**2
    found = independence(x, y, permutations=99, seed=3)
    assert found.hsic == pytest.approx(full, rel=1e-12)
    orders = np.random.default_rng(3)
    drawn = []
    for _ in range(99):
        order = orders.permutation(15)
        drawn.append(float(np.trace(literal(x) @ h @ literal(y)[np.ix_(order, order)] @ h)) / 14**2)
    assert found.p == (1 + sum(value >= full for value in drawn)) / 100


def test_independence_has_its_level_and_finds_dependence_without_correlation() -> None:
    rng = np.random.default_rng(0)

    def p(dependent: bool, seed: int) -> float:
        x = rng.normal(size=(40, 1))
        y = x**2 + 0.3 * rng.normal(size=x.shape) if dependent else rng.normal(size=x.shape)
        return independence(x, y, permutations=99, seed=seed).p

    assert _rejections([p(False, seed) for seed in range(RUNS)]) <= TOLERATED
    assert _rejections([p(True, seed) for seed in range(40)]) > 0.9


def test_each_variable_has_its_own_bandwidth_and_p_is_never_zero() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1))
    same = independence(x, x + 0.01 * rng.normal(size=x.shape), permutations=200)
    assert same.p == 1 / 201
    scaled = independence(x, 1000 * x, permutations=200)
    assert scaled.hsic == pytest.approx(independence(x, x, permutations=200).hsic)
    assert scaled.bandwidths[1] == pytest.approx(1000 * scaled.bandwidths[0])
    with pytest.raises(InputError, match="sets no bandwidth"):
        independence(np.ones((5, 1)), x[:5])


def _family(rng: np.random.Generator, needed: int) -> tuple[np.ndarray, np.ndarray]:
    """40 edges whose effects are no larger than the .9-quantile of a uniform null, but for the needed ones, and 200 draws of the null."""
    return np.concatenate((np.full(40 - needed, 0.9), np.full(needed, 2.0))), rng.random(200)


def test_minimality_bounds_the_chance_of_any_mistake() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([minimality(*_family(rng, 0)).needed.any() for _ in range(RUNS)]) <= TOLERATED
    # Independent nulls for every edge: without the correction some edge is nearly always called needed by mistake.
    any_p = [min(minimality(np.array([0.9]), rng.random(200)).p[0] for _ in range(40)) for _ in range(100)]
    assert np.mean(np.array(any_p) <= LEVEL) > 0.6


def test_minimality_finds_the_needed_edges() -> None:
    rng = np.random.default_rng(0)
    found = minimality(*_family(rng, 7))
    assert found.needed.tolist() == [False] * 33 + [True] * 7
    assert (found.adjusted >= found.p).all()
    # A tie with a draw is not more than that draw.
    assert minimality(np.array([1.0]), np.ones(100)).p[0] == 1


def test_100_draws_are_enough_for_500_edges() -> None:
    effects = np.full(500, 2.0)
    assert minimality(effects, np.random.default_rng(0).random(100)).needed.all()


@pytest.mark.parametrize("test", [sufficiency, partial_necessity])
def test_a_circuit_no_better_than_random_ones_is_called_better_at_most_at_the_level(test) -> None:
    rng = np.random.default_rng(0)
    drawn = [test(float(rng.random()), rng.random(100)) for _ in range(RUNS)]
    assert _rejections([found.p_rank for found in drawn]) <= TOLERATED
    border = [test(0.9, rng.random(100)).p_quantile for _ in range(RUNS)]
    assert _rejections(border) <= TOLERATED
    best = test(2.0, rng.random(100))
    assert (best.rate, best.p_rank) == (1, 1 / 101)
    assert best.p_quantile == pytest.approx(0.9**100)


def test_a_tie_with_a_random_circuit_is_half_a_win() -> None:
    found = sufficiency(1.0, np.array([0.0, 1.0, 1.0, 2.0]))
    assert found.rate == 0.5
    assert found.p_rank == 4 / 5


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30), st.integers(0, 9))
def test_random_circuits_have_the_size_of_every_layer(rows: list[tuple[int, bool]], seed: int) -> None:
    strata, chosen = np.array([layer for layer, _ in rows]), np.array([keep for _, keep in rows])
    drawn = matched(chosen, strata, draws=5, seed=seed)
    for layer in range(4):
        assert (drawn[:, strata == layer].sum(1) == chosen[strata == layer].sum()).all()


def test_random_circuits_choose_all_edges_of_a_layer_alike() -> None:
    drawn = matched(np.arange(10) < 3, np.zeros(10, dtype=int), draws=2000)
    assert np.abs(drawn.mean(0) - 0.3).max() < 0.05


def test_paired_differences_equal_the_t_test_and_need_no_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 25))
    found, expected = paired(a, b), ttest_rel(a, b)
    low, high = expected.confidence_interval()
    assert (found.p_t, found.low, found.high) == pytest.approx((expected.pvalue, low, high))
    assert found.p_flip == pytest.approx(found.p_t, abs=0.04)
    assert paired(a, a).p_t == paired(a, a).p_flip == 1
    heavy = [paired(rng.standard_cauchy(15), rng.standard_cauchy(15), flips=199, seed=seed).p_flip for seed in range(RUNS)]
    assert _rejections(heavy) <= TOLERATED
    assert _rejections([paired(rng.normal(size=30) + 1, rng.normal(size=30)).p_flip for _ in range(40)]) > 0.8
    with pytest.raises(InputError, match="cannot be paired"):
        paired(a[:1], b[:1])


@given(probabilities, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: np.ndarray, level: float) -> None:
    rejected = set()
    for step, test in enumerate(np.argsort(p, kind="stable")):
        if p[test] * (len(p) - step) > level:
            break
        rejected.add(int(test))
    assert set(np.flatnonzero(holm(p) <= level).tolist()) == rejected


@given(probabilities)
def test_benjamini_hochberg_equals_scipy(p: np.ndarray) -> None:
    assert np.allclose(benjamini_hochberg(p), false_discovery_control(p))
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()
