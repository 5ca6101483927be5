"""Properties that public trainers of dictionaries lack or lost, one test each, and one for every architecture where it can be.

Others stand elsewhere: gradients of every term against float64 autograd in test_saes_losses.py; default configurations that run, folding,
resuming bit for bit in test_saes_architectures.py; kill -9, and weights in half precision, in test_saes_train.py.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_saes_architectures import SETTINGS, Setting, every_architecture, every_setting, exact, finished, fresh
from test_saes_kernels import DENSE, SPARSE, gradients, normal, random_dictionary
from test_saes_losses import FORMS, TWINS, Case, case, loss
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from saes import files
from saes.architectures import ARCHITECTURES, JumpRelu, Relu, TopK, jumprelu
from saes.architectures.shared import Aux
from saes.dictionary import Batch
from saes.kernels import products, scores
from saes.normalise import measure
from saes.schedule import FitConfig
from saes.train import Member, _Training, fit

PARTS = {"Crosscoder": 2, "CrossLayer": 2}
FORM = {"CrossLayer": "transcoder"}
every_kind = pytest.mark.parametrize("kind", TWINS)


def example(kind: str, **options: Any) -> Case:
    """Some latents active, some dead."""
    form = FORM.get(kind, "autoencoder")
    return case(kind, **{"form": form, "parts": PARTS.get(kind, 1), "sizes": (40, 4, 4, 16), "bias": -0.5, **options})


# What a term does not read, by name of weight; everything else must learn from it.
UNREAD = {
    "penalty": ("b_dec", "W_skip", "r_mag", "b_mag"),
    "gate": ("W_dec", "W_skip", "r_mag", "b_mag"),
    "sparsity": ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip"),
    "aux": ("b_dec", "W_skip", "threshold"),
}
# b_enc is the gate of Gated: which latents are on has no slope in the reconstruction. Discrete counts values whatever directions are long.
UNREAD_BY = {("Gated", "fvu"): ("b_enc",), ("Discrete", "penalty"): ("W_dec",)}
# Here a latent that is silent in a batch is below 0 on all of it, so that the auxiliary term has nothing to revive it by.
BELOW_ZERO = ("Relu", "Discrete", "Gated")


@every_kind
def test_every_term_reaches_every_weight_that_it_reads(kind: str):
    """A backward pass that forgets a use of the pre-activations leaves encoder weights without any gradient of that term."""
    c = example(kind, sizes=(20, 4, 4, 48), dead=9.0, options={"multi": 0.125} if kind == "TopK" else {})
    weights = dict(c.module.named_parameters())
    for term, value in loss(c).terms.items():
        if term == "aux" and kind in BELOW_ZERO:
            continue
        unread = UNREAD.get(term, ()) + UNREAD_BY.get((kind, term), ())
        for name, gradient in gradients(value, weights).items():
            if not name.endswith(unread):
                assert gradient.abs().sum() > 1e-9, f"{term} does not reach {name}"


@pytest.mark.parametrize("share", [SPARSE, DENSE])
@pytest.mark.parametrize("kind", [kind for kind in TWINS if kind != "Codebook"])
def test_a_winner_that_is_clipped_to_zero_passes_no_gradient(kind: str, share: float):
    """With very negative biases fewer than k latents are positive, here none."""
    c = example(kind, bias=-50.0)
    found = loss(c, share)
    assert not found.active.any()
    for name, gradient in gradients(found.total, dict(c.module.named_parameters())).items():
        if not name.endswith(("b_dec", "W_skip")):
            assert not gradient.any(), name


@pytest.mark.parametrize("kind", [kind for kind in TWINS if Setting(kind, "skip") in SETTINGS])
def test_every_reconstruction_has_the_skip_connection(kind: str):
    """Where skip and bias alone predict y, no reconstruction of any term has an error left."""
    c = example(kind, form="skip", options={"multi": 0.125} if kind == "TopK" else {})
    with torch.no_grad():
        c.module.W_dec.mul_(1e-9)
        y = c.batch.x @ c.module.W_skip.T + c.module.b_dec
        found = c.arch.loss(c.module, Batch(c.batch.x, y, c.batch.dead)).terms
    for term in set(found) - {"aux", "penalty", "sparsity"}:
        assert found[term] < 1e-12, term


@pytest.mark.parametrize("installed", [True, False])
def test_kernels_are_chosen_by_the_tensors_not_by_what_is_installed(installed: bool, monkeypatch: pytest.MonkeyPatch):
    """On the CPU everything runs with Triton imported and no GPU to be found, and where its kernels cannot be imported."""
    if installed:
        pytest.importorskip("triton")
        importlib.import_module("saes.kernels.triton_products")
    else:
        monkeypatch.setitem(sys.modules, "saes.kernels.triton_products", None)
    dictionary = TopK(k=2).build(4, 4, 8)
    dictionary(torch.randn(3, 4)).sum().backward()
    assert dictionary.W_enc.grad is not None


@pytest.mark.parametrize("kind", ["BatchTopK", "Matryoshka", "JumpRelu"])
def test_a_threshold_is_compared_with_the_same_values_after_folding(kind: str, tmp_path: Path):
    """Raw activations are a thousand times as long: a threshold that stayed behind would let all latents through, or none."""
    arch: Any = JumpRelu(k=3, threshold=0.5) if kind == "JumpRelu" else ARCHITECTURES[kind](k=3)
    x = normal(2000, 16).float() * 1000 + 5000
    norm = measure(x, x)
    dictionary = arch.build(16, 16, 64)
    arch.finish(dictionary, norm.x(x))
    wanted = (dictionary.encode(norm.x(x)) > 0).sum(1)
    assert 1 < wanted.double().mean() < 32
    files.save(dictionary, tmp_path, normalisation=norm, metadata={})
    found = (files.load(tmp_path).encode(x) > 0).sum(1)
    assert (found != wanted).double().mean() < 0.02


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [SPARSE, DENSE])
def test_the_gates_own_reconstruction_teaches_no_decoder(form: str, share: float):
    """Its copy is frozen, or directions would be bent to fit gates that are only half on."""
    c = example("Gated", form=form)
    found = gradients(loss(c, share).terms["gate"], dict(c.module.named_parameters()))
    assert found["W_enc"].any()
    assert found["b_enc"].any()
    for name in ("W_dec", "W_skip", "r_mag", "b_mag"):
        assert name not in found or not found[name].any(), name
    if form != "autoencoder":
        assert not found["b_dec"].any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@every_kind
def test_a_step_never_waits_for_the_device(kind: str, precision: Any, monkeypatch: pytest.MonkeyPatch):
    """Tensors without data that say they are on a GPU: what needs a number from the device, or sends one there, cannot run on them."""
    if kind == "CrossLayer":
        pytest.xfail("how many of the winners are of one layer is read from the device")
    module = (made := example(kind)).arch.build(16, 16, 64, parts=PARTS.get(kind, 1))

    def refused(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("a tensor of numbers is copied to the device, which waits")

    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr(products, "_on_gpu", lambda tensor: False)
    monkeypatch.setattr(scores, "_packs", lambda: False)
    with FakeTensorMode():
        for name, weight in list(module.named_parameters()):
            setattr(module, name, torch.nn.Parameter(torch.empty_strided(weight.shape, weight.stride())))
        for name, buffer in list(module.named_buffers()):
            setattr(module, name, torch.empty(buffer.shape))
        x, cfg = torch.empty(32, 16), FitConfig(steps=2, batch_size=32, precision=precision)
        training = _Training(Member(module, lambda step: iter([(x, x)]), made.arch.loss, cfg))
        monkeypatch.setattr(torch, "tensor", refused)
        training.advance()
        monkeypatch.undo()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_architecture
def test_a_step_on_a_gpu_never_waits_for_it(setting: Setting):
    """The same with the kernels of a GPU; the first steps compile them."""
    module = setting.build().cuda()
    data = [(x.cuda(), y.cuda()) for x, y in (next(setting.batches(256, step)) for step in range(4))]
    training = _Training(Member(module, lambda step: iter(data), setting.arch.loss, FitConfig(steps=4, batch_size=256, dead_after=1)))
    training.advance()
    training.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("share", [SPARSE, DENSE])
def test_an_inactive_latent_within_the_window_moves_its_threshold(share: float):
    """Windows see both sides: latents just below their threshold pull on it, and far ones do not, also where threshold < bandwidth / 2."""
    arch = JumpRelu(k=1, bandwidth=0.5, aux=Aux(aux_coefficient=0.0))
    module = arch.build(3, 3, 3).double()
    with torch.no_grad():
        module.W_enc.copy_(torch.eye(3))
        module.W_dec.copy_(torch.eye(3))
        module.threshold.copy_(torch.tensor([1.0, 1.0, 0.1]) / jumprelu.SPEED)
    # Below its threshold and in the window; below and outside; negative, 0.3 below a threshold of 0.1: outside.
    x = torch.tensor([[0.8, 0.7, -0.2]], dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saes.kernels.scores.DENSE", share)
        found = arch.loss(module, Batch(x, x, torch.zeros(3, dtype=torch.bool)))
    assert not found.active.any()
    theta = {"theta": module.get_parameter("threshold")}
    slopes = {term: gradients(found.terms[term], theta)["theta"] / jumprelu.SPEED for term in ("fvu", "sparsity")}
    # d fvu = -2 (y - y_hat) / d * dz, dz = -theta / eps
    torch.testing.assert_close(slopes["fvu"], torch.tensor([2 * 0.8 / 3 * 1 / 0.5, 0, 0], dtype=torch.float64))
    # d (L0 / k - 1)^2 = 2 (0 - 1) dH, dH = -1 / eps
    torch.testing.assert_close(slopes["sparsity"], torch.tensor([2 / 0.5, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize("kind", [kind for kind in TWINS if kind not in ("Codebook", *BELOW_ZERO)])
def test_what_the_dead_are_to_explain_is_held_constant(kind: str):
    """The auxiliary term moves dead latents alone: neither the living nor b_dec by way of the reconstruction."""
    c = example(kind, sizes=(20, 4, 4, 48), dead=9.0)
    found = loss(c)
    active = found.active > 0
    assert 0 < active.sum() < len(active)
    assert found.terms["aux"] > 0
    each = c.module.each() if kind == "CrossLayer" else [c.module]
    for layer, living in zip(each, active.split([layer.d_dict for layer in each]), strict=True):
        weights = dict(layer.named_parameters())
        grads = gradients(found.terms["aux"], weights)
        assert not grads["W_dec"][living].any()
        assert not grads["W_enc"][:, living].any()
        assert not grads["b_enc"][living].any()
        # b_dec is read by the dead latents' encoder in an autoencoder, and by nothing else.
        expected = -(layer.W_enc @ grads["b_enc"]) if layer.centred else torch.zeros_like(layer.b_dec)
        torch.testing.assert_close(grads["b_dec"], expected)


def test_dead_counters_are_part_of_the_state():
    """Resumed halfway, a latent that was silent before counts as dead as soon as it would have without a stop."""
    topk = TopK(k=2)
    cfg = FitConfig(steps=4, batch_size=8, dead_after=24, log_every=1, precision="float32")
    x = normal(8, 4).float()
    module = topk.build(4, 4, 32)
    rows = fit(module, ((x, x) for _ in range(4)), topk.loss, cfg)
    next(rows)
    saved = next(rows).checkpoint()
    assert saved.tensors["silent"].max() == 16
    third = next(iter(fit(topk.build(4, 4, 32), ((x, x) for _ in range(2)), topk.loss, cfg, resume=saved)))
    assert third.metrics["dead_share"] > 0
    assert third.metrics["aux_loss"] > 0


def test_directions_of_length_one_have_length_one_where_they_are_read():
    """Unit length is a property of the finished weights, not of those before the last step of the optimiser."""
    arch, x = Relu(k=3, directions="unit"), normal(64, 8).float()
    module = arch.build(8, 8, 32)
    assert list(fit(module, ((x, x) for _ in range(5)), arch.loss, FitConfig(steps=5, batch_size=64, lr=0.1, precision="float32")))
    before = module.encode(x) @ F.normalize(module.W_dec, dim=1) + module.b_dec
    arch.finish(module, x)
    torch.testing.assert_close(module.W_dec.norm(dim=1), torch.ones(32))
    torch.testing.assert_close(module(x), before)


@every_kind
def test_the_gradient_of_each_term_is_the_same_for_a_doubled_batch(kind: str):
    """Every term is a mean over tokens."""
    c = example(kind)
    twice = Batch(torch.cat([c.batch.x] * 2), torch.cat([c.batch.y] * 2), c.batch.dead, torch.Generator().manual_seed(5))
    control = {name: buffer.clone() for name, buffer in c.module.named_buffers()}
    one = loss(c).terms
    for name, buffer in control.items():
        c.module.get_buffer(name).copy_(buffer)
    two, weights = c.arch.loss(c.module, twice).terms, dict(c.module.named_parameters())
    for term in one:
        if (kind, term) == ("Codebook", "aux"):
            continue  # the rows that dead codes are drawn to are random
        for (name, first), second in zip(gradients(one[term], weights).items(), gradients(two[term], weights).values(), strict=True):
            torch.testing.assert_close(first, second, msg=lambda text, at=f"{term} to {name}": f"{at}: {text}")


@pytest.mark.parametrize("n_tokens", [1, 50])
@pytest.mark.parametrize("n_dead", [1, 7])
def test_the_pull_on_dead_codes_is_a_mean_over_tokens_and_codes(n_tokens: int, n_dead: int):
    """With equal tokens the random choice among them does not matter: each dead code is as far from them as it is."""
    c = example("Codebook", k=1)
    code, token = c.module.codebook.detach()[0], c.batch.x.detach()[:1]
    silent = (~c.module.encode(token)[0].bool()).nonzero()[:n_dead, 0]
    dead = torch.zeros(c.module.d_dict, dtype=torch.bool).index_fill_(0, silent, True)
    x = token.expand(n_tokens, -1)
    found = c.arch.loss(c.module, Batch(x, x, dead, torch.Generator()))
    expected = (code[silent] - (token - c.module.b_dec)).square().mean()
    torch.testing.assert_close(found.metrics["aux_loss"], expected.detach())


def test_a_skip_connection_keeps_its_orientation_through_a_file(tmp_path: Path):
    """Read as [d_out, d_in] where it is applied, folded and saved: with unequal scales a transpose would show."""
    dictionary = random_dictionary(5, 5, 8, 2, transcoder=True, skip=True).float()
    with torch.no_grad():
        dictionary.W_dec.zero_()
        dictionary.W_skip.copy_(torch.arange(25.0).view(5, 5))
    x = normal(200, 5).float() * 3 + 1
    y = x @ dictionary.W_skip.detach().T * 7 - 2
    norm = measure(x, y)
    with torch.no_grad():
        # The skip that predicts y from x in normalised units.
        dictionary.W_skip.mul_(7 * norm.scale_y[:, None] / norm.scale_x)
        dictionary.b_dec.zero_()
    torch.testing.assert_close(dictionary(norm.x(x)), norm.y(y), rtol=1e-4, atol=1e-4)
    files.save(dictionary, tmp_path, normalisation=norm, metadata={})
    torch.testing.assert_close(files.load(tmp_path)(x), y, rtol=1e-4, atol=1e-2)


@every_setting
def test_a_saved_code_is_never_negative_and_a_latent_below_zero_is_off(setting: Setting):
    """Also with k of all latents to choose from, where TopK without a ReLU would keep negative values."""
    module = exact(finished(setting))
    code = module.encode(fresh(setting).double() * 0.01)
    assert (code >= 0).all()
    assert (code == 0).any()


@every_setting
def test_finishing_takes_the_state_of_training_out_of_the_dictionary(setting: Setting):
    """What a file holds is weights: no coefficient that is being held, no choice by batch."""
    module = finished(setting)
    assert not list(module.named_buffers())
    settings: list[dict[str, Any]] = module.settings().get("layers", [module.settings()])
    assert all(part.get("activation", {}).get("kind") != "BatchLargest" for part in settings)


def test_batches_are_read_one_at_a_time_and_none_too_many():
    """A prefetching loop that runs over its end would move the cursor that a resumed run begins from."""
    topk, read = TopK(k=2), []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(100):
            read.append(step)
            x = normal(8, 4, seed=step).float()
            yield x, x

    for row in fit(topk.build(4, 4, 16), batches(), topk.loss, FitConfig(steps=6, batch_size=8, log_every=2)):
        assert len(read) == row.step
    assert read == list(range(6))
