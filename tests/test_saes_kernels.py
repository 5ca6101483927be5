"""Kernels against their literal twins, and the gradients of every loss term against float64 autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saes.activations import KLargest
from saes.architectures.topk import TopK
from saes.dictionary import Batch, Dictionary
from saes.kernels import products, reference
from saes.kernels.select import select
from saes.losses import among_dense, among_sparse, aux_k
from saes.sparse import SparseDictionary


def random_dictionary(
    d_in: int, d_out: int, d_dict: int, k: int, *, transcoder: bool = False, skip: bool = False, seed: int = 0
) -> SparseDictionary:
    """Every weight random, decoder norms unequal, in float64."""
    dictionary = TopK(k).build(d_in, d_out, d_dict, seed=seed, transcoder=transcoder, skip=skip).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in dictionary.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        dictionary.W_dec.mul_(torch.rand(d_dict, 1, generator=generator, dtype=torch.float64) + 0.5)
    return dictionary


def literal(dictionary: SparseDictionary, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    d = dictionary
    return reference.topk_dictionary(x, d.W_enc, d.b_enc, d.W_dec, d.b_dec, k=k, centred=d.centred, W_skip=d.W_skip)


def gradients(dictionary: SparseDictionary, loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*dictionary.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {name: torch.zeros_like(w) if g is None else g for name, w, g in zip(names, weights, found, strict=True)}


def assert_same_gradients(dictionary: SparseDictionary, fast: Tensor, slow: Tensor) -> dict[str, Tensor]:
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    expected = gradients(dictionary, slow)
    for name, gradient in gradients(dictionary, fast).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    return expected


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 5), n=st.sampled_from([1, 3, 16, 100, 512, 513, 640, 1024, 2048, 8192, 16384]), k=st.integers(1, 40),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), seed=st.integers(0, 9),
)  # fmt: skip
def test_select_finds_the_k_largest_positive_scores(batch: int, n: int, k: int, kind: torch.dtype, seed: int):
    scores = torch.randn(batch, n, generator=torch.Generator().manual_seed(seed)).to(kind)
    k = min(k, n)
    chosen = select(scores, k)
    assert all(len(set(row.tolist())) == k for row in chosen)
    # Values, not indices: bfloat16 scores tie, and among ties any is right.
    found, expected = (scores.gather(1, i).relu().sort(1).values for i in (chosen, reference.select(scores, k)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_nan_in_a_token_comes_out_of_it_and_of_no_other(precision: torch.dtype):
    dictionary = TopK(k=8).build(16, 16, 4096)
    x = torch.randn(2, 16)
    x[0, 7] = torch.nan
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        y_hat = dictionary(x)
    assert y_hat[0].isnan().all()
    assert y_hat[1].isfinite().all()


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 6), d=st.integers(1, 9), n=st.integers(1, 12), seed=st.integers(0, 9), data=st.data())
def test_sparse_products_equal_their_literal_twins(batch: int, d: int, n: int, seed: int, data: st.DataObject):
    k = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    values, grad, rows = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((batch, k), (batch, d), (n, d)))
    indices = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(batch)])
    pairs = [
        (products.decode(values, indices, rows), reference.decode(values, indices, rows)),
        (products.weight_gradient(values, indices, grad, n), reference.weight_gradient(values, indices, grad, n)),
        (products.code_gradient(grad, indices, rows), reference.code_gradient(grad, indices, rows)),
        (products.latent_sums(values, indices, n), reference.weight_gradient(values, indices, torch.ones(batch, 1).double(), n)[:, 0]),
    ]
    for fast, slow in pairs:
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


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
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, d_in, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randn(batch, d_out, generator=generator, dtype=torch.float64)
    code, y_hat = literal(dictionary, x, k)
    torch.testing.assert_close(dictionary.encode(x), code, rtol=1e-10, atol=1e-12)
    slow, fast = (y_hat - target).square().sum(), (dictionary(x) - target).square().sum()
    torch.testing.assert_close(torch.autograd.grad(fast, x)[0], torch.autograd.grad(slow, x, retain_graph=True)[0], rtol=1e-9, atol=1e-10)
    assert_same_gradients(dictionary, (dictionary(x) - target).square().sum(), slow)


@pytest.mark.parametrize("n_dead", [1, 3, 12, 40])
@pytest.mark.parametrize("family", ["autoencoder", "skip"])
def test_aux_k_equals_its_literal_twin_and_reaches_the_encoder(n_dead: int, family: str):
    """Dead latents fewer than k_aux, as many, and more than the dense path takes."""
    k_aux = 4
    dictionary = random_dictionary(6, 6, 64, 3, transcoder=family == "skip", skip=family == "skip")
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(15, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    dead_list = torch.randperm(64, generator=generator)[:n_dead].tolist()
    dead = torch.zeros(64, dtype=torch.bool).index_fill_(0, torch.tensor(dead_list), True)
    _, y_hat = literal(dictionary, x, 3)
    pre = dictionary.encoder_input(x) @ dictionary.W_enc + dictionary.b_enc
    slow = reference.aux_k(pre, y - y_hat, dictionary.W_dec, dead_list, k_aux)
    expected = assert_same_gradients(dictionary, aux_k(dictionary, x, y - dictionary(x), dead, k_aux), slow)
    for name in ("W_enc", "b_enc", "W_dec"):
        dim = 1 if name == "W_enc" else 0
        living = expected[name].movedim(dim, 0)[~dead]
        assert expected[name].abs().sum() > 0, f"no gradient reaches {name}"
        assert living.abs().sum() == 0, f"a gradient reaches the living rows of {name}: the residual is not detached"
    torch.testing.assert_close(among_sparse(dictionary, x, dead, min(k_aux, 64)), among_dense(dictionary, x, dead, k_aux))


def test_aux_k_is_zero_without_dead_latents_and_for_a_perfect_reconstruction():
    dictionary = random_dictionary(5, 5, 20, 2)
    x = torch.randn(6, 5, dtype=torch.float64)
    nobody, everybody = torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    assert aux_k(dictionary, x, x, nobody, 4) == 0
    with torch.no_grad():
        dictionary.b_enc.fill_(-1e6)
    assert aux_k(dictionary, x, torch.zeros_like(x), everybody, 4) == 0


def test_a_latent_that_fires_in_the_batch_is_not_dead_in_it():
    topk = TopK(k=8, k_aux=4)
    dictionary = random_dictionary(5, 5, 8, 8)
    x = torch.randn(64, 5, dtype=torch.float64)
    fired = (dictionary.encode(x) > 0).any(0)
    assert fired.all()
    losses = topk.loss(dictionary, Batch(x, x, dead=torch.ones(8, dtype=torch.bool)))
    assert losses.terms["aux"] == 0
    assert torch.equal(losses.fired, fired)


@pytest.mark.parametrize("term", ["fvu", "aux"])
def test_the_gradient_of_each_term_is_the_same_for_a_doubled_batch(term: str):
    topk = TopK(k=3, k_aux=4)
    dictionary = random_dictionary(6, 6, 32, 3)
    x = torch.randn(9, 6, dtype=torch.float64)
    dictionary.b_enc.data[:10] = -3.0
    dead = torch.zeros(32, dtype=torch.bool)
    dead[:10] = True
    one, two = (gradients(dictionary, topk.loss(dictionary, Batch(b, b, dead)).terms[term]) for b in (x, torch.cat([x, x])))
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_total_is_fvu_plus_a_thirty_second_of_aux():
    topk = TopK(k=2)
    dictionary = random_dictionary(6, 6, 64, 2)
    x = torch.randn(3, 6, dtype=torch.float64)
    losses = topk.loss(dictionary, Batch(x, x, torch.ones(64, dtype=torch.bool)))
    torch.testing.assert_close(losses.total, losses.metrics["fvu"] + losses.metrics["aux_loss"] / 32)
    assert losses.metrics["aux_loss"] > 0
    expected = (x - dictionary(x)).square().sum(1).mean() / 6
    torch.testing.assert_close(losses.metrics["fvu"], expected)


def test_a_code_made_in_bfloat16_differs_from_float32_by_rounding_and_by_winners_that_nearly_tie():
    dictionary = TopK(k=8).build(64, 64, 1024)
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
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
    x = torch.randn(20, 6, dtype=torch.float64)
    before = dictionary(x)
    scale = torch.rand(40, dtype=torch.float64) * 4 + 0.1
    with torch.no_grad():
        dictionary.W_dec.mul_(scale[:, None])
        dictionary.W_enc.div_(scale)
        dictionary.b_enc.div_(scale)
    torch.testing.assert_close(dictionary(x), before)


def test_scores_are_cut_into_slabs_without_changing_the_code(monkeypatch: pytest.MonkeyPatch):
    dictionary = random_dictionary(6, 6, 40, 4)
    x = torch.randn(50, 6, dtype=torch.float64)
    whole = dictionary.encode(x)
    monkeypatch.setattr("saes.kernels.winners.SLAB", 100)
    torch.testing.assert_close(dictionary.encode(x), whole)


def test_a_dictionary_takes_any_leading_shape_and_is_a_dictionary():
    dictionary = random_dictionary(6, 4, 40, 4, transcoder=True, skip=True)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    assert isinstance(dictionary, Dictionary)
    code = dictionary.encode_sparse(x)
    assert code.values.shape == (2, 3, 4)
    assert dictionary.encode(x).shape == (2, 3, 40)
    torch.testing.assert_close(dictionary.decode(code.dense()), dictionary.decode_sparse(code))
    torch.testing.assert_close(dictionary(x), dictionary.decode(dictionary.encode(x)) + dictionary.skip(x))
    torch.testing.assert_close(dictionary.decode(torch.eye(40).double()) - dictionary.b_dec, dictionary.directions())


def test_another_activation_can_be_asked_for():
    dictionary = random_dictionary(6, 6, 40, 4)
    assert dictionary.encode_sparse(torch.randn(3, 6, dtype=torch.float64), activation=KLargest(9)).indices.shape == (3, 9)
