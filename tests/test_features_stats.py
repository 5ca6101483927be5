"""Statistics and histograms of a latent against literal loops."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.features import histogram, stats
from interp.features.codes import Latent

VALUES = st.lists(st.floats(0.0009765625, 1000, width=32), min_size=1, max_size=60)


def literal_quantile(values: list[float], q: float) -> float:
    """Linear interpolation between the two neighbours of rank q (n - 1)."""
    ordered = sorted(values)
    rank = q * (len(ordered) - 1)
    low = math.floor(rank)
    return ordered[low] + (rank - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


@given(VALUES)
def test_quantiles_equal_the_literal_definition(values: list[float]):
    found = stats.quantiles(np.array(values, np.float32))
    np.testing.assert_allclose(found, [literal_quantile(values, q) for q in stats.QUANTILES], rtol=1e-5)


@given(VALUES)
def test_mean_equals_the_literal_sum(values: list[float]):
    np.testing.assert_allclose(stats.mean(np.array(values, np.float32)), sum(values) / len(values), rtol=1e-6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_token_use_equals_counting_by_hand(tokens: list[int]):
    counts: dict[int, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    most = max(counts.values())
    use = stats.token_use(np.array(tokens))
    assert use.top == min(token for token, count in counts.items() if count == most)
    assert math.isclose(use.share, most / len(tokens))
    assert math.isclose(use.entropy, sum(-c / len(tokens) * math.log(c / len(tokens)) for c in counts.values()), abs_tol=1e-12)


@given(VALUES)
def test_the_activation_histogram_equals_counting_by_hand(values: list[float]):
    expected = [0] * histogram.BINS
    for value in values:
        expected[min(math.floor(value / max(values) * histogram.BINS), histogram.BINS - 1)] += 1
    assert histogram.activations(np.array(values, np.float32)).tolist() == expected


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 200))
def test_row_histograms_lose_no_value_and_follow_the_edges(seed: int, n: int, m: int):
    values = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    counts, span = histogram.rows(values)
    assert counts.sum(1).tolist() == [m] * n
    for row, count, (low, high) in zip(values.double(), counts, span.double().tolist(), strict=True):
        assert (low, high) == (float(row.min()), float(row.max()))
        width = (high - low) / histogram.BINS or 1.0
        # Up to each inner edge: all that is clearly below and nothing that is clearly above.
        for i, below in enumerate(count.cumsum(0).tolist()[:-1], start=1):
            edge, slack = low + i * width, 1e-5 * width * histogram.BINS
            assert int((row < edge - slack).sum()) <= below <= int((row < edge + slack).sum())


def test_a_constant_row_falls_into_the_first_bin():
    counts, span = histogram.rows(torch.full((1, 7), 3.0))
    assert counts[0, 0] == 7
    assert counts.sum() == 7
    assert span.tolist() == [[3, 3]]


def test_a_dead_latent_has_zeros_and_no_top_token():
    dead = Latent(3, np.zeros(0, np.int64), np.zeros(0, np.float32))
    row = stats.row(dead, np.arange(5), 5)
    assert row["dead"] is True
    assert row["top_token"] == -1
    assert row["latent"] == 3
    assert all(row[name] == 0 for name in row if name not in ("dead", "top_token", "latent"))
    assert histogram.activations(dead.values).sum() == 0


def test_a_row_counts_density_over_the_counted_tokens():
    latent = Latent(0, np.array([1, 3, 4]), np.array([1.0, 4.0, 1.0], np.float32))
    row = stats.row(latent, np.array([9, 7, 9, 7, 5, 0]), n_tokens=5)
    assert (row["n_active"], row["density"], row["max_act"], row["mean_act"], row["p50"]) == (3, 0.6, 4, 2, 1)
    assert (row["top_token"], row["dead"]) == (7, False)
    assert math.isclose(float(row["top_token_share"]), 2 / 3)
