"""What holds for every architecture of the union, in every form that it allows: built, trained, finished, saved, resumed."""

import copy
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_saes_kernels import DENSE, SPARSE
from torch import Tensor

from saes import checkpoint, files
from saes.activations import BatchLargest
from saes.architectures import ARCHITECTURES, MODULES, Codebook, Module, TopK
from saes.checkpoint import Checkpoint
from saes.dictionary import Dictionary
from saes.errors import InputError
from saes.kernels import scores
from saes.normalise import Normalisation, measure
from saes.schedule import FitConfig
from saes.synthetic import Planted
from saes.train import Member, Row, fit, fit_together

# The data that an architecture is made for, where that is not sums of features, and what it is then built for.
KINDS: dict[str, Any] = {"Codebook": "centres", "Crosscoder": "sites", "CrossLayer": "layers"}
K = {"Codebook": 1}
FORMS = {"autoencoder": {}, "transcoder": {"transcoder": True}, "skip": {"transcoder": True, "skip": True}}


@dataclasses.dataclass(frozen=True)
class Setting:
    """An architecture in one form, and raw activations for it: with an offset, and a scale for each part."""

    kind: str
    form: str

    @property
    def data(self) -> Planted:
        return Planted(KINDS.get(self.kind, "features"), d=16, n=24, active=3.0)

    @property
    def arch(self) -> Any:
        return ARCHITECTURES[self.kind](k=K.get(self.kind, 3))

    def build(self, seed: int = 0, arch: Any = None) -> Any:
        """A new dictionary for this data; raises InputError where the form is not allowed."""
        parts = self.data.parts
        d_out = parts * (10 if self.form != "autoencoder" and self.data.kind != "layers" else 16)
        return (arch or self.arch).build(16 * parts, d_out, 64 * parts, seed=seed, parts=parts, **FORMS[self.form])

    def raw(self, size: int, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, and x itself for an autoencoder."""
        x, y = self.data.batch(size, step)
        generator = torch.Generator().manual_seed(9)
        mix, offset = (torch.randn(n, 10 * self.data.parts, generator=generator) for n in (x.shape[1], 1))
        x = x * torch.tensor([3.0, 0.2][: self.data.parts]).repeat_interleave(16) + torch.randn(x.shape[1], generator=generator)
        if self.form == "autoencoder":
            return x, x
        return x, 5 * y - 1 if self.data.kind == "layers" else x @ mix + offset

    @functools.cached_property
    def norm(self) -> Normalisation:
        x, y = self.raw(4096, 0)
        return measure(x, y, self.data.parts)

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised, from a step on."""
        raw = (self.raw(size, step) for step in itertools.count(start + 1))
        return ((self.norm.x(x), self.norm.y(y)) for x, y in raw)


def allowed(setting: Setting) -> bool:
    try:
        setting.build()
    except InputError:
        return False
    return True


SETTINGS = [setting for kind in ARCHITECTURES for form in FORMS if allowed(setting := Setting(kind, form))]
FIRST = [next(s for s in SETTINGS if s.kind == kind) for kind in ARCHITECTURES]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.kind}-{s.form}")
every_architecture = pytest.mark.parametrize("setting", FIRST, ids=lambda s: s.kind)


@functools.cache
def trained(setting: Setting) -> tuple[Module, list[Row]]:
    """Sixty steps; not finished. Take a copy to change it."""
    module = setting.build()
    cfg = FitConfig(steps=60, batch_size=256, lr=5e-3, warmup=5, log_every=20, precision="float32")
    return module, list(fit(module, setting.batches(256), setting.arch.loss, cfg))


@functools.cache
def finished(setting: Setting) -> Any:
    """Read only."""
    module = copy.deepcopy(trained(setting)[0])
    setting.arch.finish(module, setting.norm.x(setting.raw(16_384, 0)[0]))
    return module


def exact(module: Any) -> Any:
    return copy.deepcopy(module).double()


def fresh(setting: Setting, size: int = 200) -> Tensor:
    """Normalised inputs that nothing was trained or measured on."""
    return setting.norm.x(setting.raw(size, 5000)[0])


@every_setting
def test_building_is_decided_by_the_seed_alone(setting: Setting):
    state = torch.get_rng_state()
    one, same, other = (setting.build(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@every_setting
def test_defaults_run_two_steps(setting: Setting):
    arch = ARCHITECTURES[setting.kind]()
    (row,) = fit(setting.build(arch=arch), setting.batches(4096), arch.loss, FitConfig(steps=2))
    assert (row.step, row.tokens) == (2, 8192)


@every_setting
def test_the_error_falls_and_every_metric_is_reported(setting: Setting):
    """The error, not the loss: the weight of a penalty that is held at an L0 rises at first, and the error may with it."""
    module, rows = trained(setting)
    x, y = next(setting.batches(2000))
    with torch.no_grad():
        first = float((setting.build()(x) - y).square().mean())
    errors = [row.metrics["fvu"] for row in rows]
    assert errors[-1] < 0.9 * first
    assert hasattr(module, "control") or first > errors[0] > errors[1] > errors[2]
    assert [(row.step, row.tokens) for row in rows] == [(20, 5120), (40, 10240), (60, 15360)]
    assert set(rows[0].metrics) >= {"loss", "fvu", "l0", "dead_share", "dense_share", "aux_loss", "lr", "grad_norm"}


@every_setting
def test_training_moves_every_weight(setting: Setting):
    before, after = setting.build(), trained(setting)[0]
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(old, new), name


@every_setting
def test_a_finished_dictionary_is_a_dictionary_for_any_leading_shape(setting: Setting):
    module = exact(finished(setting))
    x = fresh(setting, 12).double().unflatten(0, (3, 4))
    assert isinstance(module, Dictionary)
    code, sparse, y_hat = module.encode(x), module.encode_sparse(x), module(x)
    assert code.shape == (3, 4, module.d_dict)
    assert (code >= 0).all()
    torch.testing.assert_close(sparse.dense(), code)
    torch.testing.assert_close(module.decode(code) + module.skip(x), y_hat)
    torch.testing.assert_close(module.decode_sparse(sparse), module.decode(code))
    torch.testing.assert_close(module.reconstruct(x, sparse), y_hat)
    assert module.directions().shape == (module.d_dict, module.d_out)
    assert module.reads().shape == (module.d_dict, module.d_in)
    bias = module.decode(torch.zeros(module.d_dict).double())
    torch.testing.assert_close(code @ module.directions() + bias, module.decode(code))


@every_setting
def test_the_code_of_a_token_does_not_depend_on_its_neighbours_once_finished(setting: Setting):
    module, x = exact(finished(setting)), fresh(setting).double()
    alone = torch.cat([module.encode(token[None]) for token in x[:50]])
    torch.testing.assert_close(module.encode(x)[:50], alone)
    torch.testing.assert_close(module(x)[:50], torch.cat([module(token[None]) for token in x[:50]]))


@every_setting
def test_no_token_and_one_token_and_a_view_are_read_like_any_others(setting: Setting):
    module, x = exact(finished(setting)), fresh(setting).double()
    assert module.encode(x[:0]).shape == module.encode_sparse(x[:0]).dense().shape == (0, module.d_dict)
    assert module(x[:0]).shape == (0, module.d_out)
    torch.testing.assert_close(module.encode(x[7]), module.encode(x)[7])
    torch.testing.assert_close(module.decode_sparse(module.encode_sparse(x[7])) + module.skip(x[7]), module(x[7]))
    wide = torch.stack([x, -x], 2)[:, :, 0]
    assert not wide.is_contiguous()
    torch.testing.assert_close(module(wide), module(x))
    grads = [torch.autograd.grad(module(view).square().sum(), list(module.parameters()), allow_unused=True) for view in (x, wide)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def chooses_by_batch(module: Any) -> bool:
    return isinstance(getattr(module, "layers", [module])[0].__dict__.get("activation"), BatchLargest)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if chooses_by_batch(s.build())], ids=lambda s: f"{s.kind}-{s.form}")
def test_a_threshold_measured_at_the_end_keeps_k_latents_active_on_fresh_tokens(setting: Setting):
    code = finished(setting).encode(fresh(setting, 16_384))
    wanted = setting.arch.k * len(getattr(finished(setting), "layers", [0]))
    assert float((code > 0).sum(1).double().mean()) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("share", [SPARSE, DENSE])
@pytest.mark.parametrize("setting", [s for s in FIRST if chooses_by_batch(s.build())], ids=lambda s: s.kind)
def test_a_latent_that_writes_nothing_is_off_once_thresholds_are_measured(setting: Setting, share: float, monkeypatch: pytest.MonkeyPatch):
    """It has no score to compare; sparse and dense products must agree on that."""
    monkeypatch.setattr(scores, "DENSE", share)
    module = setting.build()
    layers = getattr(module, "layers", [module])
    for layer in layers:
        layer.W_dec.data[:5] = 0
        layer.b_enc.data[:5] = 9
    setting.arch.finish(module, fresh(setting, 2000))
    for code in module.encode(fresh(setting)).split(module.d_dict // len(layers), 1):
        assert code[:, 5:].any()
        assert not code[:, :5].any()


@every_setting
def test_a_saved_dictionary_reads_raw_activations_as_the_trained_one_did(setting: Setting, tmp_path: Path):
    module, norm = finished(setting), setting.norm
    check = files.save(module, tmp_path / "sae", normalisation=norm, metadata={"site": "3.resid_post"})
    assert check.passed
    loaded, x = files.load(tmp_path / "sae"), setting.raw(300, 6000)[0]
    assert type(loaded) is type(module)
    assert not any(p.requires_grad for p in loaded.parameters())
    inside, outside = exact(module), exact(loaded)
    code, y = inside.encode(norm.x(x.double())), norm.raw_y(inside(norm.x(x.double())))
    same = ((code > 0) == (outside.encode(x.double()) > 0)).all(1)
    assert same.double().mean() > 0.97
    for found, expected in ((outside.encode(x.double()), code), (outside(x.double()), y)):
        assert (found - expected)[same].abs().max() < 1e-5 * expected.abs().max()
    description = files.describe(tmp_path / "sae")
    assert description["metadata"] == {"site": "3.resid_post"}
    assert description["check"] == json.loads(json.dumps(vars(files.verify(tmp_path / "sae"))))
    assert set(loaded.state_dict()) == set(module.state_dict())


@every_setting
def test_folding_changes_neither_codes_nor_what_they_mean(setting: Setting):
    module, x = exact(finished(setting)), setting.raw(300, 6000)[0].double()
    before = copy.deepcopy(module.state_dict())
    folded, inside = module.folded(setting.norm), setting.norm.x(x)
    torch.testing.assert_close(folded.encode(x), module.encode(inside), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded(x), setting.norm.raw_y(module(inside)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded.directions() * setting.norm.scale_y, module.directions(), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@every_setting
@pytest.mark.parametrize("stage", ["new", "finished"])
def test_settings_as_json_build_the_same_dictionary(setting: Setting, stage: str):
    module = setting.build() if stage == "new" else finished(setting)
    if hasattr(module, "control"):
        return  # the coefficient of a penalty belongs to the training and is in its checkpoint
    again = MODULES[type(module).__name__].of_settings(json.loads(json.dumps(module.settings())))
    assert again.settings() == module.settings()
    again.load_state_dict(module.state_dict())
    x = fresh(setting)
    assert torch.equal(again.encode(x), module.encode(x))
    assert torch.equal(again(x), module(x))


CFG = FitConfig(steps=12, batch_size=96, lr=3e-3, log_every=4, dead_after=1, precision="float32")


def partly_dead(setting: Setting) -> Any:
    """A new dictionary, of whose latents some are rarely active."""
    module = setting.build()
    for name, weight in module.named_parameters():
        if name.endswith("b_enc"):
            weight.data[:8] = -1.5
    return module


@functools.cache
def alone(setting: Setting) -> tuple[list[dict[str, float]], list[Checkpoint]]:
    """Metrics and checkpoints of a training that was never stopped."""
    metrics, saved = [], []
    for row in fit(partly_dead(setting), setting.batches(96), setting.arch.loss, CFG):
        metrics.append(row.metrics)
        saved.append(row.checkpoint())
    assert any(m["aux_loss"] > 0 for m in metrics), "the auxiliary loss has to be part of what is compared"
    return metrics, saved


def through(path: Path, saved: Checkpoint) -> Checkpoint:
    checkpoint.write(path, saved)
    return checkpoint.read(path)


def assert_equal_state(one: Checkpoint, other: Checkpoint) -> None:
    assert dataclasses.replace(one, tensors={}) == dataclasses.replace(other, tensors={})
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        assert torch.equal(one.tensors[name], other.tensors[name]), name


@every_setting
def test_a_training_resumed_from_disk_is_the_same_bits_as_one_never_stopped(setting: Setting, tmp_path: Path):
    metrics, saved = alone(setting)
    resume = through(tmp_path / "c", saved[0])
    rows = []
    for row in fit(setting.build(), setting.batches(96, 4), setting.arch.loss, CFG, resume=resume):
        rows.append(row.metrics)
        last = row.checkpoint()
    assert rows == metrics[1:]
    assert_equal_state(last, saved[-1])


@pytest.mark.parametrize("begin", [(0, 0, 0), (0, 4, 8), (8, 0, 4)])
def test_trainings_that_run_together_are_the_same_bits_as_each_alone(begin: tuple[int, ...], tmp_path: Path):
    """All architectures at once, some resumed from later steps than others."""
    steps = [begin[i % 3] for i in range(len(FIRST))]
    members = []
    for number, (setting, step) in enumerate(zip(FIRST, steps, strict=True)):
        resume = through(tmp_path / str(number), alone(setting)[1][step // 4 - 1]) if step else None
        members.append(Member(partly_dead(setting), functools.partial(setting.batches, 96), setting.arch.loss, CFG, resume))
    found: dict[int, list[Any]] = {number: [] for number in range(len(FIRST))}
    order = []
    for number, row in fit_together(members):
        found[number].append((row.metrics, row.checkpoint()))
        order.append(row.step)
    assert order == sorted(order), "members that are ahead wait for those behind"
    for number, (setting, step) in enumerate(zip(FIRST, steps, strict=True)):
        metrics, saved = alone(setting)
        assert [m for m, _ in found[number]] == metrics[step // 4 :]
        assert_equal_state(found[number][-1][1], saved[-1])


@every_architecture
def test_a_code_made_in_bfloat16_explains_as_much_as_one_in_float32(setting: Setting):
    x, y = next(setting.batches(2000, 5000))
    module = trained(setting)[0]
    with torch.no_grad():
        exactly = (module(x) - y).square().mean()
        with torch.autocast("cpu", torch.bfloat16):
            roughly = (module(x) - y).square().mean()
    assert roughly.dtype == torch.float32
    assert float(roughly) == pytest.approx(float(exactly), rel=0.05, abs=0.002)


@every_architecture
@pytest.mark.parametrize("k", [0, 129])
def test_a_k_that_cannot_be_is_refused(setting: Setting, k: int):
    with pytest.raises(InputError, match=f"k={k}"):
        setting.build(arch=ARCHITECTURES[setting.kind](k=k))


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind not in ("Crosscoder", "CrossLayer", "Codebook")])
def test_several_sites_are_refused_by_architectures_of_one(kind: str):
    with pytest.raises(InputError, match="reads one site, not 2"):
        ARCHITECTURES[kind](k=3).build(32, 32, 64, parts=2)


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("Codebook", {"transcoder": True}, "writes what it reads"),
        ("Discrete", {"transcoder": True}, "writes what it reads"),
        ("CrossLayer", {}, "predicts what MLPs write"),
        ("CrossLayer", {"transcoder": True, "parts": 3}, "cannot be shared by 3 layers"),
        ("TopK", {"skip": True}, "would copy its input"),
    ],
)
def test_a_form_that_an_architecture_does_not_have_is_refused_in_a_sentence(kind: str, options: dict[str, Any], word: str):
    with pytest.raises(InputError, match=word):
        ARCHITECTURES[kind](k=3).build(12, 12, 64, **options)


def test_books_and_prefixes_that_do_not_divide_are_refused():
    for arch, d, d_dict in ((Codebook(k=1, books=5), 16, 60), (Codebook(k=1, books=3), 15, 64), (Codebook(k=9, books=8), 16, 64)):
        with pytest.raises(InputError, match=r"divisor|multiple|between"):
            arch.build(d, d, d_dict)
    with pytest.raises(InputError, match="prefixes=8"):
        ARCHITECTURES["Matryoshka"](k=3, prefixes=8).build(16, 16, 64)
    with pytest.raises(InputError, match="every size is at least 1"):
        TopK(k=1).build(0, 0, 4)
