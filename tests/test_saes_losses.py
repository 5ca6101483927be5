"""Every term of every architecture's loss against its literal twin in float64: values, and gradients to every weight and to the input."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_saes_kernels import DENSE, SPARSE, assert_same_gradients, gradients, normal, randomised
from torch import Tensor

from saes.architectures import (
    ARCHITECTURES,
    Codebook,
    Crosscoder,
    Discrete,
    JumpRelu,
    Matryoshka,
    TopK,
    jumprelu,
    shared,
)
from saes.architectures.shared import Aux
from saes.dictionary import Batch, Losses
from saes.kernels import reference, scores
from saes.kernels.reference import Given, Terms
from saes.schedule import FitConfig
from saes.sparse import START
from saes.train import fit

FORMS = ("autoencoder", "transcoder", "skip")
# Beside the autoencoder.
ALLOWED: dict[str, tuple[str, ...]] = {"Codebook": FORMS[:1], "Discrete": FORMS[:1], "CrossLayer": FORMS[1:2]}
PARTS: dict[str, tuple[int, ...]] = {"Crosscoder": (1, 2, 3), "CrossLayer": (1, 2, 3)}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An architecture with options, a dictionary with random weights, and a batch."""

    arch: Any
    module: Any
    batch: Batch
    parts: int

    def given(self) -> Given:
        weights, aux = dict(self.module.named_parameters()), getattr(self.arch, "aux", Aux())
        k_aux = aux.k_aux or max(1, getattr(self.module, "d", self.module.d_in) // 2)
        centred = getattr(self.module, "centred", False)
        return Given(weights, self.batch.x, self.batch.y, self.batch.dead, centred, (aux.aux_coefficient, k_aux), self.parts)

    @property
    def strength(self) -> float:
        """The coefficient of a penalty, given or held."""
        given = getattr(self.arch, "penalty", None)
        return float(self.module.control[0].exp()) if given is None else given


def drawn(case: Case) -> Tensor:
    """The rows that a codebook draws for its codes."""
    return torch.randint(len(case.batch.x), (case.module.d_dict,), generator=torch.Generator().manual_seed(5))


TWINS: dict[str, Callable[[Case], tuple[Tensor, Terms]]] = {
    "TopK": lambda c: reference.topk(c.given(), k=c.arch.k, multi=c.arch.multi),
    "BatchTopK": lambda c: reference.batch_topk(c.given(), k=c.arch.k),
    "Crosscoder": lambda c: reference.batch_topk(c.given(), k=c.arch.k),
    "Matryoshka": lambda c: reference.matryoshka(c.given(), k=c.arch.k, ends=halves(c.module.d_dict, c.arch.prefixes)),
    "Relu": lambda c: reference.relu(c.given(), strength=c.strength, p=c.arch.p, unit=c.arch.directions == "unit"),
    "Discrete": lambda c: reference.discrete(c.given(), strength=c.strength / (1 if c.arch.penalty is not None else c.batch.y.shape[1])),
    "Gated": lambda c: reference.gated(c.given(), strength=c.strength),
    "JumpRelu": lambda c: reference.jumprelu(
        c.given(),
        k=c.arch.k,
        eps=c.arch.bandwidth,
        speed=jumprelu.SPEED,
        sparsity=c.arch.sparsity,
        strength=c.arch.coefficient if c.arch.sparsity == "target" else c.strength,
    ),
    "Codebook": lambda c: reference.codebook(
        c.given(),
        k=c.arch.k,
        metric=c.arch.metric,
        combine=c.arch.combine,
        coefficient=c.arch.dead_coefficient,
        drawn=drawn(c),
    ),
    "CrossLayer": lambda c: reference.cross_layer(c.given(), k=c.arch.k, n_layers=c.parts),
}

AUX = st.builds(Aux, aux_coefficient=st.sampled_from([1 / 32, 0.7, 0.0]), k_aux=st.sampled_from([None, 2, 9]))
PENALTY = st.sampled_from([None, 0.8])


def options(kind: str, d_dict: int) -> dict[str, st.SearchStrategy[Any]]:
    """The variants of an architecture, beside k."""
    own: dict[str, dict[str, Any]] = {
        "TopK": {"multi": st.sampled_from([0.0, 0.125])},
        "Relu": {"penalty": PENALTY, "p": st.sampled_from([1.0, 0.5]), "directions": st.sampled_from(["free", "unit"])},
        "Gated": {"penalty": PENALTY},
        "Discrete": {"penalty": PENALTY},
        "JumpRelu": {
            "sparsity": st.sampled_from(["target", "tanh"]),
            "bandwidth": st.sampled_from([0.5, 2.0]),
            "coefficient": st.just(1.5),
        },
        "Matryoshka": {"prefixes": st.integers(1, d_dict.bit_length())},
        "Codebook": {
            "books": st.sampled_from([1, 2]),
            "metric": st.sampled_from(["cosine", "euclid"]),
            "combine": st.sampled_from(["mean", "sum"]),
        },
    }
    return {**({} if kind == "Codebook" else {"aux": AUX}), **own.get(kind, {})}


def halves(d_dict: int, prefixes: int) -> list[int]:
    return [d_dict // 2**j for j in reversed(range(prefixes))]


@st.composite
def numbers(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Arguments of `case`: sizes from the smallest on, biases from many active latents to none, latents from none to all dead."""
    d_dict = 2 * draw(st.integers(2, 12))
    return {
        "k": draw(st.integers(1, min(4, d_dict // 2))),
        "options": {name: draw(choice) for name, choice in options(kind, d_dict).items()},
        "form": draw(st.sampled_from(ALLOWED.get(kind, FORMS))),
        "sizes": (draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4)), d_dict),
        "parts": draw(st.sampled_from(PARTS.get(kind, (1,)))),
        "bias": draw(st.sampled_from([0.0, -0.5, -1.0, -50.0])),
        "first": draw(st.sampled_from([1.0, 20.0])),
        "dead": draw(st.sampled_from([-9.0, 0.0, 9.0])),
        "seed": draw(st.integers(0, 999)),
    }


def case(
    kind: str,
    *,
    k: int = 2,
    options: dict[str, Any] | None = None,
    form: str = "autoencoder",
    sizes: tuple[int, int, int, int] = (6, 4, 3, 16),
    parts: int = 1,
    bias: float = 0.0,
    first: float = 1.0,
    dead: float = 0.0,
    seed: int = 0,
) -> Case:
    """Random weights and vectors. `sizes` are tokens, d_in and d_out of a part, latents; the first token is `first` times as strong."""
    n_tokens, d, d_out, d_dict = sizes
    d = 4 * d if kind == "Codebook" else d
    d_out = d if form == "autoencoder" or kind == "CrossLayer" else d_out
    width = d_dict * parts if kind == "CrossLayer" else d_dict
    arch = ARCHITECTURES[kind](k=k, **(options or {}))
    module = arch.build(parts * d, parts * d_out, width, seed=seed, transcoder=form != "autoencoder", skip=form == "skip", parts=parts)
    randomised(module, seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.add_(bias if name.endswith("b_enc") else 0)
    x = normal(n_tokens, parts * d, seed=seed + 1)
    x[0] *= first
    y = x.clone() if form == "autoencoder" else normal(n_tokens, parts * d_out, seed=seed + 2)
    silent = normal(width, seed=seed + 3) < dead
    return Case(arch, module, Batch(x.requires_grad_(), y, silent, torch.Generator().manual_seed(5)), parts)


def loss(c: Case, share: float = SPARSE) -> Losses:
    """By sparse or by dense products, where the architecture allows both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "DENSE", share)
        return c.arch.loss(c.module, c.batch)


def test_every_architecture_has_a_literal_twin():
    assert set(TWINS) == set(ARCHITECTURES)


@pytest.mark.parametrize("share", [SPARSE, DENSE])
@pytest.mark.parametrize("kind", TWINS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_term_and_its_gradients_equal_the_literal_twin(kind: str, share: float, data: st.DataObject):
    c = case(kind, **data.draw(numbers(kind)))
    found = loss(c, share)
    code, terms = TWINS[kind](c)
    assert found.terms.keys() == terms.keys()
    torch.testing.assert_close(found.active.long(), (code > 0).sum(0))
    torch.testing.assert_close(float(found.metrics["l0"]), float((code > 0).sum(1).double().mean()))
    weights = {"x": c.batch.x, **dict(c.module.named_parameters())}
    for name, term in found.terms.items():
        assert_same_gradients(term, terms[name], weights)


def test_a_token_has_at_most_four_times_the_latents_of_a_batch():
    c = case("BatchTopK", k=2, sizes=(6, 4, 4, 40), first=1000.0)
    code = c.module.encode(c.batch.x)
    assert ((code > 0).sum(1) <= 8).all()
    assert (code[0] > 0).sum() == 8
    assert (code > 0).sum() == 12


def test_a_latent_of_a_crosscoder_counts_the_sum_of_its_norms_not_the_norm_of_all():
    """Latent 0 writes to both sites with length 1 each, latent 1 to one of them with length 1.9; both read the same."""
    module = Crosscoder(k=1).build(4, 4, 2, parts=2)
    with torch.no_grad():
        module.W_enc.fill_(1.0)
        module.W_dec.copy_(torch.tensor([[1.0, 0, 1, 0], [1.9, 0, 0, 0]]))
    code = module.encode(torch.ones(1, 4))
    assert code[0, 0] > 0 == code[0, 1]


def test_the_layers_of_a_cross_layer_transcoder_compete_for_the_same_places():
    """With the second layer weak nearly all latents are of the first, whose cap is 4 k a token."""
    c = case("CrossLayer", k=2, parts=2, form="transcoder", sizes=(8, 4, 4, 40))
    with torch.no_grad():
        c.module.layers[1].W_enc.mul_(1e-3)
        c.module.layers[1].b_enc.mul_(1e-3)
    active = loss(c).active
    assert active.sum() <= 2 * 2 * 8
    assert active[:40].sum() > 3 * active[40:].sum()


@pytest.mark.parametrize("eps", [0.4, 0.05])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_threshold_of_a_jumprelu_learns_the_slope_of_the_expected_loss(seed: int, eps: float):
    """Finite differences over 250,000 inputs on a grid of normal quantiles; the bias of the estimate is in proportion to the bandwidth."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(500) + 0.5) / 500).double()
    x, step = torch.cartesian_prod(quantiles, quantiles), 0.02
    arch = JumpRelu(k=1, bandwidth=eps)
    module = randomised(arch.build(2, 2, 3, seed=seed), seed)
    with torch.no_grad():
        for side in (module.W_enc, module.W_dec):
            side.mul_(0.5 / START)
    learnt = module.get_parameter("threshold")
    learnt.data.copy_(torch.tensor([0.3, 0.6, 0.9]) / jumprelu.SPEED)
    batch = Batch(x, x, torch.zeros(3, dtype=torch.bool))

    def terms(moved: int, by: float) -> dict[str, Tensor]:
        with torch.no_grad():
            learnt[moved] += by / jumprelu.SPEED
            found = arch.loss(module, batch).terms
            learnt[moved] -= by / jumprelu.SPEED
        return found

    found = arch.loss(module, batch).terms
    estimates = {name: gradients(found[name], {"theta": learnt})["theta"] / jumprelu.SPEED for name in ("fvu", "sparsity")}
    moved = [(terms(i, step), terms(i, -step)) for i in range(3)]
    for name, estimate in estimates.items():
        slopes = torch.stack([(up[name] - down[name]) / (2 * step) for up, down in moved])
        assert (estimate - slopes).abs().max() < 0.4 * eps * slopes.abs().max(), name


def held(coefficient: float, l0: float) -> Any:
    """A dictionary with this coefficient, whose L0 has been so many times k."""
    module = TopK(k=1).build(2, 2, 4).double()
    module.register_buffer(shared.CONTROL, torch.tensor([coefficient, l0], dtype=torch.float64).log())
    return module


@settings(deadline=None, max_examples=30)
@given(l0s=st.lists(st.floats(0, 500), min_size=1, max_size=30), k=st.integers(1, 40), limit=st.sampled_from([0.06, torch.inf]))
def test_a_held_coefficient_moves_as_its_literal_twin(l0s: list[float], k: int, limit: float):
    module, control = held(0.05, 4.0), (math.log(0.05), math.log(4.0))
    numbers = {"gain": shared.GAIN, "memory": float(shared.MEMORY), "ahead": float(shared.AHEAD), "limit": limit}
    for l0 in l0s:
        found = shared.hold(module, torch.tensor(l0, dtype=torch.float64), k, limit)
        control = reference.hold(control, l0, k, **numbers)
        assert float(found) == pytest.approx(math.exp(control[0]), rel=1e-6)


@pytest.mark.parametrize(("limit", "expected"), [(torch.inf, 4.0), (1.5, 1.5)])
def test_a_held_coefficient_drives_l0_to_k_where_l0_follows_slowly_and_no_higher_than_its_limit(limit: float, expected: float):
    """A plant whose L0 falls with the coefficient, and follows it with a delay of 50 steps: L0 = 100 / (1 + coefficient)."""
    module = held(0.05, 4.0)
    l0, coefficient = torch.tensor(200.0, dtype=torch.float64), torch.zeros(())
    for _ in range(3000):
        coefficient = shared.hold(module, l0, 20, limit)
        l0 = l0 + (100 / (1 + coefficient) - l0) / 50
    assert float(coefficient) == pytest.approx(expected, rel=0.05)
    assert float(l0) == pytest.approx(100 / (1 + expected), rel=0.05)


@pytest.mark.parametrize("kind", ["Relu", "Gated", "Discrete", "JumpRelu"])
def test_a_dictionary_whose_l0_is_driven_to_k_starts_at_a_few_times_k(kind: str):
    """On normalised inputs, whatever its width; half of the latents is the most that a bias of 0 gives."""
    x = normal(4000, 32).float()
    for d_dict, expected in ((1024, shared.FIRST * 8), (16, 8)):
        arch = ARCHITECTURES[kind](k=8)
        found = arch.loss(arch.build(32, 32, d_dict), Batch(x, x, torch.zeros(d_dict, dtype=torch.bool)))
        assert float(found.metrics["l0"]) == pytest.approx(expected, rel=0.25)


def test_a_power_below_one_has_a_finite_gradient_where_a_latent_is_off():
    c = case("Relu", options={"p": 0.5, "penalty": 1.0})
    for share in (SPARSE, DENSE):
        found = gradients(loss(c, share).terms["penalty"], dict(c.module.named_parameters()))
        assert all(g.isfinite().all() for g in found.values())


def test_prefixes_are_halves_of_the_next_and_the_last_is_everything():
    assert Matryoshka().ends(4608) == (288, 576, 1152, 2304, 4608)
    assert Matryoshka(prefixes=7).ends(64) == (1, 2, 4, 8, 16, 32, 64)
    assert Matryoshka(prefixes=1).ends(5) == (5,)


def test_none_of_a_discrete_dictionary_stays_zero_and_is_never_revived():
    arch, x = Discrete(k=2), normal(64, 8).float()
    module = arch.build(8, 8, 12)
    cfg = FitConfig(steps=20, batch_size=64, lr=1e-2, dead_after=1, log_every=20)
    assert list(fit(module, ((x, x) for _ in range(20)), arch.loss, cfg))
    assert not module.W_enc[:, -1].any()
    assert not module.W_dec[-1].any()
    assert module.b_enc[-1] == 0


@pytest.mark.parametrize("options", [{}, {"directions": "unit"}])
@pytest.mark.parametrize("kind", ["TopK", "Relu", "Gated", "JumpRelu", "Codebook"])
def test_a_finished_dictionary_writes_what_was_trained(kind: str, options: dict[str, Any]):
    """Where no choice by batch is replaced; also with thresholds that were learnt below 0, of which the absolute value counts."""
    c = case(kind, k=3, options=options if kind == "Relu" else {}, sizes=(30, 4, 4, 16))
    if kind == "JumpRelu":
        assert (c.module.threshold < 0).any()
    trained = loss(c).metrics["fvu"]
    c.arch.finish(c.module, c.batch.x.detach())
    torch.testing.assert_close((c.module(c.batch.x) - c.batch.y).square().mean(), trained)


def test_a_finished_discrete_dictionary_says_which_latent_was_strongest_and_writes_its_mean_strength():
    arch, x = Discrete(k=2), normal(400, 6)
    module = randomised(arch.build(6, 6, 10))
    with torch.no_grad():
        for tensor in (module.W_enc.t(), module.b_enc, module.W_dec):
            tensor[-1] = 0
        module.b_enc[:-1] -= 0.5
    strength, direction = module.encode(x), F.normalize(module.W_dec, dim=1)
    best, winner = strength.max(1)
    winner[best <= 0] = 9
    assert 0 < (best <= 0).sum() < 300, "some inputs have no latent"
    arch.finish(module, x)
    code = module.encode(x)
    assert torch.equal(code.argmax(1), winner)
    assert (code.sum(1) == 1).all()
    for latent in range(9):
        mean = best[winner == latent].mean() if (winner == latent).any() else 1.0
        torch.testing.assert_close(module.W_dec[latent], mean * direction[latent])
    torch.testing.assert_close(module(x[best <= 0]), module.b_dec.expand(int((best <= 0).sum()), 6))


def test_codes_start_at_the_centres_of_what_they_are_shown():
    """Sixty tight clumps and sixty codes: k-means leaves nearly no error, and the same start comes of the same seed."""
    centres = normal(60, 8, seed=1).float()
    x = centres.repeat(20, 1) + 1e-3 * normal(1200, 8, seed=2).float()
    arch = Codebook(k=1, metric="euclid")
    one, other = arch.build(8, 8, 60), arch.build(8, 8, 60)
    for module in (one, other):
        arch.start(module, x)
    assert torch.equal(one.codebook, other.codebook)
    assert (x - one(x)).square().sum() < 0.05 * x.square().sum()


@pytest.mark.parametrize("kind", ["TopK", "CrossLayer"])
def test_tied_latents_write_what_the_best_linear_map_makes_of_what_they_read(kind: str):
    """Where targets are a linear map of inputs, directions are its images of encoder directions, all of one length."""
    parts = 2 if kind == "CrossLayer" else 1
    module = ARCHITECTURES[kind](k=2).build(4 * parts, 4 * parts, 12 * parts, transcoder=True, parts=parts)
    x, maps = normal(5000, 4 * parts).float(), normal(4 * parts, 4 * parts, seed=1).float()
    reads = [layer.W_enc.detach().clone() for layer in getattr(module, "layers", [module])]
    if kind == "CrossLayer":
        maps[4:, :4] = 0
    module.tie(x, x @ maps)
    for s, (layer, read) in enumerate(zip(getattr(module, "layers", [module]), reads, strict=True)):
        assert torch.equal(layer.W_enc, read)
        images = read.t() @ maps[4 * s : 4 * s + 4, 4 * s :]
        assert F.cosine_similarity(layer.W_dec, images, dim=1).min() > 0.99
        torch.testing.assert_close(layer.norms(), torch.full((12,), START))


def test_a_sample_with_fewer_rows_than_codes_starts_nothing():
    arch = Codebook(k=1)
    module = arch.build(8, 8, 60)
    before = module.codebook.clone()
    arch.start(module, normal(59, 8).float())
    assert torch.equal(module.codebook, before)
