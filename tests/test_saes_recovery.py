"""Ground truth: dictionaries find the features that data was made of, and the measure of that is itself right."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_saes_architectures import KINDS, K
from torch import Tensor

from saes.architectures import ARCHITECTURES, Codebook, TopK
from saes.errors import InputError
from saes.normalise import measure
from saes.schedule import FitConfig, clip_of
from saes.synthetic import Planted, Recovery, recovery
from saes.train import fit

KINDS_OF_DATA = ("features", "centres", "sites", "layers")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small are several times as fast on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(arch: Any, data: Planted, *, steps: int, lr: float, precision: Any = "float32") -> tuple[Recovery, dict[str, float]]:
    """Train on known features; how many were found, and error and L0 on fresh data."""
    x, y = data.batch(8192, 0)
    norm = measure(x, y if data.kind == "layers" else x, data.parts)
    d_in, d_out = x.shape[1], y.shape[1]
    module = arch.build(d_in, d_out, 2 * data.n_features, seed=1, transcoder=data.kind == "layers", parts=data.parts)
    if isinstance(arch, Codebook):
        arch.start(module, norm.x(x))
    batches = ((norm.x(a), norm.y(b)) for a, b in (data.batch(512, step) for step in range(1, steps + 1)))
    cfg = FitConfig(steps, 512, lr=lr, clip=clip_of(arch), precision=precision, log_every=steps)
    assert list(fit(module, batches, arch.loss, cfg))
    arch.finish(module, norm.x(x))
    a, b = (part(t) for part, t in zip((norm.x, norm.y), data.batch(4096, steps + 1), strict=True))
    with torch.no_grad():
        found = {"fvu": float((b - module(a)).square().mean()), "l0": float((module.encode(a) > 0).sum(1).double().mean())}
    return recovery(module.directions() / norm.scale_y, data.writes()), found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TopK", "BatchTopK"])
def test_features_are_found_in_three_hundred_steps(kind: str):
    data = Planted(d=32, n=48, active=3.0)
    found, measured = trained(ARCHITECTURES[kind](k=3), data, steps=300, lr=1e-2)
    assert found.found >= 0.95
    assert found.mcc > 0.98
    assert measured["fvu"] < {"TopK": 0.2, "BatchTopK": 0.08}[kind]
    assert measured["l0"] == pytest.approx(3, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_finds_the_features_that_its_data_is_made_of(kind: str):
    data = Planted(KINDS.get(kind, "features"), d=32, n=48, active=3.0)
    # These features have no hierarchy, which small prefixes would be for.
    options = {"Matryoshka": {"prefixes": 2}}.get(kind, {})
    found, measured = trained(ARCHITECTURES[kind](k=K.get(kind, 3), **options), data, steps=2000, lr=5e-3)
    assert found.found >= 0.95
    # A penalty that would have to crush values to reach k stops before.
    least, most = {"CrossLayer": (6, 6), "Codebook": (1, 1), "Discrete": (1, 1), "Relu": (3, 8)}.get(kind, (3, 3))
    assert 0.85 * least < measured["l0"] < 1.15 * most


@pytest.mark.slow
def test_features_are_found_in_bfloat16_as_in_float32():
    found, _ = trained(TopK(k=3), Planted(d=32, n=48, active=3.0), steps=600, lr=1e-2, precision="bfloat16")
    assert found.found == 1


@pytest.mark.parametrize("kind", KINDS_OF_DATA)
def test_the_same_seed_and_step_give_the_same_batch_and_others_do_not(kind: Any):
    data = Planted(kind, seed=3)
    state = torch.get_rng_state()
    once, again, later = data.batch(16, 5), data.batch(16, 5), data.batch(16, 6)
    assert torch.equal(state, torch.get_rng_state())
    other = dataclasses.replace(data, seed=4)
    for i in (0, 1):
        assert torch.equal(once[i], again[i])
        assert not torch.equal(once[i], later[i])
        assert not torch.equal(once[i], other.batch(16, 5)[i])
    assert torch.equal(data.reads(), data.reads())
    assert not torch.equal(data.reads(), other.reads())


@pytest.mark.parametrize("kind", KINDS_OF_DATA)
def test_batches_are_made_of_their_features(kind: Any):
    """Without noise a batch is a code times the directions: least squares leaves nothing; two layers share no code."""
    data = Planted(kind, d=16, n=10, active=2.0, noise=0.0)
    x, y = data.batch(200, 1)
    assert data.reads().shape == (data.n_features, x.shape[1])
    torch.testing.assert_close(data.reads().norm(dim=1), torch.ones(data.n_features))
    code = torch.linalg.lstsq(data.reads().T, x.T).solution.T
    torch.testing.assert_close(code @ data.reads(), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(code @ data.writes(), y, rtol=1e-4, atol=1e-4)
    on = code > 0.25
    assert (code[~on].abs() < 1e-4).all()
    assert on.double().sum(1).mean() == pytest.approx({"centres": 1.0, "layers": 4.0}.get(kind, 2.0), rel=0.15)


def test_a_layer_writes_to_itself_and_to_later_ones():
    data = Planted("layers", d=8, n=5)
    first, second = data.writes().split(5)
    assert first[:, :8].any()
    assert first[:, 8:].any()
    assert not second[:, :8].any()
    torch.testing.assert_close(data.reads()[:5, 8:], torch.zeros(5, 8))


@pytest.mark.parametrize("active", [0.0, 128.0])
def test_a_code_that_is_not_sparse_is_refused(active: float):
    with pytest.raises(InputError, match="no sparse code"):
        Planted(active=active)


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 12), more=st.integers(0, 5), seed=st.integers(0, 99))
def test_features_themselves_are_found_in_any_order_and_at_any_length(n: int, more: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 20, generator=generator)
    directions = torch.cat([features * (0.1 + torch.rand(n, 1, generator=generator)), torch.randn(more, 20, generator=generator)])
    found = recovery(directions[torch.randperm(n + more, generator=generator)], features)
    assert (found.mcc, found.found) == (pytest.approx(1), 1)


def random(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_random_directions_find_nothing():
    found = recovery(random(256, 64, 0), random(128, 64, 1))
    assert found.found == 0
    assert found.mcc < 0.45


def test_one_direction_counts_for_one_feature_and_an_opposite_one_for_none():
    """A dictionary narrower than the features can find so many; copies of one direction find one."""
    features = F.normalize(random(10, 64, 0), dim=1)
    some = recovery(features[:4], features)
    assert (some.mcc, some.found) == (pytest.approx(0.4), 0.4)
    assert recovery(features[:1].expand(10, 64), features).found == 0.1
    assert recovery(-features, features).found == 0
