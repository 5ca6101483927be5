"""The pages on dictionaries of every kind: what they lack is said, what they call otherwise is called so, and nothing breaks."""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest
from synthetic_base import WIDTH, write_arrow
from synthetic_zoo import KINDS, Zoo, write_zoo

import app
from app import live, readers
from interp import runs

MAIN = Path(app.__file__).parent / "main.py"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def visit(zoo, monkeypatch):
    """A page of the zoo, or of another root, as text; it may neither raise nor refuse."""

    def open_page(page: str, root: Path = zoo.root, /, **parameters: str | list[str]) -> str:
        at = start(page, root, **parameters)
        assert "cannot be shown" not in text(at)
        return text(at)

    def start(page: str, root: Path = zoo.root, /, **parameters: str | list[str]) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["main.py", "--root", str(root)])
        at = AppTest.from_file(str(MAIN), default_timeout=60)
        at.query_params.update(parameters)
        at.run() if page == "home" else at.switch_page(f"views/{page}.py").run()
        assert not at.exception, at.exception
        return at

    open_page.start = start
    return open_page


def text(at: AppTest) -> str:
    return "\n".join(str(block.proto.body) for block in at.get("html"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latent", [3, WIDTH - 1])
def test_a_feature_of_every_kind_opens(visit, zoo, kind, latent):
    assert "Neighbours" in visit("feature", run=zoo.describes[kind].id, f=str(latent))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sort", ["density", "enc_dec_cos", "logit_kurtosis"])
def test_the_list_of_every_kind_opens_in_any_order(visit, zoo, kind, sort):
    drawn = visit("explorer", run=zoo.describes[kind].id, sort=sort)
    assert f"{WIDTH} of {WIDTH}" in drawn
    assert ("in the order of their numbers" in drawn) == (sort in KINDS[kind][1])


def test_home_and_runs_open_on_all_kinds(visit):
    assert "10.mlp_in → 10.mlp_out + skip" in visit("home")
    assert "Perceptron" in visit("runs")


def test_a_transcoder_has_no_angle_between_what_it_reads_and_writes(visit, zoo):
    drawn = visit("feature", run=zoo.describes["skip"].id, f="3")
    assert "– (two sites)" in drawn
    assert "TopK k=32 · 10.mlp_in → 10.mlp_out + skip · 192 latents" in drawn


def test_a_code_is_called_a_code_and_its_one_value_is_explained(visit, zoo):
    drawn = visit("feature", run=zoo.describes["codebook"].id, f="41")
    assert "Code 41<" in drawn
    assert "<b>0.125</b>: the 8 chosen codes of a book are averaged, so each counts 1/8" in drawn
    assert "p90" not in drawn
    drawn = visit("explorer", run=zoo.describes["codebook"].id)
    assert f"{WIDTH} of {WIDTH} codes" in drawn
    assert "Density against top token" in drawn
    assert '<th class="n">max</th>' not in drawn


def test_the_last_latent_of_discrete_stands_for_none(visit, zoo):
    assert f"Latent {WIDTH - 1} · none<" in visit("feature", run=zoo.describes["discrete"].id, f=str(WIDTH - 1))
    assert "· none<" not in visit("feature", run=zoo.describes["discrete"].id, f="3")
    assert "the winner counts 1" in visit("feature", run=zoo.describes["discrete"].id, f="3")


def test_latents_of_a_cross_layer_transcoder_are_shown_with_their_layer(visit, zoo):
    run = zoo.describes["crosslayer"].id
    assert f"Latent {WIDTH // 2} · layer 11<" in visit("feature", run=run, f=str(WIDTH // 2))
    drawn = visit("explorer", run=run)
    assert ">layer 10</span>" in drawn
    assert "effect at 11.mlp_out" in visit("feature", run=run, f="3")


def test_a_site_that_writes_nowhere_says_why_it_has_no_logits(visit, zoo):
    run = zoo.describes["no_logits"].id
    assert "10.mlp_in does not write to the residual stream" in visit("feature", run=run, f="3")
    drawn = visit("explorer", run=run)
    assert ">kurtosis<" not in drawn
    assert ">raises<" not in drawn


def grid_address(zoo: Zoo, **more: str | list[str]) -> dict[str, str | list[str]]:
    return {"sel": zoo.grid[0].id, "vary": ["architecture", "k"], **more}


def test_the_grid_of_a_run_is_what_differs_from_it_only_in_the_named_fields(visit, zoo):
    drawn = visit("runs", **grid_address(zoo))
    assert "6 runs, which differ in architecture (2 values), k (3)" in drawn
    for run in zoo.grid:
        assert f">{run.id}</a>" in drawn
    assert zoo.trains["codebook"].id not in drawn
    assert f">{zoo.grid[1].id}</a>" not in visit("runs", sel=zoo.grid[0].id)


def test_without_an_address_all_runs_on_the_newest_activations_are_drawn_and_the_address_says_so(visit, zoo):
    at = visit.start("runs")
    assert f"{len(zoo.grid) + len(zoo.trains)} runs, which differ in" in text(at)
    assert at.multiselect(key="sel").value == [zoo.grid[-1].id]
    assert {"architecture", "sites", "k"} <= set(at.get_by_key("vary").value)


def test_a_family_has_a_row_with_its_knee_and_transcoders_are_apart(visit, zoo):
    drawn = visit("runs")
    assert "k=16: L0 16, FVU" in drawn
    assert "10.mlp_in → 10.mlp_out (transcoder)" in drawn
    assert "10.resid_post (autoencoder)" in drawn
    assert "never shares a line with an autoencoder" in drawn
    assert "never shares a line" not in visit("runs", **grid_address(zoo))


def test_what_is_not_evaluated_is_marked_and_the_command_evaluates_all_of_it(visit, zoo):
    at = visit.start("runs", **grid_address(zoo))
    assert "Hollow points were not evaluated" in text(at)
    assert f"interp eval {zoo.grid[-1].id}" in [block.value for block in at.code]
    at = visit.start("runs", **grid_address(zoo, y="kl", sel=[zoo.trains["skip"].id, zoo.trains["codebook"].id], vary=[]))
    assert f"interp eval {zoo.trains['skip'].id} {zoo.trains['codebook'].id}" in [block.value for block in at.code]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("vary", "beauty", "choose one of"),
        ("colour", "beauty", "choose one of auto, nothing"),
        ("dash", "?", "choose one of auto, nothing"),
    ],
)
def test_a_bad_parameter_of_the_grid_is_a_sentence(visit, zoo, name, value, sentence):
    drawn = text(visit.start("runs", **{**grid_address(zoo), name: value}))
    assert "cannot be shown" in drawn
    assert sentence in drawn


def test_an_address_restores_colour_dash_and_columns(visit, zoo):
    at = visit.start("runs", **grid_address(zoo, colour="k", dash="nothing", columns="architecture", logy="true", m=["fvu"]))
    assert [at.selectbox(key=name).value for name in ("colour", "dash", "columns")] == ["k", "nothing", "architecture"]
    assert at.toggle(key="logy").value is True
    assert "cannot be shown" not in text(at)


def test_a_run_is_added_by_its_words_and_a_family_by_its_activations(visit, zoo):
    at = visit.start("runs", sel=zoo.grid[0].id)
    words = f"TopK k=16 · 10.resid_post · 384 latents · {zoo.grid[1].id}"
    assert words in at.selectbox(key="_add").options
    at.selectbox(key="_add").select(zoo.grid[1].id).run()
    assert at.multiselect(key="sel").value == [zoo.grid[0].id, zoo.grid[1].id]
    assert at.selectbox(key="_add").value is None
    assert not at.exception


def test_trainings_in_progress_have_one_line_each(visit, zoo):
    drawn = visit("runs")
    assert "2 trainings (TopK · 10.resid_post · 192 latents), read again" in drawn
    assert drawn.count("step 145 of 400") == 2
    assert ">k=64<" in drawn
    assert ">k=128<" in drawn


def test_a_training_that_fell_silent_says_so():
    row = {"step": 10, "tokens": 1000, "tokens_per_s": 100.0}
    assert live.remaining(readers.Progress(30, row, 1.0, {})) == "about 20 s"
    assert "silent for 10 min" in str(live.remaining(readers.Progress(30, row, 600.0, {})))
    assert live.remaining(readers.Progress(0, {}, 600.0, {})) == "–"


@pytest.mark.parametrize("config", [None, b"", b"{", b'{"config": {"architecture": 3}}'])
def test_a_training_in_progress_without_a_readable_config_is_still_listed(visit, zoo, tmp_path, config):
    shutil.copytree(zoo.root, tmp_path / "runs")
    folder = next((tmp_path / "runs").glob("*.part"))
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_bytes(config)
    assert visit("runs", tmp_path / "runs").count("step 145 of 400") == 2


def test_a_million_latents_are_listed_within_seconds(visit, zoo, tmp_path):
    shutil.copytree(zoo.root, tmp_path / "runs")
    run = runs.Run(tmp_path / "runs" / zoo.describes["transcoder"].id)
    enlarge(run, 10**6)
    for page in ("explorer", "feature"):
        visit(page, tmp_path / "runs", run=run.id, f="3")
        started = time.monotonic()
        visit(page, tmp_path / "runs", run=run.id, sort="density", f="3")
        assert time.monotonic() - started < 10


def enlarge(run: runs.Run, n: int) -> None:
    """Repeat the table of latents up to n rows, and forget the other files."""
    table = readers.arrow(run, "latents.arrow")
    large = table.take(pa.array(np.arange(n) % len(table)))
    large = large.set_column(large.column_names.index("latent"), "latent", pa.array(np.arange(n), pa.int32()))
    write_arrow(run.path / "latents.arrow", large)
    files = {"latents.arrow": {"size": (run.path / "latents.arrow").stat().st_size}, "config.json": run.manifest["config.json"]}
    (run.path / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))
