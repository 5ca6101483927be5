import json
from random import Random

import numpy as np
import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from interp.circuits.roc import (
    auroc,
    average_precision,
    partial_auroc,
    pessimistic_auroc,
    recorded_points,
    roc,
    staircase,
    threshold_scores,
    trapezoid,
)
from saes.errors import InputError

# Few distinct values: most pairs tie, as effects on a compiled model do.
labelled = st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(true for _, true in rows) < len(rows)
)


def _arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(score) for score, _ in rows]), np.array([true for _, true in rows])


@given(labelled)
def test_areas_equal_the_count_over_all_pairs(rows: list[tuple[int, bool]]) -> None:
    scores, true = _arrays(rows)
    pairs = [(a, b) for a in scores[true] for b in scores[~true]]
    won, tied = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
    assert auroc(scores, true) == pytest.approx((won + tied / 2) / len(pairs))
    assert pessimistic_auroc(scores, true) == pytest.approx(won / len(pairs))


@given(labelled, st.sampled_from([0.05, 0.3, 1.0]))
def test_areas_equal_those_of_scikit_learn(rows: list[tuple[int, bool]], limit: float) -> None:
    scores, true = _arrays(rows)
    assert auroc(scores, true) == pytest.approx(roc_auc_score(true, scores))
    assert average_precision(scores, true) == pytest.approx(average_precision_score(true, scores))
    x, y, _ = roc_curve(true, scores, drop_intermediate=False)
    assert all(np.allclose(ours, theirs) for ours, theirs in zip(roc(scores, true), (x, y), strict=True))
    assert trapezoid(x, y) == pytest.approx(auroc(scores, true))
    # scikit-learn rescales the partial area so that chance is one half (McClish 1989).
    ours, chance = partial_auroc(scores, true, limit), limit / 2
    expected = roc_auc_score(true, scores, max_fpr=limit)
    assert ours == pytest.approx(expected if limit == 1 else chance + (2 * expected - 1) * (1 - chance))


@given(labelled, st.randoms())
def test_the_order_of_edges_changes_nothing(rows: list[tuple[int, bool]], random: Random) -> None:
    other = list(rows)
    random.shuffle(other)
    for figure in (auroc, pessimistic_auroc, average_precision, partial_auroc):
        assert figure(*_arrays(rows)) == pytest.approx(figure(*_arrays(other)))


@given(labelled)
def test_turning_the_sign_reflects_the_area(rows: list[tuple[int, bool]]) -> None:
    scores, true = _arrays(rows)
    assert auroc(-scores, true) == pytest.approx(1 - auroc(scores, true))


def test_scores_that_are_all_equal_are_worth_one_half_or_nothing() -> None:
    scores, true = np.zeros(31), np.arange(31) < 1
    assert (auroc(scores, true), pessimistic_auroc(scores, true)) == (0.5, 0)
    assert average_precision(scores, true) == pytest.approx(1 / 31)
    assert partial_auroc(scores, true) == pytest.approx(0.025)


def test_nothing_to_tell_apart_is_refused() -> None:
    for figure in (auroc, pessimistic_auroc, average_precision, partial_auroc, roc):
        with pytest.raises(InputError, match="3 of 3 scored edges are true"):
            figure(np.zeros(3), np.ones(3, dtype=bool))
        with pytest.raises(InputError, match="1 of 2 scores are no numbers"):
            figure(np.array([0.0, np.nan]), np.array([True, False]))


# Recorded by the authors (one file for each run): area of the staircase, of the trapezoid.
RECORDED = {
    "acdc-ioi-kl_div-False-0": (0.869, 0.886),
    "acdc-ioi-logit_diff-False-0": (0.589, 0.669),
    "acdc-docstring-kl_div-False-0": (0.982, 0.985),
    "acdc-docstring-docstring_metric-False-0": (0.972, 0.977),
    "acdc-greaterthan-kl_div-False-0": (0.812, 0.882),
    "acdc-greaterthan-greaterthan-True-0": (0.471, 0.534),
    "acdc-tracr-proportion-l2-False-0": (0.600, 0.800),
    "acdc-tracr-reverse-l2-False-0": (0.200, 0.600),
    "16h-docstring-kl_div-False-0": (0.183, 0.191),
    "sp-docstring-kl_div-False-0": (0.937, 0.947),
}


@pytest.mark.parametrize("name", RECORDED)
def test_areas_over_the_points_of_the_acdc_paper(name: str) -> None:
    record = json.loads(shared(f"cases/acdc-results/{name}.json").read_text())
    while "edge_fpr" not in record:
        (record,) = record.values()
    x, y = recorded_points(record["edge_fpr"], record["edge_tpr"])
    assert (round(staircase(x, y), 3), round(trapezoid(x, y), 3)) == pytest.approx(RECORDED[name], abs=0.0011)
    assert staircase(x, y) <= trapezoid(x, y)


@given(labelled)
def test_the_staircase_over_all_thresholds_is_the_pessimistic_area_of_grouped_scores(rows: list[tuple[int, bool]]) -> None:
    scores, true = _arrays(rows)
    assert staircase(*recorded_points(*(side.tolist() for side in roc(scores, true)))) == pytest.approx(pessimistic_auroc(scores, true))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_an_edge_scores_the_largest_threshold_that_keeps_it(kept: list[list[bool]]) -> None:
    thresholds = np.array([1.0, 0.5, 0.1, 0.05, 0.01][: len(kept)])
    scores = threshold_scores(np.array(kept), thresholds)
    for edge, score in enumerate(scores):
        assert score == max((t for t, row in zip(thresholds, kept, strict=True) if row[edge]), default=-np.inf)


def test_circuits_without_thresholds_are_refused() -> None:
    with pytest.raises(InputError, match="2 circuits came with 1 thresholds"):
        threshold_scores(np.ones((2, 3), dtype=bool), np.array([0.1]))
