"""Discrete codes against literal twins (float64, Python sets) and on planted heads; the model is tiny and real."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_circuits_toy import Toy, double, literal_activations

from interp.circuits.ablation import outputs
from interp.circuits.coding import autoencoder, encoder, n_codes, winners
from interp.circuits.graph import Graph, graph
from interp.circuits.methods import DiscreteCodeEdges, DiscreteCodes, Scorer
from interp.circuits.methods.discrete_codes import Codes, Vectors
from interp.circuits.node_truth import Interval, found, named, strongest
from interp.circuits.novelty import Counting, above_chance, appearances, cooccurrence, novelty
from interp.circuits.pooling import pooled
from interp.models.bridge import Model
from interp.sites import Site
from saes.errors import InputError

HEADS = Graph(4, 6, 6, mlps=False)
PLANTED = [0, 5, 10, 15, 20]


@pytest.fixture
def llama(tiny_llama: Path) -> Model:
    return double(tiny_llama)


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


def test_a_head_of_many_codes_has_new_ones_by_chance_and_relabelling_takes_them_away() -> None:
    rng = torch.Generator().manual_seed(0)
    sides = torch.randint(0, 200, (2, 60, 20), generator=rng)
    sides[:, :, 0] = torch.tensor([0, 1])[:, None].expand(2, 60) + 2 * torch.randint(0, 3, (2, 60), generator=rng)
    raw, above = (f(sides[0], sides[1:], 200) for f in (_plain(Counting()), _plain(Counting(permutations=40))))
    assert raw[0] == 3
    assert raw[1:].min() > 10
    assert above[0] == above.max() > 1.5
    assert above[1:].abs().mean() < 1


def _plain(how: Counting) -> Callable[..., torch.Tensor]:
    if how.permutations:
        return lambda p, q, n: above_chance(p, q, n, how, 0)
    return lambda p, q, n: novelty(p, q, n, how)


def planted(seed: int = 0, prompts: int = 40, d: int = 24, factor: torch.Tensor | None = None) -> Vectors:
    """24 heads with a vector of their own and noise; five write one of two other vectors on positives. Norms differ by up to 16 times."""
    rng = torch.Generator().manual_seed(seed)
    base = F.normalize(torch.randn(24, d, generator=rng), dim=1)
    new = F.normalize(torch.randn(2, 24, d, generator=rng), dim=2)
    x = base.expand(2, prompts, -1, -1).clone()
    which = torch.randint(0, 2, (prompts,), generator=rng)
    x[0, :, PLANTED] = new[which][:, PLANTED]
    x = x + 0.1 / d**0.5 * torch.randn(x.shape, generator=rng)
    x = x * 2.0 ** torch.randint(-2, 3, (24,), generator=rng)[:, None]
    x = x if factor is None else x * factor[:, None]
    return Vectors(x[0], x[1:])


def scored(method: DiscreteCodes, given: Vectors) -> torch.Tensor:
    scores = method.scores(method.codes(given, method.fitted(given)), HEADS)
    return scores.mean


SMALL = DiscreteCodes(latents=64, epochs=150, penalty=0.02)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["trained", "kmeans", "pca", "random"])
@pytest.mark.parametrize("score", ["node", "cooccurrence"])
def test_planted_heads_are_found(kind: str, score: str, seed: int) -> None:
    method = replace(SMALL, encoder=kind, score=score, code_seed=seed, latents=32 if kind == "kmeans" else 64)
    given = planted(seed)
    scores = method.scores(method.codes(given, method.fitted(given)), HEADS)
    truth = torch.zeros(24, dtype=torch.bool)
    truth[PLANTED] = True
    assert found([scores], truth).auc.mean > (0.98 if kind in ("trained", "kmeans") else 0.7)


def test_scaling_of_the_other_heads_changes_nothing_with_scale_and_something_without() -> None:
    factor = torch.where(torch.isin(torch.arange(24), torch.tensor(PLANTED)), 1.0, 8.0)
    assert torch.equal(scored(SMALL, planted()), scored(SMALL, planted(factor=factor)))
    off = replace(SMALL, scale=None)
    assert not torch.equal(scored(off, planted()), scored(off, planted(factor=factor)))


def test_held_out_counts_pairs_that_the_encoder_never_saw_with_the_same_codes() -> None:
    given, inside = planted(), replace(SMALL, held_out=False, epochs=5)
    fitted = inside.fitted(given)
    assert int(fitted.drawn.sum()) == 10
    kept = ~fitted.drawn.any(0)
    every, some = inside.codes(given, fitted), replace(inside, held_out=True).codes(given, fitted)
    assert len(every.positive) == 40 > len(some.positive) == int(kept.sum()) == some.negative.shape[1] >= 30
    assert torch.equal(every.positive[kept], some.positive)
    assert torch.equal(every.negative[:, kept], some.negative)
    with pytest.raises(InputError, match="leave none"):
        replace(SMALL, examples=80, epochs=1).codes(given, replace(SMALL, examples=80, epochs=1).fitted(given))
    with pytest.raises(InputError, match="cannot be drawn"):
        replace(SMALL, examples=81).fitted(given)


def test_training_is_adam_on_the_published_loss() -> None:
    rows = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    n, epochs, penalty = 12, 40, 0.02
    start = autoencoder(rows, n, penalty, 0, 3)
    # `finish` moves lengths between the two sides; winners and directions stay, and b_dec is 0 at the start.
    first = autoencoder_start(n, 8, 3)
    assert torch.allclose(F.normalize(start.W_dec[:-1], dim=1), first["dec"].float(), atol=1e-6)
    p = {name: value.clone().requires_grad_() for name, value in first.items()}
    adam = torch.optim.Adam(p.values(), lr=1e-3)
    for _ in range(epochs):
        a = ((rows.double() - p["b"]) @ p["enc"].T + p["b_enc"]).relu()
        x_hat = a @ F.normalize(p["dec"], dim=1) + p["b"]
        loss = (rows - x_hat).square().mean() + penalty * a.abs().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    trained = autoencoder(rows, n, penalty, epochs, 3)
    assert torch.allclose(trained.b_dec, p["b"].float(), atol=1e-4)
    assert torch.allclose(F.normalize(trained.W_dec[:-1], dim=1), F.normalize(p["dec"], dim=1).float(), atol=1e-3)
    pre = (rows.double() - p["b"]) @ p["enc"].T + p["b_enc"]
    assert torch.equal(winners(trained, rows), torch.where(pre.amax(1) > 0, pre.argmax(1), -1))


def autoencoder_start(n: int, d: int, seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    enc, dec = (F.normalize(torch.randn(n, d, generator=rng), dim=1) for _ in range(2))
    b_enc = (2 * torch.rand(n, generator=rng) - 1) / d**0.5
    return {name: value.double() for name, value in {"enc": enc, "dec": dec, "b_enc": b_enc, "b": torch.zeros(d)}.items()}


def test_controls_code_by_nearest_centre_and_by_signs() -> None:
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    near = encoder("kmeans", rows, 7, 0.02, 1, 0)(rows)
    centres = torch.stack([rows[near == c].mean(0) for c in range(7)])
    assert torch.equal(torch.cdist(rows, centres).argmin(1), near)
    code = encoder("pca", rows, 5, 0.02, 1, 0)(rows)
    assert n_codes("pca", 5) == 8 > int(code.max())
    _, vectors = torch.linalg.eigh((rows - rows.mean(0)).double().T @ (rows - rows.mean(0)).double())
    for bit in range(3):
        agree = ((rows - rows.mean(0)).double() @ vectors[:, -1 - bit] > 0) == (code // 2**bit % 2).bool()
        assert float(agree.double().mean()) in (0.0, 1.0)
    with pytest.raises(InputError, match="centres"):
        encoder("kmeans", rows, 61, 0.02, 1, 0)


def test_pooled_outputs_equal_one_prompt_without_padding_at_a_time(llama: Model) -> None:
    pairs, nodes = Toy().pairs(None, 4, 0, None), graph(llama)
    pairs = replace(pairs, spans={"S2": pairs.end - 2})
    written = outputs(llama, nodes, pairs.clean)
    fast = pooled(llama, nodes, written, pairs, ("mean", "after-first", "end", "S2"), mlps=True).unflatten(2, (4, -1))
    heads = pooled(llama, nodes, written, pairs, ("mean",))
    assert torch.equal(heads, fast[:, nodes.index(nodes.heads()), 0])
    for i in range(len(pairs)):
        found, end = literal_activations(llama, pairs, i, pairs.clean), int(pairs.end[i])
        for j, node in enumerate(nodes.nodes):
            head = node.site.head
            a = found[Site(node.site.layer, node.site.stream)][0]
            a = a if head is None else a[:, head] @ llama.w_o(node.site.layer)[head]
            twin = torch.stack((a.mean(0), a[1:].mean(0), a[end], a[end - 2]))
            assert torch.allclose(fast[i, j], twin, atol=1e-5), f"{node} on pair {i}"
    with pytest.raises(InputError, match="after-first"):
        pooled(llama, nodes, written, pairs, ("IO",))


QUICK = DiscreteCodes(latents=16, epochs=20, examples=6)


@pytest.mark.parametrize("method", [QUICK, DiscreteCodeEdges(QUICK)], ids=lambda m: m.NAME)
def test_methods_score_their_unit_and_leave_no_hook(method: DiscreteCodes | DiscreteCodeEdges, llama: Model) -> None:
    assert isinstance(method, Scorer)
    pairs, nodes = Toy().pairs(None, 12, 0, None), graph(llama)
    before = llama(pairs.clean)
    scores = method(llama, Toy(), pairs, nodes, outputs(llama, nodes, pairs.corrupt))
    again = method(llama, Toy(), pairs, nodes, outputs(llama, nodes, pairs.corrupt))
    assert torch.equal(scores.mean, again.mean)
    assert (scores.mean <= 0).all()
    assert (scores.mean < 0).any()
    assert llama.hook_count() == 0
    assert torch.equal(llama(pairs.clean), before)
    for name, value in zip(scores.names(), scores.mean.tolist(), strict=True):
        if "m" in name or "embed" in name or "logits" in name:
            assert value == 0, name


def test_mlps_are_scored_when_asked_for(llama: Model) -> None:
    pairs, nodes = Toy().pairs(None, 12, 0, None), graph(llama)
    method = DiscreteCodes(encoder="kmeans", latents=8, mlps=True)
    scores = method(llama, Toy(), pairs, nodes, outputs(llama, nodes, pairs.corrupt))
    assert scores.mean[[i for i, node in enumerate(nodes.nodes) if node.site.head is None]].min() < 0


def test_an_edge_scores_as_its_pair_and_a_shared_key_as_the_best_of_its_group() -> None:
    nodes = Graph(2, 4, 2)
    positive, negative = drawn(3, units=8, kinds=1)
    pairs = cooccurrence(positive, negative, 5, Counting())
    scores = DiscreteCodeEdges().scores(Codes(positive, negative, 5), nodes)
    value = dict(zip(scores.names(), scores.mean.tolist(), strict=True))
    assert value["0.1->1.2.q"] == -pairs[1, 6]
    assert value["0.1->1.g1.k"] == value["0.1->1.g1.v"] == -pairs[1, 6:8].max()
    assert value["0.1->m1"] == value["m0->1.2.q"] == value["0.1->logits"] == 0


@dataclass(frozen=True)
class TwoWays(Toy):
    """Prompts that another corruption changes elsewhere."""

    NAME: ClassVar[str] = "two-ways"
    corruption: str = "s2"

    def pairs(self, tokenizer: object, n: int, seed: int, bos: int | None):
        return super().pairs(tokenizer, n, seed + (self.corruption == "abc"), bos)


def test_more_corruptions_are_more_kinds_of_negatives(llama: Model) -> None:
    pairs, nodes = TwoWays().pairs(None, 12, 0, None), graph(llama)
    method = DiscreteCodes(encoder="kmeans", latents=8, corruptions=("abc",), code_seed=4)
    given = method.vectors(llama, TwoWays(), pairs, nodes)
    other = TwoWays("abc").pairs(None, 12, 4, None)
    assert given.negative.shape[:2] == (2, 12)
    assert torch.equal(given.negative[1], pooled(llama, nodes, outputs(llama, nodes, other.corrupt), other, ("mean",)).float())
    with pytest.raises(InputError, match="one corruption"):
        method.vectors(llama, Toy(), pairs, nodes)


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
