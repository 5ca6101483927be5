"""Kernels and what a dictionary makes of them, against literal twins in float64: values and gradients."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saes.activations import ACTIVATIONS, Jump, KLargest, Positive
from saes.architectures import TopK
from saes.architectures.shared import Aux
from saes.dictionary import Batch, Dictionary
from saes.kernels import autograd, products, reference, scores
from saes.kernels.pairs import Pairs
from saes.kernels.select import select
from saes.losses import among_dense, among_sparse, aux_k
from saes.sparse import SparseDictionary
from saes.support import Full, Listed

# Products are sparse, or dense wherever the activation allows it.
SPARSE, DENSE = float("inf"), 0.0


def randomised(module: Any, seed: int = 0) -> Any:
    """The module in float64 with every weight random, and decoder rows of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.double().named_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            if name.endswith("W_dec"):
                weight.mul_(torch.rand(len(weight), 1, generator=generator, dtype=torch.float64) + 0.5)
    return module


def random_dictionary(
    d_in: int, d_out: int, d_dict: int, k: int, *, transcoder: bool = False, skip: bool = False, seed: int = 0
) -> SparseDictionary:
    """Every weight random, decoder norms unequal, in float64."""
    return randomised(TopK(k).build(d_in, d_out, d_dict, seed=seed, transcoder=transcoder, skip=skip), seed)


def gradients(loss: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each weight, 0 where the loss does not depend on it."""
    if not loss.requires_grad:
        return {name: torch.zeros_like(w) for name, w in weights.items()}
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(weights.items(), found, strict=True)}


def assert_same_gradients(fast: Tensor, slow: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values too; returns the gradients."""
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    expected = gradients(slow, weights)
    for name, gradient in gradients(fast, weights).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    return expected


def random_pairs(batch: int, n: int, seed: int) -> Pairs:
    """Each token has from none to all of the latents, in any order."""
    generator = torch.Generator().manual_seed(seed)
    lists = [torch.randperm(n, generator=generator)[: int(torch.randint(n + 1, (), generator=generator))] for _ in range(batch)]
    return Pairs(torch.cat(lists), torch.tensor([0, *map(len, lists)]).cumsum(0), n)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 5), n=st.sampled_from([1, 3, 16, 100, 512, 513, 640, 1024, 2048, 8192, 16384]), k=st.integers(1, 40),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), seed=st.integers(0, 9),
)  # fmt: skip
def test_select_finds_the_k_largest_positive_scores(batch: int, n: int, k: int, kind: torch.dtype, seed: int):
    found = normal(batch, n, seed=seed).to(kind)
    k = min(k, n)
    chosen = select(found, k)
    assert all(len(set(row.tolist())) == k for row in chosen)
    # Values, not indices: bfloat16 scores tie, and among ties any is right.
    values, expected = (found.gather(1, i).relu().sort(1).values for i in (chosen, reference.select(found, k)))
    assert torch.equal(values, expected)


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 6), d=st.integers(1, 9), n=st.integers(1, 12), seed=st.integers(0, 99))
def test_sparse_products_equal_their_literal_twins(batch: int, d: int, n: int, seed: int):
    pairs = random_pairs(batch, n, seed)
    values, grad, rows = normal(len(pairs.latents), seed=seed), normal(batch, d, seed=seed + 1), normal(n, d, seed=seed + 2)
    where, ones = (pairs.latents, pairs.starts), torch.ones(batch, 1).double()
    twins = [
        (products.decode(values, pairs, rows), reference.decode(values, *where, rows)),
        (products.weight_gradient(values, pairs, grad), reference.weight_gradient(values, *where, grad, n)),
        (products.code_gradient(grad, pairs, rows), reference.code_gradient(grad, *where, rows)),
        (products.latent_sums(values, pairs), reference.weight_gradient(values, *where, ones, n)[:, 0]),
        (products.token_sums(values, pairs), reference.decode(values, *where, torch.ones(n, 1).double())[:, 0]),
    ]
    for fast, slow in twins:
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_pairs_know_the_token_of_each_and_the_tokens_of_each_latent():
    pairs = random_pairs(7, 5, 3)
    assert list(enumerate(pairs.tokens.tolist())) == reference.pairs(pairs.starts)
    order, tokens, bounds = pairs.by_latent
    for latent, (first, last) in enumerate(pairwise(bounds.tolist())):
        mine = [b for p, b in reference.pairs(pairs.starts) if pairs.latents[p] == latent]
        assert tokens[first:last].tolist() == mine
        assert (pairs.latents[order[first:last]] == latent).all()


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 6), d=st.integers(1, 6), n=st.integers(1, 9), centred=st.booleans(), seed=st.integers(0, 99))
def test_both_halves_have_the_gradients_of_dense_products_at_any_pairs(batch: int, d: int, n: int, centred: bool, seed: int):
    pairs, shapes = random_pairs(batch, n, seed), {"x": (batch, d), "W_enc": (d, n), "b_enc": (n,), "centre": (d,), "rows": (n, d)}
    leaves = {name: normal(*shape, seed=seed + i).requires_grad_() for i, (name, shape) in enumerate(shapes.items())}
    x, W_enc, b_enc, centre, rows = leaves.values()
    at = (pairs.tokens, pairs.latents)
    pre = ((x - centre if centred else x) @ W_enc + b_enc)[at]
    fast = autograd.encode(pre.detach(), pairs, x, W_enc, b_enc, centre if centred else None)
    weight = normal(batch, d, seed=seed + 9)
    dense = torch.zeros(batch, n).double().index_put(at, pre.sin())
    assert_same_gradients((autograd.decode(fast.sin(), pairs, rows) * weight).sum(), (dense @ rows * weight).sum(), leaves)


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 5), n=st.integers(1, 12), d=st.integers(1, 5), seed=st.integers(0, 99), data=st.data())
def test_a_listed_and_a_full_support_say_the_same(batch: int, n: int, d: int, seed: int, data: st.DataObject):
    """A code that is 0 off the pairs: sums, what it writes, what each prefix of the latents writes, and the gradients of these."""
    pairs, rows = random_pairs(batch, n, seed), normal(n, d, seed=seed).requires_grad_()
    at, cuts = (pairs.tokens, pairs.latents), data.draw(st.sets(st.integers(1, n)))
    ends = (*sorted(cuts - {n}), n)
    values = normal(len(pairs.latents), seed=seed + 1).requires_grad_()
    listed, full = Listed(values, pairs), Full(torch.zeros(batch, n).double().index_put(at, values))
    of_each = normal(n, seed=seed + 2)
    torch.testing.assert_close(listed.of_latent(of_each), full.of_latent(of_each)[at])
    torch.testing.assert_close(listed.per_token(values), full.per_token(full.pre))
    torch.testing.assert_close(listed.per_latent(values), full.per_latent(full.pre))
    torch.testing.assert_close(listed.decode(values, rows), full.decode(full.pre, rows))
    nested = full.nested(full.pre, rows, ends)
    for j, end in enumerate(ends):
        torch.testing.assert_close(nested[:, j], full.pre[:, :end] @ rows[:end])
    weight = normal(*nested.shape, seed=seed + 3)
    leaves = {"values": values, "rows": rows}
    assert_same_gradients((listed.nested(values, rows, ends) * weight).sum(), (nested * weight).sum(), leaves)


def literal(dictionary: SparseDictionary, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    w = dict(dictionary.named_parameters())
    pre = reference.pre_activations(w, x, dictionary.centred)
    code = torch.relu(pre) * reference.k_largest((pre * reference.lengths(w["W_dec"])).detach(), k)
    return code, reference.write(w, code, x)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 6), d_in=st.integers(1, 7), d_out=st.integers(1, 7), n=st.integers(1, 24),
    family=st.sampled_from(["autoencoder", "transcoder", "skip"]), bias=st.sampled_from([0.0, -2.0, -50.0]), data=st.data(),
)  # fmt: skip
def test_code_output_and_every_gradient_equal_the_literal_dictionary(
    batch: int, d_in: int, d_out: int, n: int, family: str, bias: float, data: st.DataObject
):
    """Includes negative biases, where fewer than k latents are positive and the clipped winners must pass no gradient."""
    d_out = d_in if family == "autoencoder" else d_out
    k = data.draw(st.integers(1, n))
    dictionary = random_dictionary(d_in, d_out, n, k, transcoder=family != "autoencoder", skip=family == "skip")
    dictionary.b_enc.data += bias
    x, target = normal(batch, d_in, seed=1).requires_grad_(), normal(batch, d_out, seed=2)
    code, y_hat = literal(dictionary, x, k)
    torch.testing.assert_close(dictionary.encode(x), code, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dictionary.encode_sparse(x).dense(), code, rtol=1e-10, atol=1e-12)
    leaves = {"x": x, **dict(dictionary.named_parameters())}
    assert_same_gradients((dictionary(x) - target).square().sum(), (y_hat - target).square().sum(), leaves)


@pytest.mark.parametrize("share", [SPARSE, DENSE])
@pytest.mark.parametrize("kind", ["Positive", "Jump", "Gate"])
def test_a_code_and_its_gradients_are_the_same_by_sparse_and_by_dense_products(kind: str, share: float, monkeypatch: pytest.MonkeyPatch):
    """The last latent has nothing to read and token 3 has no latent at all."""
    dictionary = random_dictionary(5, 4, 11, 2, transcoder=True, skip=True)
    dictionary.use(ACTIVATIONS[kind]())
    own = {name: normal(11, seed=i).abs().mul(0.4).requires_grad_() for i, name in enumerate(dictionary.activation.TENSORS)}
    for name, value in own.items():
        dictionary.register_parameter(name, torch.nn.Parameter(value.detach()))
    x = normal(7, 5, seed=1)
    x[3] = 0
    dictionary.b_enc.data.copy_(-normal(11, seed=5).abs())
    x.requires_grad_()
    w = dict(dictionary.named_parameters())
    u = x @ w["W_enc"]
    pre = u + w["b_enc"]
    code = {
        "Positive": lambda: pre.relu(),
        "Jump": lambda: pre * (pre > w["threshold"]),
        "Gate": lambda: (pre > 0) * (u * w["r_mag"].exp() + w["b_mag"]).relu(),
    }[kind]()
    monkeypatch.setattr(scores, "DENSE", share)
    assert isinstance(dictionary.support(x), Listed if share == SPARSE else Full)
    torch.testing.assert_close(dictionary.encode(x), code)
    torch.testing.assert_close(dictionary.encode_sparse(x).dense(), code)
    weight = normal(7, 4, seed=3)
    assert_same_gradients((dictionary(x) * weight).sum(), (reference.write(w, code, x) * weight).sum(), {"x": x, **w})
    assert_same_gradients((dictionary.encode_sparse(x).dense() * x.sum()).sum(), (code * x.sum()).sum(), {"x": x, **w})


def test_products_are_dense_from_the_share_of_active_latents_where_they_are_faster(monkeypatch: pytest.MonkeyPatch):
    dictionary = random_dictionary(5, 5, 400, 2)
    dictionary.use(Positive())
    x = normal(20, 5)
    for bias, kind in ((0.0, Full), (-50.0, Listed)):
        dictionary.b_enc.data.fill_(bias)
        assert isinstance(dictionary.support(x), kind)


@pytest.mark.parametrize("n_dead", [1, 3, 12, 40])
@pytest.mark.parametrize("family", ["autoencoder", "skip"])
def test_aux_k_equals_its_literal_twin_and_reaches_the_encoder(n_dead: int, family: str):
    """Dead latents fewer than k_aux, as many, and more than the dense path takes."""
    k_aux = 4
    dictionary = random_dictionary(6, 6, 64, 3, transcoder=family == "skip", skip=family == "skip")
    x, y = normal(15, 6, seed=2), normal(15, 6, seed=3)
    dead_list = torch.randperm(64, generator=torch.Generator().manual_seed(2))[:n_dead].tolist()
    dead = torch.zeros(64, dtype=torch.bool).index_fill_(0, torch.tensor(dead_list), True)
    w = dict(dictionary.named_parameters())
    pre = reference.pre_activations(w, x, dictionary.centred)
    slow = reference.aux_k(pre, y - literal(dictionary, x, 3)[1], dictionary.W_dec, dead_list, k_aux)
    expected = assert_same_gradients(aux_k(dictionary, x, y - dictionary(x), dead, k_aux), slow, w)
    for name in ("W_enc", "b_enc", "W_dec"):
        living = expected[name].movedim(1 if name == "W_enc" else 0, 0)[~dead]
        assert expected[name].abs().sum() > 0, f"no gradient reaches {name}"
        assert living.abs().sum() == 0, f"a gradient reaches the living rows of {name}: the residual is not detached"
    torch.testing.assert_close(among_sparse(dictionary, x, dead, k_aux), among_dense(dictionary, x, dead, k_aux))


def test_aux_k_is_zero_without_dead_latents_and_where_nothing_is_left_to_explain():
    """A residual without variance, as of a single token, gives neither a loss nor a gradient that is not finite."""
    dictionary = random_dictionary(5, 5, 20, 2)
    x = normal(6, 5)
    nobody, everybody = torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    assert aux_k(dictionary, x, x, nobody, 4) == 0
    for tokens, residual in ((x, torch.zeros_like(x)), (x[:1], x[:1])):
        loss = aux_k(dictionary, tokens, residual, everybody, 4)
        assert loss == 0
        assert all((g == 0).all() for g in gradients(loss, dict(dictionary.named_parameters())).values())


def test_a_latent_that_fires_in_the_batch_is_not_dead_in_it():
    topk = TopK(k=8, aux=Aux(k_aux=4))
    dictionary = random_dictionary(5, 5, 8, 8)
    x = normal(64, 5)
    active = (dictionary.encode(x) > 0).sum(0)
    assert active.all()
    losses = topk.loss(dictionary, Batch(x, x, dead=torch.ones(8, dtype=torch.bool)))
    assert losses.terms["aux"] == 0
    assert torch.equal(losses.active.long(), active)


def test_total_is_fvu_plus_an_eighth_of_aux():
    topk = TopK(k=2)
    dictionary = random_dictionary(6, 6, 64, 2)
    x = normal(3, 6)
    losses = topk.loss(dictionary, Batch(x, x, torch.ones(64, dtype=torch.bool)))
    torch.testing.assert_close(losses.total, losses.metrics["fvu"] + losses.metrics["aux_loss"] / 8)
    assert losses.metrics["aux_loss"] > 0
    expected = (x - dictionary(x)).square().sum(1).mean() / 6
    torch.testing.assert_close(losses.metrics["fvu"], expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_nan_in_a_token_comes_out_of_it_and_of_no_other(precision: torch.dtype):
    dictionary = TopK(k=8).build(16, 16, 4096)
    x = torch.randn(2, 16)
    x[0, 7] = torch.nan
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        y_hat = dictionary(x)
    assert y_hat[0].isnan().all()
    assert y_hat[1].isfinite().all()


def test_a_code_made_in_bfloat16_differs_from_float32_by_rounding_and_by_winners_that_nearly_tie():
    dictionary = TopK(k=8).build(64, 64, 1024)
    x = normal(256, 64).float()
    exact = dictionary.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = dictionary.encode(x)
        assert dictionary(x).dtype == torch.float32
    assert rough.dtype == torch.float32
    both = (exact > 0) & (rough > 0)
    assert both.sum() > 0.95 * 8 * 256
    torch.testing.assert_close(rough[both], exact[both], rtol=0.02, atol=0)
    smallest = exact.masked_fill(exact == 0, torch.inf).min(1, keepdim=True).values
    assert (rough - 1.02 * smallest)[(rough > 0) & ~both].max() < 0


def test_decoder_norms_decide_the_selection_and_scaling_them_changes_nothing():
    dictionary = random_dictionary(6, 6, 40, 4)
    x = normal(20, 6)
    before = dictionary(x)
    scale = normal(40, seed=1).abs() * 4 + 0.1
    with torch.no_grad():
        dictionary.W_dec.mul_(scale[:, None])
        dictionary.W_enc.div_(scale)
        dictionary.b_enc.div_(scale)
    torch.testing.assert_close(dictionary(x), before)


@pytest.mark.parametrize("kind", ["KLargest", "Jump"])
def test_scores_are_cut_into_slabs_without_changing_the_code(kind: str, monkeypatch: pytest.MonkeyPatch):
    dictionary = random_dictionary(6, 6, 40, 4)
    if kind == "Jump":
        dictionary.use(Jump())
        dictionary.b_enc.data.sub_(1)
    x = normal(50, 6)
    monkeypatch.setattr(scores, "DENSE", SPARSE)
    whole = dictionary.encode(x)
    monkeypatch.setattr(scores, "SLAB", 100)
    monkeypatch.setattr(scores, "TILE", 8)
    torch.testing.assert_close(dictionary.encode(x), whole)


@pytest.mark.skipif(not scores._packs(), reason="needs a CPU and a torch that multiply bfloat16 by oneDNN")
@pytest.mark.parametrize("rows", [1, 256, 300])
def test_a_packed_weight_makes_the_scores_of_a_plain_product(rows: int, monkeypatch: pytest.MonkeyPatch):
    """With a bias of -inf for the latents that are left out, and a last slab that is not full."""
    dictionary = random_dictionary(48, 48, 320, 4).float()
    x, among = normal(rows, 48).float(), torch.arange(320) % 3 > 0
    monkeypatch.setattr(scores, "SLAB", 256 * 320)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        made = dictionary.scores(x, among)
        found = torch.cat(list(made.slabs()))
    wanted = made.h.double() @ made.weight.double().t() + made.bias.double()
    assert found.dtype == torch.bfloat16
    assert all(slab.numel() <= scores.SLAB for slab in made.slabs())
    assert torch.isneginf(found[:, ::3]).all()
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=2**-8)


def test_a_dictionary_takes_any_leading_shape_and_is_a_dictionary():
    dictionary = random_dictionary(6, 4, 40, 4, transcoder=True, skip=True)
    x = normal(2, 3, 6)
    assert isinstance(dictionary, Dictionary)
    code = dictionary.encode_sparse(x)
    assert code.values.shape == (2, 3, 4)
    assert dictionary.encode(x).shape == (2, 3, 40)
    torch.testing.assert_close(dictionary.decode(code.dense()), dictionary.decode_sparse(code))
    torch.testing.assert_close(dictionary(x), dictionary.decode(dictionary.encode(x)) + dictionary.skip(x))
    torch.testing.assert_close(dictionary.decode(torch.eye(40).double()) - dictionary.b_dec, dictionary.directions())


def test_another_choice_and_a_part_of_the_latents_can_be_asked_for():
    dictionary = random_dictionary(6, 6, 40, 4)
    among = torch.arange(40) % 3 == 0
    found = dictionary.support(normal(3, 6), activation=KLargest(9), among=among)
    assert isinstance(found, Listed)
    assert found.pairs.starts.tolist() == [0, 9, 18, 27]
    assert among[found.pairs.latents].all()
