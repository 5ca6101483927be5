"""The training loop: it resumes bit for bit (also after kill -9), keeps its counters and schedules, says what is wrong in a sentence."""

import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saes import checkpoint
from saes.architectures import TopK
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.normalise import Normalisation, measure
from saes.schedule import FitConfig
from saes.sparse import SparseDictionary
from saes.synthetic import Planted
from saes.train import Member, Row, fit, fit_together

ROOT = Path(__file__).resolve().parents[1]
DATA = Planted(d=16, n=64)


@functools.cache
def norm() -> Normalisation:
    x, _ = DATA.batch(4096, 0)
    return measure(x, x)


def planted(size: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches of known features, from a step on."""
    for step in itertools.count(start + 1):
        x = norm().x(DATA.batch(size, step)[0])
        yield x, x


def train(cfg: FitConfig, k: int = 4, width: int = 64, **resume: Any) -> tuple[SparseDictionary, list[Row]]:
    topk = TopK(k=k)
    dictionary = topk.build(16, 16, width)
    start = resume["resume"].step if resume else 0
    return dictionary, list(fit(dictionary, planted(cfg.batch_size, start), topk.loss, cfg, **resume))


def test_a_skip_transcoder_trains_every_one_of_its_weights():
    topk = TopK(k=4)
    module = topk.build(16, 10, 64, transcoder=True, skip=True)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    data = ((x, x[:, :10] * 2) for x, _ in planted(128))
    rows = list(fit(module, data, topk.loss, FitConfig(steps=40, batch_size=128, lr=3e-3, warmup=1, log_every=20)))
    assert rows[1].metrics["fvu"] < rows[0].metrics["fvu"]
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_metrics_are_means_over_the_tokens_of_the_interval():
    topk = TopK(k=4)
    dictionary = topk.build(16, 16, 64)
    batches = [next(planted(n, n)) for n in (100, 300)]
    cfg = FitConfig(steps=2, batch_size=200, lr=1e-12, log_every=2, precision="float32")
    expected = sum((x - dictionary(x)).square().sum().item() for x, _ in batches) / (400 * 16)
    (row,) = fit(dictionary, batches, topk.loss, cfg)
    assert row.metrics["fvu"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_resumed_from_disk_is_the_same_bits_as_one_never_stopped(tmp_path: Path, precision: Any):
    """dead_after is short, so the auxiliary loss and its counters are part of it; W_skip and the free norms are too."""
    topk, cfg = TopK(k=4), FitConfig(steps=12, batch_size=96, lr=3e-3, log_every=4, dead_after=96, precision=precision)
    data = lambda start: ((x, x * 2) for x, _ in planted(96, start))  # noqa: E731
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
from test_saes_train import TopK, FitConfig, planted, fit, checkpoint
path, topk = Path(sys.argv[1]), TopK(k=4)
cfg = FitConfig(steps=200, batch_size=64, log_every=1, dead_after=64)
resume = checkpoint.read(path) if path.exists() else None
dictionary = topk.build(16, 16, 200)
for row in fit(dictionary, planted(64, resume.step if resume else 0), topk.loss, cfg, resume=resume):
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
    data = itertools.islice(planted(32), 3)
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
        next(fit(topk.build(16, 16, 64).bfloat16(), planted(32), topk.loss, FitConfig(steps=1)))


@pytest.mark.parametrize("k", [0, 65])
def test_a_k_that_the_dictionary_cannot_hold_names_both_numbers(k: int):
    with pytest.raises(InputError, match=f"k={k} .*d_dict=64"):
        TopK(k=k).build(16, 16, 64)


def test_building_is_decided_by_the_seed_alone_and_ties_the_encoder():
    one, other, third = (TopK(k=2).build(16, 16, 64, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.W_enc, one.W_dec.T)
    torch.testing.assert_close(one.norms(), torch.full((64,), 0.25))
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
    assert FitConfig(steps=1).peak_lr(2**14) == FitConfig(steps=600).peak_lr(2**14) == pytest.approx(1.5e-3)
    assert FitConfig(steps=2400).peak_lr(2**16) == pytest.approx(3.75e-4)
    assert FitConfig(steps=10**6).peak_lr(2**14) == pytest.approx(3e-4)
    assert FitConfig(steps=1).peak_lr(2**16) == pytest.approx(7.5e-4)


def test_a_latent_is_dead_after_ten_million_tokens_or_a_hundredth_of_a_short_run():
    assert FitConfig(steps=10**6, batch_size=4096).dead_tokens() == 10_000_000
    assert FitConfig(steps=10_000, batch_size=4000).dead_tokens() == 400_000
    assert FitConfig(steps=10, batch_size=100).dead_tokens() == 800
    assert FitConfig(steps=10, dead_after=7).dead_tokens() == 7


def test_dead_counters_are_up_to_date_when_the_loss_reads_them():
    """Latent i fires in batch i alone; with dead_after of two batches it must be dead two batches later, and not before."""
    seen: list[list[int]] = []

    def loss(module: SparseDictionary, batch: Batch) -> Losses:
        active = torch.zeros(4)
        active[len(seen)] = 5
        seen.append((batch.dead & (active == 0)).nonzero()[:, 0].tolist())
        return Losses({"norm": module.W_dec.square().sum()}, active, {})

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
    next(fit(module, planted(32), topk.loss, FitConfig(steps=1, batch_size=32)))
    assert module.W_enc.grad is not None
    assert module.W_enc.stride() == module.W_enc.grad.stride() == (1, 16)


def test_the_fused_optimiser_makes_the_steps_of_adams_equations():
    """A quadratic in W_dec and the transposed W_enc, followed by hand in float64."""

    def loss(module: SparseDictionary, batch: Batch) -> Losses:
        total = (module.W_enc - 1).square().sum() / 100 + (module.W_dec + 2).square().sum() / 100
        return Losses({"quadratic": total}, torch.ones(8), {})

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
            v.mul_(0.99).add_(0.01 * g * g)
            w.sub_(0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8))
    list(fit(module, ((torch.ones(1, 5), torch.ones(1, 5)) for _ in range(3)), loss, cfg))
    torch.testing.assert_close(module.W_enc.detach(), weights[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(module.W_dec.detach(), weights[1], rtol=1e-7, atol=1e-9)


def constant(active: list[float]) -> Callable[[SparseDictionary, Batch], Losses]:
    """A loss under which latents are active on so many tokens of each batch."""

    def loss(module: SparseDictionary, batch: Batch) -> Losses:
        return Losses({"norm": module.W_dec.square().sum()}, torch.tensor(active), {})

    return loss


def test_a_latent_active_on_more_than_a_tenth_of_the_tokens_is_dense():
    data = ((torch.ones(20, 3), torch.ones(20, 3)) for _ in range(4))
    loss = constant([0.0, 2.0, 3.0, 20.0])
    rows = list(fit(TopK(k=1).build(3, 3, 4), data, loss, FitConfig(steps=4, batch_size=20, dead_after=10_000, log_every=2)))
    assert [row.metrics["dense_share"] for row in rows] == [0.5, 0.5]
    assert [row.metrics["dead_share"] for row in rows] == [0.0, 0.0]


def test_members_of_a_group_keep_their_own_lengths_and_schedules():
    """Rows come as each member is due; one that has finished reads no more batches."""
    reads: list[int] = []

    def batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in planted(32, step):
            reads.append(len(x))
            yield x, y

    topk = TopK(k=2)
    configs = [FitConfig(steps=4, batch_size=32, log_every=2, lr=1e-3), FitConfig(steps=6, batch_size=32, log_every=3, lr=1e-2)]
    members = [Member(topk.build(16, 16, width), batches, topk.loss, cfg) for width, cfg in zip((64, 100), configs, strict=True)]
    rows = [(number, row.step, row.metrics["lr"]) for number, row in fit_together(members)]
    assert [(number, step) for number, step, _ in rows] == [(0, 2), (1, 3), (0, 4), (1, 6)]
    assert [rate for _, _, rate in rows] == [cfg.lr_at(step - 1, 1) for cfg, step in ((configs[n], s) for n, s, _ in rows)]
    assert len(reads) == 10


def test_a_row_of_a_group_gives_the_checkpoint_of_its_own_member():
    topk, cfg = TopK(k=2), FitConfig(steps=2, batch_size=32, log_every=2)
    modules = [topk.build(16, 16, width) for width in (64, 100)]
    for number, row in fit_together([Member(module, functools.partial(planted, 32), topk.loss, cfg) for module in modules]):
        assert torch.equal(row.checkpoint().tensors["module/W_dec"], modules[number].W_dec)


def test_a_module_without_latents_to_count_is_refused():
    with pytest.raises(TypeError, match="has no d_dict"):
        next(fit(torch.nn.Linear(2, 2), [], constant([0.0]), FitConfig(steps=1)))
