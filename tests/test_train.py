"""Training on a cache: figures that are measured, and resuming to the bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from interp import runs
from interp.evals.bootstrap import estimate
from interp.evals.loss_recovered import Spliced, loss_recovered
from interp.evals.reconstruction import Accumulator
from interp.models import load
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.evaluate import Evaluate
from interp.stages.train import Train
from interp.store import Store
from saes import files
from saes.architectures import TopK
from saes.errors import InputError

SITE = Site(1, "resid_post")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    stage = Cache(sites=(SITE,), model=str(tiny_llama), text=f"files:{corpus_file}", tokens=4096, context=32, dtype="float32", held_out=0.1)
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


def train(cached: Run, **options: object) -> Run:
    settings = {"architecture": TopK(k=4), "width": 64, "epochs": 4.0, "batch_size": 128, "precision": "float32", **options}
    done = execute(Train(cached.id, **settings), Context(cached.path.parent))  # pyright: ignore[reportArgumentType]
    assert done is not None
    return done


def test_the_saved_dictionary_has_the_reported_fvu_on_raw_activations(cached: Run):
    run = train(cached)
    store = Store.open(cached)
    x = store.rows(SITE, store.order(0).pool).float()
    dictionary = files.load(run.path)
    fvu = float((x - dictionary(x)).square().sum() / (x - x.mean(0)).square().sum())
    summary = json.loads(run.file("summary.json").read_text())
    assert fvu == pytest.approx(summary["fvu"], rel=0.05)
    assert summary["l0"] <= 4
    table = pq.read_table(run.file("metrics.parquet"))
    losses = [row["value"] for row in table.to_pylist() if row["name"] == "loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_the_evaluation_equals_its_literal_twin(cached: Run):
    run = train(cached)
    done = execute(Evaluate(run.id, sequences=8), Context(cached.path.parent))
    assert done is not None
    figures = {row["name"]: row for row in pq.read_table(done.file("metrics.parquet")).to_pylist()}
    store, dictionary = Store.open(cached), files.load(run.path)
    keep = store.keep[store.n_train :]
    x = store.sequences([SITE], store.n_train, store.n_seq)[keep].double()
    y = dictionary(x.float()).double()
    assert figures["fvu"]["value"] == pytest.approx(float(((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()), rel=1e-4)
    code = dictionary.encode(x.float())
    assert figures["l0"]["value"] == pytest.approx(float((code > 0).sum(1).double().mean()), rel=1e-5)
    assert figures["dead_share"]["value"] == pytest.approx(float((~(code > 0).any(0)).double().mean()))
    assert figures["fvu"]["low"] <= figures["fvu"]["value"] <= figures["fvu"]["high"]
    assert figures["ce_clean"]["value"] == pytest.approx(literal_cross_entropy(store), rel=1e-4)
    assert {"ce_recon", "ce_zero", "ce_mean", "kl", "ce_recovered_zero", "ce_recovered_mean", "dense_share"} <= set(figures)


def literal_cross_entropy(store: Store) -> float:
    config = store.run.config["config"]
    model = load(config["model"], config["dtype"])
    losses = []
    for row in store.tokens[store.n_train : store.n_train + 8]:
        ids = torch.from_numpy(row).long()[None]
        losses.append(torch.nn.functional.cross_entropy(model(ids)[0, :-1].double(), ids[0, 1:]))
    return float(torch.stack(losses).mean())


def test_the_identity_recovers_everything_and_the_mean_nothing(cached: Run):
    store = Store.open(cached)
    config = cached.config["config"]
    model = load(config["model"], config["dtype"])
    tokens, keep = torch.from_numpy(store.tokens[:6]).long(), store.keep[:6]
    mean = store.sequences([SITE], 0, 6).flatten(0, 1).mean(0)
    functions = [Spliced((SITE,), (SITE,), lambda x: x), Spliced((SITE,), (SITE,), lambda x: mean.expand_as(x))]
    same, constant = (found.table() for found in loss_recovered(model, functions, {SITE: mean}, [(tokens, keep)]))
    assert same["ce_recovered_zero"].value == pytest.approx(1, abs=1e-4)
    assert same["kl"].value == pytest.approx(0, abs=1e-5)
    assert constant["ce_recovered_mean"].value == pytest.approx(0, abs=1e-6)


def test_a_dictionary_of_the_mean_has_fvu_one(cached: Run):
    store = Store.open(cached)
    dictionary = TopK(k=1).build(32, 32, 8)
    keep = store.keep
    with torch.no_grad():
        dictionary.W_dec.zero_()
        dictionary.b_dec.copy_(store.sequences([SITE], 0, store.n_seq)[keep].mean(0))
    sums, x = Accumulator(dictionary), store.sequences([SITE], 0, store.n_seq)
    sums.update(x, x, keep)
    found = sums.result().table()
    assert found["fvu"].value == pytest.approx(1, abs=1e-5)


def test_a_bootstrap_interval_of_a_mean_has_the_width_of_its_standard_error():
    x = np.random.default_rng(0).normal(3, 2, 400)
    found = estimate({"x": x, "n": np.ones(400)}, lambda s: s["x"] / s["n"])
    assert found.value == pytest.approx(x.mean())
    assert (found.high - found.low) / (2 * 1.96 * x.std() / 20) == pytest.approx(1, abs=0.1)


def test_k_larger_than_the_width_is_refused(cached: Run):
    with pytest.raises(InputError, match=r"k=100 .* 64"):
        train(cached, architecture=TopK(k=100))


def test_an_unknown_site_is_refused_with_those_there_are(cached: Run):
    with pytest.raises(InputError, match=r"holds no 0\.z; it holds 1\.resid_post"):
        train(cached, site="0.z")


@pytest.mark.slow
def test_killed_or_stopped_at_ten_random_moments_a_training_ends_in_the_same_bits(tmp_path: Path, cached: Run):
    options = ["--k", "4", "--width", "256", "--epochs", "60", "--batch-size", "128", "--log-every", "1", "--checkpoint-seconds", "0.1"]
    command = [sys.executable, "-m", "interp", "train", cached.id, *options, "--root", str(cached.path.parent)]
    subprocess.run(command, check=True, capture_output=True)
    whole = next(run for run in runs.list_runs(cached.path.parent, "train") if run.config["config"]["epochs"] == 60)
    weights, metrics = load_file(whole.path / "weights.safetensors"), pq.read_table(whole.path / "metrics.parquet")
    whole.path.rename(tmp_path / whole.id)
    part = whole.path.with_name(whole.id + ".part")
    kills = 0
    for index, moment in enumerate(np.random.default_rng(1).uniform(0.0, 0.5, 10)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_steps(process, part)
        time.sleep(moment)
        process.send_signal(signal.SIGTERM if index % 5 == 4 else signal.SIGKILL)
        kills += process.wait() in (-9, 130)
    assert kills >= 5
    subprocess.run(command, check=True, capture_output=True)
    again = load_file(whole.path / "weights.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert pq.read_table(whole.path / "metrics.parquet").equals(metrics)


def wait_for_steps(process: "subprocess.Popen[bytes]", part: Path) -> None:
    """Until the training has logged a step since it was started."""
    log = part / "progress.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else 0
    while process.poll() is None and not (log.exists() and log.stat().st_mtime_ns != before and len(log.read_text().splitlines()) > 2):
        time.sleep(0.01)
