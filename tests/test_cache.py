"""The activation store: what is cached is what the model computes; killed and started again it ends in the same bytes."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from interp import runs
from interp.hooks import record
from interp.models import load
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.store import Store
from saes.errors import InputError

SITES = (Site(0, "z"), Site(1, "resid_post"))


def stage(model: Path, text: Path, **options: object) -> Cache:
    settings = {"tokens": 2048, "context": 32, "batch_tokens": 128, "shard_tokens": 512, "dtype": "float32", "held_out": 0.1, **options}
    return Cache(sites=SITES, model=str(model), text=f"files:{text}", **settings)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    done = execute(stage(tiny_llama, corpus_file), Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


def test_shards_hold_what_the_model_computes(run: Run, tiny_llama: Path):
    store = Store.open(run)
    tokens = torch.from_numpy(store.tokens[5:9]).long()
    for site, activation in record(load(str(tiny_llama)), tokens, SITES).items():
        assert torch.allclose(store.sequences([site], 5, 9), activation.flatten(2), atol=1e-6)


def test_rows_by_flat_position_come_in_the_order_asked(run: Run):
    store = Store.open(run)
    flat = np.random.default_rng(0).permutation(store.n_seq * store.context)[:300]
    whole = store.sequences([SITES[1]], 0, store.n_seq).flatten(0, 1)
    assert torch.equal(store.rows(SITES[1], flat), whole[torch.from_numpy(flat)])


def test_every_sequence_begins_with_bos_and_documents_are_where_the_table_says(run: Run, tiny_llama: Path):
    store = Store.open(run)
    assert (store.tokens[:, 0] == load(str(tiny_llama)).bos).all()
    table = pq.read_table(run.file("documents.parquet")).to_pylist()
    for row in table[:20]:
        assert store.doc_of[row["seq"], row["pos"]] == row["doc"]
    assert {row["doc"] for row in table} >= set(np.unique(store.doc_of)) - {-1}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_chosen_dtype_is_what_is_stored(tmp_path: Path, tiny_llama: Path, corpus_file: Path, dtype: str):
    done = execute(stage(tiny_llama, corpus_file, dtype=dtype, tokens=512), Context(tmp_path))
    assert done is not None
    assert str(Store.open(done).sequences([SITES[0]], 0, 1).dtype) == f"torch.{dtype}"


def test_the_same_work_is_found_and_not_repeated(run: Run, tiny_llama: Path, corpus_file: Path):
    said: list[str] = []
    assert execute(stage(tiny_llama, corpus_file), Context(run.path.parent), said.append) == run
    assert said == [f"{run.id} is there already: nothing to do"]


def test_bos_padding_and_outliers_are_left_out_and_counted(run: Run):
    store = Store.open(run)
    out = store.excluded
    assert int(out["bos"].sum()) == store.n_seq
    text = torch.from_numpy(store.doc_of >= 0)
    giants = [store.norms(site) > 10 * store.norms(site)[text].median() for site in store.sites]
    assert torch.equal(out["outlier"], text & torch.stack(giants).any(0)), "a token that is an outlier anywhere is left out everywhere"
    pool = store.order(0).pool
    assert len(pool) == int(store.keep[: store.n_train].sum())
    assert not store.excluded["bos"].flatten()[torch.from_numpy(pool)].any()


def test_the_order_is_a_permutation_each_epoch_and_a_function_of_seed_and_step(run: Run):
    store = Store.open(run)
    order = store.order(seed=3)
    n = len(order.pool)
    steps = [order.rows(step, 100) for step in range(2 * n // 100 + 1)]
    flat = np.concatenate(steps)
    assert sorted(flat[:n]) == sorted(flat[n : 2 * n]) == sorted(order.pool)
    assert not np.array_equal(flat[:n], flat[n : 2 * n])
    fresh = store.order(seed=3)
    assert all(np.array_equal(fresh.rows(step, 100), steps[step]) for step in (7, 0, len(steps) - 1))
    assert not np.array_equal(store.order(seed=4).rows(0, 100), steps[0])


def test_held_out_tokens_are_never_trained_on(run: Run):
    store = Store.open(run)
    train, held_out = (set(store.order(0, part).pool) for part in ("train", "held_out"))
    assert train.isdisjoint(held_out)
    assert min(held_out) >= store.n_train * store.context > max(train)
    assert len(held_out) > 0


def test_the_number_of_documents_in_a_batch_is_the_measured_one(run: Run):
    store = Store.open(run)
    rows = store.order(0).rows(0, 64)
    seen = {int(store.doc_of[row // store.context, row % store.context]) for row in rows}
    assert store.distinct_documents(rows) == len(seen)


def test_a_damaged_shard_is_refused(tmp_path: Path, tiny_llama: Path, corpus_file: Path):
    done = execute(stage(tiny_llama, corpus_file, tokens=512), Context(tmp_path))
    assert done is not None
    shard = done.path / "acts/1.resid_post/00000.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    with pytest.raises(InputError, match="does not match its sha256"):
        Store.open(done)
    shard.write_bytes(good[:-1000])
    with pytest.raises(InputError, match="where its manifest says"):
        Store.open(done)


def test_too_little_disk_is_refused_before_work_starts(
    tmp_path: Path, tiny_llama: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(InputError, match="has 1 kB free and this needs"):
        execute(stage(tiny_llama, corpus_file), Context(tmp_path))
    assert list(tmp_path.iterdir()) == []


def files_of(run: Run) -> dict[str, str]:
    """sha256 of everything but provenance and timings."""
    return {name: entry["sha256"] for name, entry in run.manifest.items() if name not in ("config.json", "summary.json")}


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_cache_ends_in_the_same_bytes(tmp_path: Path, tiny_llama: Path, corpus_file: Path):
    arguments = ["--sites", "0.z,1.resid_post", "--model", str(tiny_llama), "--text", f"files:{corpus_file}", "--tokens", "4096",
                 "--context", "32", "--batch-tokens", "32", "--shard-tokens", "64", "--dtype", "float32"]  # fmt: skip
    command = [sys.executable, "-m", "interp", "cache", *arguments, "--root"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    (whole,) = runs.list_runs(tmp_path / "whole")
    moments = np.random.default_rng(0).uniform(0, 1, 10)
    kills = 0
    for moment in moments:
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_work(process, tmp_path / "killed")
        time.sleep(moment * 0.3)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 1
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    (killed,) = runs.list_runs(tmp_path / "killed")
    assert killed.id == whole.id
    assert files_of(killed) == files_of(whole)


def wait_for_work(process: "subprocess.Popen[bytes]", root: Path) -> None:
    """Until the process has begun to write, so that the kill falls into the work and not into the imports."""
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")} if root.exists() else {}
    while process.poll() is None:
        now = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.exists()} if root.exists() else {}
        if any(path.suffix in (".safetensors", ".aside") and before.get(path) != when for path, when in now.items()):
            return
        time.sleep(0.005)
