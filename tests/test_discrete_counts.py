"""Counting of codes against a literal twin of sets and shares, and how well scores find heads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.circuits.graph import Graph
from interp.circuits.methods import DiscreteCodeEdges, DiscreteCodes
from interp.circuits.methods.discrete_codes import Codes
from interp.circuits.node_truth import Interval, found, named, strongest
from interp.circuits.novelty import Counting, appearances, cooccurrence, novelty
from saes.errors import InputError

HEADS = Graph(4, 6, 6, mlps=False)


def drawn(seed: int, prompts: int = 9, units: int = 4, kinds: int = 2, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of positives and of two kinds of negatives, some of them none."""
    codes = torch.randint(-1, n, (1 + kinds, prompts, units), generator=torch.Generator().manual_seed(seed))
    return codes[0], codes[1:]


def literal(positive: list, negatives: list[list], how: Counting) -> float:
    """One unit: lists of codes, None where there is none."""
    every = {code for side in (positive, *negatives) for code in side} - {None}
    gain = union = 0.0
    for code in every:
        p, *qs = (float(side.count(code)) / len(positive) for side in (positive, *negatives))
        if how.weights == "sets":
            p, qs = float(p > 0), [float(q > 0) for q in qs]
        news = [(p if q == 0 else 0.0) if how.weights == "occurrences" else max(0.0, p - q) for q in qs]
        gain, union = gain + (max(news) if how.combine == "any" else min(news)), union + max(p, *qs)
    return (gain / union if union else 0.0) if how.divide else gain


WAYS = [Counting(w, divide=d, combine=c) for w in ("sets", "occurrences", "excess") for d in (False, True) for c in ("any", "all")]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_novelty_of_heads_and_pairs_equals_the_literal_twin(how: Counting) -> None:
    positive, negative = drawn(0, n=12)

    def listed(codes: torch.Tensor, *units: int) -> list:
        rows = [tuple(row[u] for u in units) for row in codes.tolist()]
        return [None if min(row) < 0 else row for row in rows]

    fast, pairs = novelty(positive, negative, 12, how), cooccurrence(positive, negative, 12, how)
    assert fast.max() > 0
    for u in range(4):
        assert fast[u].item() == pytest.approx(literal(listed(positive, u), [listed(side, u) for side in negative], how), abs=1e-12)
        for v in range(4):
            twin = literal(listed(positive, u, v), [listed(side, u, v) for side in negative], how)
            assert pairs[u, v].item() == pytest.approx(twin, abs=1e-12)


def test_published_scores_are_differences_of_sets() -> None:
    positive, negative = drawn(1, kinds=1)
    scores = DiscreteCodes.published().scores(Codes(positive, negative, 5), Graph(1, 4, 4, mlps=False))
    sets = [{max(c, 0) for c in positive[:, u].tolist()} - {max(c, 0) for c in negative[0, :, u].tolist()} for u in range(4)]
    assert scores.mean.tolist() == [-len(codes) for codes in sets]
    assert scores.notes["no_feature"] == pytest.approx(float((torch.cat((positive[None], negative)) < 0).double().mean()))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_any_kind_of_negatives_finds_at_least_what_each_does_and_all_at_most(seed: int) -> None:
    positive, negative = drawn(seed)
    each = [novelty(positive, side[None], 5, Counting()) for side in negative]
    assert (novelty(positive, negative, 5, Counting(combine="any")) >= torch.stack(each).amax(0)).all()
    assert (novelty(positive, negative, 5, Counting(combine="all")) <= torch.stack(each).amin(0)).all()


def test_the_better_half_of_the_pairs_does_not_depend_on_the_order_of_heads() -> None:
    pairs = torch.tensor([[3.0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 2]])
    # 8 of 16: the 3, the 2, the five 1s and one of nine 0s, shared
    assert appearances(pairs).tolist() == pytest.approx([2 + 2 / 9, 3 + 1 / 9, 1 + 3 / 9, 1 + 3 / 9])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(appearances(pairs[order][:, order]), appearances(pairs)[order])


def test_a_silent_head_counts_as_code_0_as_published_and_not_at_all_with_a_code_of_its_own() -> None:
    positive, negative = torch.tensor([[-1, 2], [-1, 3]]), torch.tensor([[[1, 2], [1, 2]]])
    nodes = Graph(1, 2, 2, mlps=False)
    assert DiscreteCodes.published().scores(Codes(positive, negative, 4), nodes).mean.tolist() == [-1, -1]
    assert DiscreteCodes().scores(Codes(positive, negative, 4), nodes).mean.tolist() == [0, -1]
    joint = DiscreteCodes(score="cooccurrence").scores(Codes(positive, negative, 4), nodes).mean
    assert joint.tolist() == pytest.approx([-2 / 3, -4 / 3])


def test_an_edge_scores_as_its_pair_and_a_shared_key_as_the_best_of_its_group() -> None:
    nodes = Graph(2, 4, 2)
    positive, negative = drawn(3, units=8, kinds=1)
    pairs = cooccurrence(positive, negative, 5, Counting())
    scores = DiscreteCodeEdges().scores(Codes(positive, negative, 5), nodes)
    value = dict(zip(scores.names(), scores.mean.tolist(), strict=True))
    assert value["0.1->1.2.q"] == -pairs[1, 6]
    assert value["0.1->1.g1.k"] == value["0.1->1.g1.v"] == -pairs[1, 6:8].max()
    assert value["0.1->m1"] == value["m0->1.2.q"] == value["0.1->logits"] == 0


def test_softmax_over_heads_keeps_the_order_and_tables_sum_to_one() -> None:
    positive, negative = drawn(5, units=24, kinds=1, n=9)
    means = {
        kind: DiscreteCodes(softmax=kind).scores(Codes(positive, negative, 9), HEADS).mean.double()
        for kind in ("none", "heads", "across_layers", "within_layer")
    }
    assert torch.equal(means["none"].unique(return_inverse=True)[1], means["heads"].unique(return_inverse=True)[1])
    assert torch.allclose(means["across_layers"].unflatten(0, (4, 6)).sum(0), torch.tensor(-1.0).double())
    assert torch.allclose(means["within_layer"].unflatten(0, (4, 6)).sum(1), torch.tensor(-1.0).double())


def test_accuracy_counts_pairs_of_heads_with_ties_one_half() -> None:
    nodes = Graph(2, 3, 3)
    codes = Codes(*drawn(7, units=6, kinds=1), 5)
    scores = DiscreteCodes().scores(codes, nodes)
    truth = named(nodes, ("0.1", "1.0"))
    worth = {name: abs(value) for name, value in zip(scores.names(), scores.mean.tolist(), strict=True) if "m" not in name}
    pairs = [(worth[a], worth[b]) for a in ("0.1", "1.0") for b in worth if b not in ("0.1", "1.0")]
    auc = sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
    area = found([scores, scores], truth).auc
    assert (area.mean, area.low, area.high, area.n) == (pytest.approx(auc), pytest.approx(auc), pytest.approx(auc), 2)
    effects = torch.tensor([0.0, -3.0, 0.1, 9.0, 2.0, 0.0, 0.0, 9.0])
    assert torch.equal(strongest(nodes, effects, 2), truth)
    with pytest.raises(InputError, match=r"7\.7"):
        named(nodes, ("7.7",))
    with pytest.raises(InputError, match="nothing to tell apart"):
        found([scores], truth & False)


def test_the_interval_is_the_t_interval_of_the_mean() -> None:
    interval = Interval.of([0.7, 0.8, 0.9])
    assert (interval.mean, interval.high - interval.mean) == (pytest.approx(0.8), pytest.approx(4.3027 * 0.1 / 3**0.5, abs=1e-4))
