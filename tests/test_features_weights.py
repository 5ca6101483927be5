"""Logit effects and neighbours against float64 formulas on models with gains, biases and both kinds of norm."""

from pathlib import Path

import pytest
import torch
from conftest import make_gpt2, make_llama
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.features import histogram, logits, neighbours
from interp.models import Model, load
from interp.sites import Site


def with_random_norm(folder: Path, *names: str) -> Model:
    """A tiny model whose final norm has a gain (and bias) of its own: a fresh one has ones and zeros."""
    torch.manual_seed(1)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name in names:
        weights[name] = torch.randn_like(weights[name]) + 1
    save_file(weights, path, {"format": "pt"})
    return load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return with_random_norm(make_llama(tmp_path_factory.mktemp("llama")), "model.norm.weight")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return with_random_norm(make_gpt2(tmp_path_factory.mktemp("gpt2")), "transformer.ln_f.weight", "transformer.ln_f.bias")


def rms_norm_formula(model: Model, directions: Tensor) -> Tensor:
    inner = model.bridge.original_model
    return (directions * inner.model.norm.weight).double() @ inner.lm_head.weight.double().T


def layer_norm_formula(model: Model, directions: Tensor) -> Tensor:
    inner = model.bridge.original_model
    centred = directions - directions.mean(1, keepdim=True)
    return (centred * inner.transformer.ln_f.weight).double() @ inner.lm_head.weight.double().T


@pytest.mark.parametrize(("name", "formula"), [("llama", rms_norm_formula), ("gpt2", layer_norm_formula)])
def test_the_direct_effect_is_the_direction_times_gain_times_unembedding(name: str, formula, request: pytest.FixtureRequest):
    model = request.getfixturevalue(name)
    directions = torch.randn(9, model.d_model) * torch.logspace(-4, 2, 9)[:, None]
    effect, expected = logits.direct_effect(model, directions), formula(model, directions)
    scale = expected.abs().amax(1, keepdim=True)
    assert ((effect - expected) / scale).abs().max() < 1e-4
    assert logits.direct_effect(model, torch.zeros(2, model.d_model)).abs().max() == 0


def test_the_direct_effect_is_what_adding_the_direction_does_to_the_logits(llama: Model):
    """At a fixed scale of the norm, which is the part that is left out."""
    direction, resid = torch.randn(1, llama.d_model), torch.randn(1, llama.d_model) * 3
    direction -= resid * (direction * resid).sum() / resid.square().sum()  # to first order the scale stays
    step = 1e-2
    change = (llama.unembed(resid + step * direction) - llama.unembed(resid - step * direction)) / (2 * step)
    torch.testing.assert_close(change * resid.square().mean().sqrt(), logits.direct_effect(llama, direction), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rows_at_once", [1, 4, 100])
def test_the_summary_equals_sorting_every_row(llama: Model, rows_at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logits, "_CHUNK", rows_at_once * llama.d_vocab)
    directions = torch.randn(11, llama.d_model)
    found, effects = logits.summarise(llama, directions), rms_norm_formula(llama, directions)
    effects = effects - effects.mean(1, keepdim=True)
    order = effects.argsort(1, descending=True)
    assert torch.equal(found.top_ids.long(), order[:, : logits.TOP])
    assert torch.equal(found.bottom_ids.long(), order.flip(1)[:, : logits.TOP])
    torch.testing.assert_close(found.top.double(), effects.gather(1, found.top_ids.long()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.bottom.double(), effects.gather(1, found.bottom_ids.long()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.range.double(), torch.stack([effects.amin(1), effects.amax(1)], 1), rtol=1e-4, atol=1e-4)
    assert found.counts.shape == (11, histogram.BINS)
    assert found.counts.sum(1).tolist() == [llama.d_vocab] * 11


def test_kurtosis_and_skew_equal_the_literal_moments():
    effects = torch.randn(5, 300).exp()
    kurtosis, skew = logits.moments(effects)
    for row, k, s in zip(effects.double().tolist(), kurtosis.tolist(), skew.tolist(), strict=True):
        mean = sum(row) / len(row)
        second, third, fourth = (sum((v - mean) ** power for v in row) / len(row) for power in (2, 3, 4))
        assert k == pytest.approx(fourth / second**2, rel=1e-4)
        assert s == pytest.approx(third / second**1.5, rel=1e-4)
    constant = logits.moments(torch.ones(1, 8))
    assert [float(value) for value in constant] == [0, 0]


def test_a_direction_at_z_goes_through_the_output_weights_of_its_heads(llama: Model):
    w_o = llama.w_o(1)
    whole = torch.randn(3, llama.n_heads * llama.d_head)
    expected = sum(whole.reshape(3, llama.n_heads, llama.d_head)[:, h] @ w_o[h] for h in range(llama.n_heads))
    found = logits.to_residual(llama, Site(1, "z"), whole)
    assert found is not None
    torch.testing.assert_close(found, expected)
    one = logits.to_residual(llama, Site(1, "z", 2), whole[:, : llama.d_head])
    assert one is not None
    torch.testing.assert_close(one, whole[:, : llama.d_head] @ w_o[2])


def test_sites_that_do_not_write_to_the_residual_stream_have_no_effect_to_show(llama: Model):
    directions = torch.randn(3, llama.d_model)
    assert logits.to_residual(llama, Site(1, "mlp_in"), directions) is None
    assert logits.to_residual(llama, Site(1, "q"), directions) is None
    assert logits.to_residual(llama, Site(1, "resid_mid"), directions) is directions


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_neighbours_equal_the_literal_double_loop(rows_at_once: int, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    directions = torch.randn(30, 6)
    directions[4] = 0
    monkeypatch.setattr(neighbours, "_CHUNK", rows_at_once * len(directions))
    found = neighbours.nearest(directions, 5)
    for i in range(30):
        cosine = {}
        for j in range(30):
            a, b = directions[i].double(), directions[j].double()
            if j != i:
                cosine[j] = float(a @ b / (a.norm() * b.norm())) if i != 4 and j != 4 else 0.0
        best = sorted(cosine, key=lambda j: -cosine[j])[:5]
        torch.testing.assert_close(found.cos[i].double(), torch.tensor([cosine[j] for j in best], dtype=torch.float64), rtol=0, atol=1e-6)
        assert i not in found.ids[i].tolist()
        if i != 4:  # all cosines of a zero direction are equal
            assert found.ids[i].tolist() == best


def test_a_small_dictionary_pads_its_neighbours():
    found = neighbours.nearest(torch.eye(3), 4)
    assert found.ids[:, 2:].tolist() == [[-1, -1]] * 3
    assert found.cos.tolist() == [[0, 0, 0, 0]] * 3


def test_encoder_and_decoder_agree_by_their_cosine():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, 2.0], [1.0, 1.0]])
    torch.testing.assert_close(neighbours.cosines(a, b), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(neighbours.norms(a), torch.tensor([5.0, 1.0, 0.0]))
