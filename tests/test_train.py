"""Training on a cache: figures that are measured on what was saved, for every architecture; what cannot be trained is refused."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from interp.runs import Run
from interp.sites import Site
from interp.stages import cache as cache_stage
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.train import Train
from interp.store import Store
from saes import files
from saes.architectures import ARCHITECTURES, Architecture, TopK
from saes.errors import InputError

SITE = Site(1, "resid_post")
SITES = (Site(0, "mlp_in"), Site(0, "mlp_out"), Site(1, "mlp_in"), Site(1, "mlp_out"), SITE)
# Where an architecture reads and writes; the others read and write SITE.
PLACES = {"Crosscoder": ("0.mlp_in+1.mlp_in", ""), "CrossLayer": ("0.mlp_in+1.mlp_in", "mlp_out")}


@pytest.fixture(scope="module")
def stage(tiny_llama: Path, corpus_file: Path) -> Cache:
    return Cache(sites=SITES, model=str(tiny_llama), text=f"files:{corpus_file}", tokens=4096, context=32, dtype="float32", held_out=0.1)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, stage: Cache) -> Run:
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


def train(cached: Run, architecture: Architecture | None = None, **options: object) -> Run:
    settings = {"site": str(SITE), "width": 64, "epochs": 4.0, "batch_size": 128, "precision": "float32", **options}
    done = execute(Train(cached.id, architecture or TopK(4), **settings), Context(cached.path.parent))  # pyright: ignore[reportArgumentType]
    assert done is not None
    return done


def metrics(run: Run, name: str) -> list[float]:
    return [row["value"] for row in pq.read_table(run.file("metrics.parquet")).to_pylist() if row["name"] == name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_learns_and_what_is_saved_rebuilds_raw_activations(cached: Run, name: str):
    site, write = PLACES.get(name, (str(SITE), ""))
    run = train(cached, ARCHITECTURES[name](k=4), site=site, write=write)
    config, store, dictionary = run.config["config"], Store.open(cached), files.load(run.path)
    keep = store.keep[: store.n_train]
    x, y = (store.sequences(Site.parse_joined(config[side]), 0, store.n_train)[keep] for side in ("site", "write"))
    fvu = float((y - dictionary(x)).square().sum() / (y - y.mean(0)).square().sum())
    losses, summary = metrics(run, "fvu"), json.loads(run.file("summary.json").read_text())
    assert losses[-1] < losses[0]
    assert fvu < 0.9
    assert files.verify(run.path).passed
    assert summary["tokens"] == math.ceil(4 * len(x) / 128) * 128
    assert summary["fvu"] == pytest.approx(losses[-1])
    assert {"loss", "l0", "dead_share", "dense_share"} <= summary.keys()


def test_the_saved_dictionary_has_the_reported_fvu_and_l0(cached: Run):
    run = train(cached)
    store = Store.open(cached)
    x = store.rows(SITE, store.order(0).pool).float()
    dictionary = files.load(run.path)
    fvu = float((x - dictionary(x)).square().sum() / (x - x.mean(0)).square().sum())
    summary = json.loads(run.file("summary.json").read_text())
    assert fvu == pytest.approx(summary["fvu"], rel=0.05)
    assert summary["l0"] <= 4
    losses = metrics(run, "loss")
    assert losses[-1] < 0.8 * losses[0]


def test_a_transcoder_predicts_the_site_that_it_writes(cached: Run):
    """Better than the mean, and better with a linear path beside its latents, as the MLP of a random model is nearly linear."""
    runs = [train(cached, site="1.mlp_in", write="mlp_out", skip=skip, epochs=6.0) for skip in (False, True)]
    assert [run.config["config"]["write"] for run in runs] == ["1.mlp_out"] * 2
    plain, with_skip = (metrics(run, "fvu")[-1] for run in runs)
    assert with_skip < plain < 0.9


def test_k_larger_than_the_width_is_refused(cached: Run):
    with pytest.raises(InputError, match=r"k=100 .* 64"):
        train(cached, TopK(k=100))


def test_an_unknown_site_is_refused_with_those_there_are(cached: Run):
    with pytest.raises(InputError, match=r"holds no 0\.z; it holds 0\.mlp_in, .*, 1\.resid_post"):
        train(cached, site="0.z")


def test_a_cache_run_that_was_killed_before_its_last_line_can_be_trained_on(tmp_path: Path, stage: Cache, monkeypatch: pytest.MonkeyPatch):
    """Everything was stored already when it was begun again, so that it measured no speed."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache_stage, "_summary", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(stage, Context(tmp_path))
    run = execute(stage, Context(tmp_path))
    assert run is not None
    assert json.loads(run.file("summary.json").read_text())["tokens_per_s"] == 0
    assert torch.isfinite(files.load(train(run, epochs=0.1).path).W_dec).all()
