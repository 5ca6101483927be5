"""Training without stored activations: the model runs alongside, and everything else stays as it is."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import runs
from interp.cli import main
from interp.feed import Stored, Streamed, feed
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.describe import Describe
from interp.stages.evaluate import Evaluate
from interp.stages.train import Train
from interp.store import Store
from saes import checkpoint
from saes.architectures import TopK
from saes.errors import InputError

SITES = (Site(0, "mlp_out"), Site(1, "resid_post"))
SITE = SITES[1]
CHUNK = 512
TRAIN = ("--width", 64, "--epochs", 3, "--batch-size", 128, "--precision", "float32", "--log-every", 5)
FILES = ("weights.safetensors", "dictionary.json", "sample.safetensors", "metrics.parquet")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.feed.CHUNK", CHUNK)


def cache(root: Path, model: Path, text: Path, *, stored: bool, tokens: int = 4096) -> Run:
    settings = {"tokens": tokens, "context": 32, "dtype": "float32", "held_out": 0.1, "stored": stored}
    done = execute(Cache(sites=SITES, model=str(model), text=f"files:{text}", **settings), Context(root))  # pyright: ignore[reportArgumentType]
    assert done is not None
    return done


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def streamed(root: Path, tiny_llama: Path, corpus_file: Path) -> Run:
    return cache(root, tiny_llama, corpus_file, stored=False)


@pytest.fixture(scope="module")
def stored(root: Path, tiny_llama: Path, corpus_file: Path) -> Run:
    return cache(root, tiny_llama, corpus_file, stored=True)


def source(run: Run, batch_size: int = 100, seed: int = 0, sites: tuple[Site, ...] = SITES) -> Streamed:
    found = feed(Store.open(run), sites, batch_size, seed)
    assert isinstance(found, Streamed)
    return found


def ends(code: int, *arguments: object) -> None:
    """Run a command in this process, to that exit code."""
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    assert leave.value.code == code


# What is read.


def test_a_run_without_activations_holds_the_same_tokens_and_computes_the_same_activations(streamed: Run, stored: Run):
    a, b = Store.open(streamed), Store.open(stored)
    assert not [name for name in streamed.manifest if name.startswith("acts/")]
    assert (a.tokens == b.tokens).all()
    assert a.n_train == b.n_train
    assert [a.width(site) for site in SITES] == [b.width(site) for site in SITES]
    assert torch.allclose(a.sequences(SITES, 3, 9), b.sequences(SITES, 3, 9), atol=1e-5)
    assert a.medians == pytest.approx(b.medians, rel=0.2), "here from 64 sequences"
    assert isinstance(feed(b, SITES, 100, 0), Stored)


def test_a_batch_is_a_pure_function_of_seed_and_step(streamed: Run):
    steps = {step: source(streamed, seed=3).batch(step) for step in (0, 7, 36, 41, 90)}
    backwards = source(streamed, seed=3)
    for step, rows in reversed(steps.items()):
        again = backwards.batch(step)
        assert all(torch.equal(rows[site], again[site]) for site in SITES)
    assert not torch.equal(source(streamed, seed=4).batch(7)[SITE], steps[7][SITE])
    assert not torch.equal(steps[0][SITE], steps[36][SITE])


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose activation is the flat position of the token, in units that make no token an outlier."""

    def computed(store: Store, sites: Sequence[Site], sequences: np.ndarray) -> dict[Site, Tensor]:
        flat = torch.from_numpy(sequences)[:, None] * store.context + torch.arange(store.context)
        return {site: (flat / flat.new_tensor(store.n_seq * store.context))[..., None] for site in sites}

    monkeypatch.setattr(Store, "computed", computed)


def positions(store: Store, rows: dict[Site, Tensor], site: Site = SITE) -> list[int]:
    """What `numbered` encoded."""
    return (rows[site][:, 0] * store.n_seq * store.context).round().int().tolist()


@pytest.mark.usefixtures("numbered")
def test_every_text_token_for_training_is_read_at_most_once_an_epoch_and_hardly_any_is_left_out(streamed: Run):
    read, store = source(streamed), Store.open(streamed)
    text = set(np.flatnonzero((store.doc_of >= 0)[: store.n_train].ravel()).tolist())
    chunks = [int(read.text[sequences].sum()) for sequences in read._sequences(0)]
    steps = sum(chunk // 100 for chunk in chunks)
    first, second = ([p for step in range(steps) for p in positions(store, read.batch(step + epoch * steps))] for epoch in range(2))
    assert len(chunks) > 5
    assert len(first) == len(set(first)) == 100 * steps
    assert len(second) == len(set(second))
    assert set(first) | set(second) <= text, "neither BOS nor what is held out"
    assert len(text - set(first)) == sum(chunk % 100 for chunk in chunks), "only what does not fill a batch at the end of a chunk"
    assert first != second


@pytest.mark.usefixtures("numbered")
def test_a_batch_mixes_the_sequences_of_a_chunk(streamed: Run):
    read, store = source(streamed), Store.open(streamed)
    sequences = {position // store.context for position in positions(store, read.batch(0))}
    assert sequences <= set(read._sequences(0)[0].tolist())
    assert len(sequences) > 0.8 * len(read._sequences(0)[0])
    assert read.documents_per_batch() == len({int(store.doc_of.ravel()[p]) for p in positions(store, read.batch(0))})


@pytest.mark.usefixtures("numbered")
def test_an_outlier_is_replaced_by_another_token_of_its_chunk_so_batches_keep_their_size(streamed: Run, monkeypatch: pytest.MonkeyPatch):
    computed, store = Store.computed, Store.open(streamed)

    def with_giants(store: Store, sites: Sequence[Site], sequences: np.ndarray) -> dict[Site, Tensor]:
        rows = computed(store, sites, sequences)
        return {site: torch.where(torch.arange(store.context)[:, None] % 3 == 1, 1e6, values) for site, values in rows.items()}

    monkeypatch.setattr(Store, "computed", with_giants)
    read = source(streamed)
    for step in range(12):
        found = positions(store, read.batch(step))
        assert len(found) == 100
        assert all(position % store.context % 3 != 1 for position in found)
        assert {p // store.context for p in found} <= set(np.concatenate(read._sequences(0)).tolist())


def test_what_a_site_gives_does_not_depend_on_the_sites_beside_it(streamed: Run, monkeypatch: pytest.MonkeyPatch):
    """An outlier at any cached site is left out at all of them, so that a member of a grid reads what it would read alone."""
    monkeypatch.setattr("interp.feed.OUTLIER", 1.3)
    both, one = source(streamed), source(streamed, sites=(SITE,))
    for step in (0, 9, 40):
        assert torch.equal(both.batch(step)[SITE], one.batch(step)[SITE])


def test_held_out_sequences_are_never_read_while_training(streamed: Run, monkeypatch: pytest.MonkeyPatch):
    computed, seen = Store.computed, set()

    def watched(store: Store, sites: Sequence[Site], sequences: np.ndarray) -> dict[Site, Tensor]:
        seen.update(sequences.tolist())
        return computed(store, sites, sequences)

    monkeypatch.setattr(Store, "computed", watched)
    train(streamed, seed=5)
    assert seen == set(range(Store.open(streamed).n_train))


# Training, and what comes after.


def train(run: Run, **options: object) -> Run:
    settings = {"site": str(SITE), "width": 64, "epochs": 3.0, "batch_size": 128, "precision": "float32", "log_every": 5, **options}
    done = execute(Train(run.id, TopK(4), **settings), Context(run.path.parent))  # pyright: ignore[reportArgumentType]
    assert done is not None
    return done


@pytest.mark.slow
def test_interrupted_twice_a_streamed_grid_ends_in_the_bits_of_each_member_alone(
    streamed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone, broken = tmp_path / "alone", tmp_path / "broken"
    for folder in (alone, broken):
        shutil.copytree(streamed.path, folder / streamed.id)
    for site in SITES:
        ends(0, "train", streamed.id, "--k", 4, "--sites", site, *TRAIN, "--root", alone)
    grid = ("train", streamed.id, "--k", 4, "--sites", *SITES, *TRAIN, "--checkpoint-seconds", 0, "--root", broken)
    write = checkpoint.write
    for count in (3, 12):
        left = iter(range(count))

        def then_stop(path: Path, saved: checkpoint.Checkpoint, left: Iterator[int] = left) -> None:
            write(path, saved)
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(checkpoint, "write", then_stop)
        ends(130, *grid)
    monkeypatch.setattr(checkpoint, "write", write)
    assert len(list(broken.glob("train-*.part/checkpoint"))) == 2
    ends(0, *grid)
    found, expected = (
        {run.id: [run.file(name).read_bytes() for name in FILES] for run in runs.list_runs(folder, "train")} for folder in (broken, alone)
    )
    assert len(expected) == 2
    assert found == expected


def summary(run: Run | None) -> dict[str, float]:
    assert run is not None
    return json.loads(run.file("summary.json").read_text())


@pytest.mark.slow
def test_a_streamed_dictionary_is_evaluated_and_described_and_is_as_good_as_a_stored_one(streamed: Run, stored: Run):
    ctx = Context(streamed.path.parent)
    figures, described = [], []
    for run in (streamed, stored):
        trained = train(run, epochs=4.0)
        figures.append(summary(execute(Evaluate(trained.id, sequences=8), ctx)))
        described.append(execute(Describe(trained.id), ctx))
    a, b = figures
    assert a["fvu"] == pytest.approx(b["fvu"], rel=0.1)
    assert a["ce_clean"] == pytest.approx(b["ce_clean"], rel=1e-5)
    assert a["ce_zero"] == pytest.approx(b["ce_zero"], rel=1e-5)
    assert a["ce_mean"] == pytest.approx(b["ce_mean"], rel=1e-3)
    assert described[0] is not None
    assert described[1] is not None
    assert set(described[0].manifest) == set(described[1].manifest)
    assert summary(described[0])["tokens"] == summary(described[1])["tokens"] == int(Store.open(stored).keep.sum())


# The plan.


def plan(capsys: pytest.CaptureFixture[str], run: Run) -> str:
    before = sorted(run.path.parent.iterdir())
    ends(0, "train", run.id, *TRAIN, "--seed", 99, "--root", run.path.parent, "--plan")
    assert sorted(run.path.parent.iterdir()) == before, "nothing was started"
    return " ".join(capsys.readouterr().err.split())


def test_the_plan_holds_both_sources_against_each_other_and_recommends_one(
    streamed: Run, stored: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    said = plan(capsys, stored)
    assert "stored: 1.05 MB on the disk" not in said, "only the sites that are read count"
    assert "stored: 524 kB on the disk" in said
    assert "the model alongside takes" in said
    assert "recommended: the disk, since it is there" in said
    said = plan(capsys, streamed)
    assert "streamed: the model alongside takes" in said
    assert "stored they would be 524 kB on the disk" in said
    assert "recommended: store them (`interp cache` without --no-stored)" in said, "three passes of the model cost more than one"
    monkeypatch.setattr("interp.stages.train.DISK", 1.0)
    assert "recommended: stream" in plan(capsys, streamed), "from so slow a disk"


def test_too_little_memory_is_refused_with_what_to_make_smaller(
    streamed: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("interp.stages.base._free_memory", lambda: 100_000)
    before = sorted(streamed.path.parent.iterdir())
    ends(2, "train", streamed.id, *TRAIN, "--seed", 98, "--root", streamed.path.parent)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("interp: this needs ")
    assert said.endswith(" of memory and 100 kB is free; make smaller: --width, --batch-size, or the number of trainings at once")
    assert sorted(streamed.path.parent.iterdir()) == before
    monkeypatch.setattr("interp.stages.base._free_memory", lambda: None)
    ends(0, "train", streamed.id, *TRAIN, "--seed", 98, "--root", streamed.path.parent)


def test_the_plan_asks_for_the_memory_of_a_chunk_and_of_the_model(streamed: Run, stored: Run, monkeypatch: pytest.MonkeyPatch):
    ctx = Context(streamed.path.parent)
    need = [Train(run.id, TopK(4), width=64, batch_size=128).plan(ctx).memory for run in (streamed, stored)]
    store = Store.open(streamed)
    row = 4 * store.width(SITES[0])
    assert need[0] - need[1] >= store.model.n_parameters * 4 - 2 * 128 * row
    monkeypatch.setattr("interp.stages.train.CHUNK", 10**9)
    assert Train(streamed.id, TopK(4), width=64, batch_size=128).plan(ctx).memory > 10**9 * row


def test_a_text_smaller_than_a_batch_is_refused(tmp_path: Path, tiny_llama: Path, corpus_file: Path):
    run = cache(tmp_path, tiny_llama, corpus_file, stored=False, tokens=320)
    with pytest.raises(InputError, match=r"has 279 tokens to train on where 512 are needed"):
        train(run, batch_size=512)
    assert train(run, batch_size=279).stage == "train"
