"""Training: it recovers known features, resumes bit for bit (also after kill -9), keeps its counters and schedules."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saes import checkpoint
from saes.architectures import ARCHITECTURES, TopK
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.schedule import FitConfig
from saes.sparse import SparseDictionary
from saes.train import Row, fit

ROOT = Path(__file__).resolve().parents[1]


def superposed(d: int, n_features: int, active: int, batch: int, seed: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Sums of a few of many unit directions with positive strengths, normalised; batch i depends on seed and i alone."""
    directions = torch.nn.functional.normalize(torch.randn(n_features, d, generator=torch.Generator().manual_seed(seed)), dim=1)
    for i in itertools.count(start):
        generator = torch.Generator().manual_seed(1000 * seed + i + 1)
        chosen = torch.rand(batch, n_features, generator=generator).topk(active).indices
        strengths = 1 + torch.rand(batch, active, generator=generator)
        x = torch.einsum("bk,bkd->bd", strengths, directions[chosen]) * (d / (active * 7 / 3)) ** 0.5
        yield x, x


def true_directions(d: int, n_features: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n_features, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def train(cfg: FitConfig, k: int = 4, width: int = 64, **resume: Any) -> tuple[SparseDictionary, list[Row]]:
    topk = TopK(k=k)
    dictionary = topk.build(16, 16, width)
    start = resume["resume"].step if resume else 0
    return dictionary, list(fit(dictionary, superposed(16, 64, 4, cfg.batch_size, start=start), topk.loss, cfg, **resume))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_topk_recovers_the_directions_that_synthetic_data_is_made_of(precision: Any):
    d, n = 32, 64
    topk = TopK(k=3)
    dictionary = topk.build(d, d, n, seed=1)
    cfg = FitConfig(steps=3000, batch_size=512, lr=2e-3, warmup=100, precision=precision, log_every=500)
    rows = list(fit(dictionary, superposed(d, n, 3, 512), topk.loss, cfg))
    cosines = torch.nn.functional.normalize(dictionary.directions().detach(), dim=1) @ true_directions(d, n).T
    assert cosines.max(0).values.mean() > 0.95
    assert rows[-1].metrics["fvu"] < 0.1 < rows[0].metrics["fvu"]
    assert rows[-1].metrics["l0"] <= 3


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
def test_the_loss_falls_and_every_metric_is_reported(architecture: type[TopK]):
    arch = architecture(k=4)
    dictionary = arch.build(16, 16, 64)
    cfg = FitConfig(steps=60, batch_size=128, lr=3e-3, warmup=5, log_every=20)
    rows = list(fit(dictionary, superposed(16, 64, 4, 128), arch.loss, cfg))
    assert [(row.step, row.tokens) for row in rows] == [(20, 2560), (40, 5120), (60, 7680)]
    assert rows[0].metrics["fvu"] > rows[1].metrics["fvu"] > rows[2].metrics["fvu"]
    assert set(rows[0].metrics) >= {"loss", "fvu", "l0", "dead_share", "aux_loss", "lr", "grad_norm"}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
@pytest.mark.parametrize("family", ["autoencoder", "transcoder", "skip"])
def test_defaults_run_two_steps(architecture: type[TopK], family: str):
    arch = architecture()
    dictionary = arch.build(16, 16, 64, transcoder=family != "autoencoder", skip=family == "skip")
    (row,) = fit(dictionary, superposed(16, 64, 4, 4096), arch.loss, FitConfig(steps=2))
    assert row.step == 2
    assert row.tokens == 8192


def test_a_skip_transcoder_trains_every_one_of_its_weights():
    topk = TopK(k=4)
    module = topk.build(16, 10, 64, transcoder=True, skip=True)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    data = ((x, x[:, :10] * 2) for x, _ in superposed(16, 64, 4, 128))
    rows = list(fit(module, data, topk.loss, FitConfig(steps=40, batch_size=128, lr=3e-3, warmup=1, log_every=20)))
    assert rows[1].metrics["fvu"] < rows[0].metrics["fvu"]
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_metrics_are_means_over_the_tokens_of_the_interval():
    topk = TopK(k=4)
    dictionary = topk.build(16, 16, 64)
    batches = [next(superposed(16, 64, 4, n, seed=n)) for n in (100, 300)]
    cfg = FitConfig(steps=2, batch_size=200, lr=1e-12, log_every=2, precision="float32")
    expected = sum((x - dictionary(x)).square().sum().item() for x, _ in batches) / (400 * 16)
    (row,) = fit(dictionary, batches, topk.loss, cfg)
    assert row.metrics["fvu"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_resumed_from_disk_is_the_same_bits_as_one_never_stopped(tmp_path: Path, precision: Any):
    """dead_after is short, so the auxiliary loss and its counters are part of it; W_skip and the free norms are too."""
    topk, cfg = TopK(k=4), FitConfig(steps=12, batch_size=96, lr=3e-3, log_every=4, dead_after=96, precision=precision)
    data = lambda start: ((x, x * 2) for x, _ in superposed(16, 64, 4, 96, start=start))  # noqa: E731
    build = lambda: topk.build(16, 16, 300, transcoder=True, skip=True)  # noqa: E731
    whole = build()
    rows = []
    for row in fit(whole, data(0), topk.loss, cfg):
        rows.append(row)
        if row.step == 4:
            checkpoint.write(tmp_path / "c", row.checkpoint())
    assert rows[-1].metrics["aux_loss"] > 0
    resumed = build()
    rest = list(fit(resumed, data(4), topk.loss, cfg, resume=checkpoint.read(tmp_path / "c")))
    assert [row.metrics for row in rest] == [row.metrics for row in rows[1:]]
    assert_equal_state(rest[-1].checkpoint().tensors, rows[-1].checkpoint().tensors)


def assert_equal_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_two_runs_are_the_same_bits():
    cfg = FitConfig(steps=6, batch_size=512, log_every=3, dead_after=512)
    one, other = (train(cfg, width=1000)[1][-1].checkpoint().tensors for _ in range(2))
    assert_equal_state(one, other)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_saes_train import TopK, FitConfig, superposed, fit, checkpoint
path, topk = Path(sys.argv[1]), TopK(k=4)
cfg = FitConfig(steps=200, batch_size=64, log_every=1, dead_after=64)
resume = checkpoint.read(path) if path.exists() else None
dictionary = topk.build(16, 16, 200)
for row in fit(dictionary, superposed(16, 64, 4, 64, start=resume.step if resume else 0), topk.loss, cfg, resume=resume):
    checkpoint.write(path, row.checkpoint())
    print(row.step, flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_with_kill_9_ends_in_the_same_bits(tmp_path: Path):
    command = [sys.executable, "-c", KILLED.format(tests=str(ROOT / "tests"))]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], env=env, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, str(tmp_path / "cut")], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20:
        pass
    time.sleep(0.01)  # somewhere within a step or a write
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 20 <= checkpoint.read(tmp_path / "cut").step < 200
    subprocess.run([*command, str(tmp_path / "cut")], env=env, check=True, stdout=subprocess.DEVNULL)
    whole, cut = (checkpoint.read(tmp_path / name) for name in ("whole", "cut"))
    assert cut.step == whole.step == 200
    assert_equal_state(cut.tensors, whole.tensors)


def test_a_checkpoint_of_another_training_is_refused():
    cfg = FitConfig(steps=4, batch_size=32, log_every=2)
    saved = train(cfg)[1][-1].checkpoint()
    with pytest.raises(InputError, match=r"lr=None, not 0\.1"):
        train(FitConfig(steps=4, batch_size=32, log_every=2, lr=0.1), resume=saved)
    with pytest.raises(InputError, match=r"W_enc \[16, 65\]"):
        train(cfg, width=65, resume=saved)


def test_a_row_gives_its_checkpoint_only_while_it_is_the_last():
    rows = train(FitConfig(steps=4, batch_size=32, log_every=2))[1]
    with pytest.raises(AssertionError, match="moved on"):
        rows[0].checkpoint()


def test_a_finished_run_resumes_to_no_rows():
    cfg = FitConfig(steps=4, batch_size=32, log_every=2)
    assert train(cfg, resume=train(cfg)[1][-1].checkpoint())[1] == []


def test_batches_that_end_early_are_named():
    topk = TopK(k=2)
    data = itertools.islice(superposed(16, 64, 4, 32), 3)
    with pytest.raises(InputError, match="ended after 3 of 5 steps"):
        list(fit(topk.build(16, 16, 64), data, topk.loss, FitConfig(steps=5, batch_size=32)))


def test_a_loss_that_is_no_longer_finite_stops_the_run():
    topk = TopK(k=2)
    x = torch.full((32, 16), torch.nan)
    with pytest.raises(InputError, match="NaN in the activations"):
        list(fit(topk.build(16, 16, 64), iter([(x, x)]), topk.loss, FitConfig(steps=1, batch_size=32)))


def test_weights_in_half_precision_are_refused():
    topk = TopK(k=2)
    with pytest.raises(InputError, match="half precision"):
        next(fit(topk.build(16, 16, 64).bfloat16(), superposed(16, 64, 4, 32), topk.loss, FitConfig(steps=1)))


@pytest.mark.parametrize("k", [0, 65])
def test_a_k_that_the_dictionary_cannot_hold_names_both_numbers(k: int):
    with pytest.raises(InputError, match=f"k={k} .*d_dict=64"):
        TopK(k=k).build(16, 16, 64)


def test_building_is_decided_by_the_seed_alone_and_ties_the_encoder():
    one, other, third = (TopK(k=2).build(16, 16, 64, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.W_enc, one.W_dec.T)
    torch.testing.assert_close(one.norms(), torch.full((64,), 0.5))
    assert torch.equal(one.W_dec, other.W_dec)
    assert not torch.equal(one.W_dec, third.W_dec)
    state = torch.get_rng_state()
    TopK(k=2).build(16, 16, 64)
    assert torch.equal(state, torch.get_rng_state())


def test_the_learning_rate_rises_stays_and_falls_to_nearly_zero():
    cfg = FitConfig(steps=100, lr=1.0, warmup=10, decay=0.2)
    rates = [cfg.lr_at(step, 1) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([(20 - i) / 20 for i in range(20)])
    assert FitConfig(steps=1).peak_lr(2**14) == pytest.approx(2e-4)
    assert FitConfig(steps=1).peak_lr(2**16) == pytest.approx(1e-4)


def test_a_latent_is_dead_after_ten_million_tokens_or_a_hundredth_of_a_short_run():
    assert FitConfig(steps=10**6, batch_size=4096).dead_tokens() == 10_000_000
    assert FitConfig(steps=10_000, batch_size=4000).dead_tokens() == 400_000
    assert FitConfig(steps=10, batch_size=100).dead_tokens() == 800
    assert FitConfig(steps=10, dead_after=7).dead_tokens() == 7


def test_dead_counters_are_up_to_date_when_the_loss_reads_them():
    """Latent i fires in batch i alone; with dead_after of two batches it must be dead two batches later, and not before."""
    seen: list[list[int]] = []

    def loss(module: SparseDictionary, batch: Batch) -> Losses:
        fired = torch.zeros(4, dtype=torch.bool)
        fired[len(seen)] = True
        seen.append((batch.dead & ~fired).nonzero()[:, 0].tolist())
        return Losses({"norm": module.W_dec.square().sum()}, fired, {})

    module = TopK(k=1).build(3, 3, 4)
    data = ((torch.ones(5, 3), torch.ones(5, 3)) for _ in range(4))
    rows = list(fit(module, data, loss, FitConfig(steps=4, batch_size=5, dead_after=10, log_every=1)))
    assert seen == [[], [2, 3], [0, 3], [0, 1]]
    assert rows[-1].metrics["dead_share"] == 0.5


@pytest.mark.parametrize("field", [{"steps": 0}, {"log_every": 0}, {"decay": 1.5}, {"lr": 0.0}])
def test_a_config_that_cannot_train_is_refused(field: dict[str, Any]):
    with pytest.raises(InputError, match=next(iter(field))):
        FitConfig(**{"steps": 1, **field})


def test_the_gradient_keeps_the_layout_of_the_encoder_so_that_nothing_is_copied():
    topk = TopK(k=2)
    module = topk.build(16, 16, 64)
    next(fit(module, superposed(16, 64, 4, 32), topk.loss, FitConfig(steps=1, batch_size=32)))
    assert module.W_enc.grad is not None
    assert module.W_enc.stride() == module.W_enc.grad.stride() == (1, 16)


def test_the_fused_optimiser_makes_the_steps_of_adams_equations():
    """A quadratic in W_dec and the transposed W_enc, followed by hand in float64."""

    def loss(module: SparseDictionary, batch: Batch) -> Losses:
        total = (module.W_enc - 1).square().sum() / 100 + (module.W_dec + 2).square().sum() / 100
        return Losses({"quadratic": total}, torch.ones(8, dtype=torch.bool), {})

    module = TopK(k=1).build(5, 5, 8).double()
    weights = [module.W_enc.detach().clone(), module.W_dec.detach().clone()]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    cfg = FitConfig(steps=3, batch_size=1, lr=0.01, warmup=0, decay=0.0, clip=0.3)
    for t in range(1, 4):
        grads = [(w - target) / 50 for w, target in zip(weights, (1, -2), strict=True)]
        norm = torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros(())))
        for w, g, (m, v) in zip(weights, grads, moments, strict=True):
            g = g * min(1.0, 0.3 / (float(norm) + 1e-6))
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            w.sub_(0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8))
    list(fit(module, ((torch.ones(1, 5), torch.ones(1, 5)) for _ in range(3)), loss, cfg))
    torch.testing.assert_close(module.W_enc.detach(), weights[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(module.W_dec.detach(), weights[1], rtol=1e-7, atol=1e-9)
