"""Every page on synthetic runs, without a browser: it opens, it refuses bad addresses with a sentence, and it never loads torch."""

import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest
from synthetic_base import WIDTH
from synthetic_runs import Family, write_family

import app
from app.__main__ import command
from interp.runs import Run, sha256
from interp.viz.colours import DARK, LIGHT

MAIN = Path(app.__file__).parent / "main.py"
PAGES = {
    "runs": None,
    "explorer": "describe",
    "feature": "describe",
    "codes": "describe",
    "heads": "heads",
    "head": "heads",
    "circuit": "circuit",
    "compare": "compare",
    "latents": "latents",
    "steering": "steer",
}


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    return write_family(tmp_path_factory.mktemp("runs"), hostile=True)


@pytest.fixture
def copy(family, tmp_path) -> Family:
    """The same runs in a folder of one's own, to be damaged."""
    shutil.copytree(family.root, tmp_path / "runs")
    there = {name: Run(tmp_path / "runs" / run.id) for name, run in vars(family).items() if isinstance(run, Run)}
    there |= {name: tuple(Run(tmp_path / "runs" / run.id) for run in getattr(family, name)) for name in ("trains", "evaluates")}
    return replace(family, root=tmp_path / "runs", **there)


@pytest.fixture
def visit(family, monkeypatch):
    """Open a page at an address, as the menu would; the page's marker must be there."""

    def open_page(page: str, root: Path = family.root, /, **parameters: str | list[str]) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["main.py", "--root", str(root)])
        at = AppTest.from_file(str(MAIN), default_timeout=60)
        at.query_params.update(parameters)
        if page == "home":
            at.run()
        else:
            at.switch_page(f"views/{page}.py").run()
        assert not at.exception, at.exception
        assert f'data-page="{page}"' in text(at)
        return at

    return open_page


def text(at: AppTest) -> str:
    """All HTML that a page drew."""
    return "\n".join(str(block.proto.body) for block in at.get("html"))


def commands(at: AppTest) -> list[str]:
    return [block.value for block in at.code]


@pytest.mark.parametrize("page", ["home", *PAGES])
def test_every_page_opens_without_a_problem(visit, page):
    at = visit(page)
    assert "cannot be shown" not in text(at)
    assert 'class="panel"' in text(at)


@pytest.mark.parametrize("page", PAGES)
def test_every_panel_names_its_source_or_is_about_several_runs(visit, page):
    drawn = text(visit(page))
    assert drawn.count('class="source"') >= (1 if page != "runs" else 0)


@pytest.mark.parametrize("page", ["home", *PAGES])
def test_an_empty_root_shows_the_command_that_makes_runs(visit, tmp_path, page):
    assert any(line.startswith("interp ") for line in commands(visit(page, tmp_path)))


@pytest.mark.parametrize("page", ["home", *PAGES])
def test_a_root_that_is_not_there_is_an_empty_one(visit, tmp_path, page):
    assert commands(visit(page, tmp_path / "nowhere"))


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_run_is_said_and_others_are_offered(visit, family, page):
    drawn = text(visit(page, **{"sel" if page == "runs" else "run": f"{PAGES[page] or 'train'}-00000000"}))
    assert "there is no run" in drawn
    assert f"feature?run={family.describe.id}" in drawn or f"explorer?run={family.describe.id}" in drawn


@pytest.mark.parametrize("name", ["../../etc/passwd", "describe-xyz", "<script>alert(1)</script>", "describe-00000000.part", ""])
def test_names_that_are_no_run_names_are_refused_and_escaped(visit, name):
    drawn = text(visit("feature", run=name))
    assert "is no run name" in drawn
    assert "<script>" not in drawn


def test_an_unfinished_run_names_the_command_that_finishes_it(visit, family):
    part = next(family.root.glob("*.part")).name
    assert "is unfinished" in text(visit("runs", sel=part.removesuffix(".part")))


def test_a_run_of_another_stage_is_refused(visit, family):
    assert "a describe run is needed" in text(visit("feature", run=family.heads.id))


@pytest.mark.parametrize(
    ("page", "name", "value", "sentence"),
    [
        ("feature", "f", str(WIDTH), f"from 0 to {WIDTH - 1}"),
        ("feature", "f", "abc", "whole number"),
        ("steering", "topic", "cooking", "choose one of ships"),
        ("latents", "n", "0", "from 1 to 41"),
        ("steering", "arm", "two", "choose one of none"),
        ("steering", "s", "many", "from 0 to 100"),
        ("steering", "f", "4 x", "whole number"),
        ("feature", "f", "4.5", "whole number"),
        ("feature", "group", "botom", "choose one of top"),
        ("feature", "preset", "nice", "choose one of all"),
        ("feature", "q", "x" * 2100, "at most 2000"),
        ("explorer", "sort", "beauty", "choose one of latent"),
        ("explorer", "dens", "low", "write a number"),
        ("explorer", "page", "0", "whole number"),
        ("codes", "c", str(WIDTH), f"from 0 to {WIDTH - 1}"),
        ("codes", "by", "luck", "choose one of f1"),
        ("codes", "which", "some", "choose one of all"),
        ("codes", "rx", "(a", "is no regular expression"),
        ("codes", "rx", "(a)(b)", "has 2 capture groups"),
        ("heads", "h", "99.0", "names no head"),
        ("heads", "metric", "charm", "choose one of previous_token"),
        ("head", "h", "x", "names no head"),
        ("head", "ex", "7", "from 0 to 1"),
        ("head", "q", "18", "from 0 to 17"),
        ("circuit", "n", "100000", "whole number"),
        ("circuit", "by", "magic", "choose one of score"),
        ("circuit", "by", "exact", "choose one of score"),
        ("circuit", "scope", "heads", "choose one of all"),
        ("circuit", "node", "99.0", "choose one of any node, embed, 0.0"),
        ("circuit", "ablation", "zero", "choose one of resample"),
        ("runs", "y", "beauty", "choose one of fvu"),
        ("runs", "x", "time", "choose one of tokens"),
    ],
)
def test_a_bad_parameter_is_a_sentence_and_not_another_view(visit, page, name, value, sentence):
    drawn = text(visit(page, **{name: value}))
    assert "cannot be shown" in drawn
    assert sentence in drawn


def test_an_address_restores_the_feature_view(visit, family):
    at = visit("feature", run=family.describe.id, f="41", group="silent", width="short", fold="false")
    assert at.number_input(key="f").value == 41
    assert at.toggle(key="fold").value is False
    assert "Latent 41<" in text(at)
    assert "silent</small>" in text(at)


def test_an_address_restores_the_explorer_view(visit, family):
    at = visit("explorer", run=family.describe.id, preset="dead", sort="nearest_cos", order="up")
    dead = int((family.acts.max(1) == 0).sum())
    assert f"{dead} of {WIDTH} latents" in text(at)
    assert at.selectbox(key="sort").value == "nearest_cos"


def test_an_address_restores_the_other_views(visit, family):
    assert "What token 3 attends to" in text(visit("head", run=family.heads.id, h="5.4", ex="1", q="3"))
    assert "Head 2.3<" in text(visit("heads", run=family.heads.id, metric="entropy", h="2.3"))
    assert "7 nodes by exact" in text(visit("circuit", run=family.circuit.id, by="exact", n="7", scope="heads"))
    at = visit("circuit", run=family.edges.id, n="137", node="7.3")
    assert "137 edges by score" in text(at)
    assert at.selectbox(key="node").value == "7.3"
    at = visit("runs", sel=[family.trains[0].id], m=["fvu"], y="kl")
    assert at.multiselect(key="sel").value == [family.trains[0].id]
    assert at.selectbox(key="y").value == "kl"


def test_without_an_address_the_newest_run_and_a_live_latent_are_shown(visit, family):
    at = visit("feature")
    assert at.selectbox(key="_run").value == family.describe.id
    assert at.query_params["run"] == family.describe.id
    assert family.acts[at.number_input(key="f").value].max() > 0


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("home", ("L0", "FVU", "CE recovered (zero)", "most induction", "site", "IOI")),
        ("runs", ("FVU", "Dense latents", "CE recovered (mean)", "KL")),
        ("explorer", ("density", "top token", "share", "kurtosis", "nearest", "raises")),
        ("feature", ("density", "max, mean", "p50, p90, p99", "token entropy", "encoder · decoder", "decoder norm", "skew", "at")),
        ("heads", ("Induction", "Attention sink", "Copying")),
        ("head", ("Induction", "Attention sink", "Copying")),
        ("circuit", ("accuracy", "metric, clean", "Pearson r", "same sign", "1 % of edges", "CPR", "CMD")),
    ],
)
def test_a_page_says_what_its_names_mean(visit, page, names):
    drawn = text(visit(page))
    assert [name for name in names if f"<b>{name}</b> " not in drawn] == []


def test_a_head_that_looks_for_repetitions_opens_on_repeated_tokens(visit, family):
    for head, example in (("5.4", "1 Repeated tokens"), ("0.0", "0 Indirect object")):
        assert f"<b>{example}</b>" in text(visit("head", run=family.heads.id, h=head))


def test_next_and_previous_walk_the_list_of_the_explorer(visit, family):
    at = visit("feature", run=family.describe.id, f="5", sort="density")
    order = sorted(range(WIDTH), key=lambda i: (-(family.acts[i] > 0).sum(), i))
    place = order.index(5)
    at.button[1].click().run()
    assert at.number_input(key="f").value == order[place + 1]
    at.button[0].click().run()
    at.button[0].click().run()
    assert at.number_input(key="f").value == order[place - 1]
    at.button[2].click().run()
    assert 0 <= at.number_input(key="f").value < WIDTH


def test_the_counts_of_a_latent_are_those_of_its_activations(visit, family):
    active = int((family.acts[30] > 0).sum())
    assert f"{active:,} of 3840" in text(visit("feature", run=family.describe.id, f="30"))


def test_a_dead_latent_says_so_and_still_shows_its_logits(visit, family):
    drawn = text(visit("feature", run=family.describe.id, f=str(WIDTH - 1)))
    assert "it never fired in 3840 tokens" in drawn
    assert "No example of this kind" in drawn
    assert "raises" in drawn


def test_no_match_says_which_filter_removed_most_and_how_to_clear_them(visit, family):
    drawn = text(visit("explorer", run=family.describe.id, q="zebra", preset="alive"))
    assert "No latent passes all filters" in drawn
    assert "keeps 0 of 192" in drawn
    assert f'href="explorer?run={family.describe.id}">clear all filters' in drawn


def forget(run: Run, name: str) -> None:
    """Make a run that never had the file."""
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["files"][name]
    (run.path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["examples.parquet", "histograms.safetensors", "logits.safetensors", "neighbours.safetensors"])
def test_a_missing_file_shows_the_command_and_leaves_the_rest(visit, copy, name):
    forget(copy.describe, name)
    at = visit("feature", copy.root)
    assert commands(at).count(f"interp describe {copy.trains[2].id}") == 1
    assert text(at).count("Delete its folder") == 1
    assert "cannot be shown" not in text(at)
    at = visit("explorer", copy.root)
    assert "cannot be shown" not in text(at)
    assert text(at).count("Delete its folder") == (1 if name == "examples.parquet" else 0)


def test_the_picker_says_in_words_what_each_run_is_about_and_writes_the_address(visit, family):
    at = visit("heads")
    assert at.selectbox(key="_run").options == [f"smollm2 · {family.heads.id}"]
    at = visit("feature")
    assert at.selectbox(key="_run").options == [f"smollm2 · TopK k=32 · 10.resid_post · 192 latents · {family.describe.id}"]


def test_a_truncated_file_stays_inside_its_panel(visit, copy):
    (copy.describe.path / "neighbours.safetensors").write_bytes(b"cut")
    drawn = text(visit("feature", copy.root))
    assert "has 3 bytes where its manifest says" in drawn
    assert "raises" in drawn


def test_a_truncated_table_of_latents_is_a_sentence(visit, copy):
    (copy.describe.path / "latents.arrow").write_bytes(b"cut")
    for page in ("explorer", "feature"):
        assert "the file is damaged" in text(visit(page, copy.root))


def test_prompts_of_another_version_are_a_sentence_and_leave_the_rest(visit, copy):
    path = copy.circuit.path / "prompts.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("wrong"), "wrong", table["answer"]), path)
    entry = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifest = json.loads((copy.circuit.path / "manifest.json").read_text())
    (copy.circuit.path / "manifest.json").write_text(json.dumps({**manifest, "files": {**manifest["files"], path.name: entry}}))
    drawn = text(visit("circuit", copy.root, run=copy.circuit.id))
    assert "prompts.parquet cannot be read (TypeError)" in drawn
    assert "nodes by score" in drawn


def test_a_circuit_of_an_earlier_version_is_a_sentence_with_its_command(visit, copy):
    path = copy.circuit.path / "nodes.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["score", "score_low", "score_high"]), path)
    entry = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifest = json.loads((copy.circuit.path / "manifest.json").read_text())
    (copy.circuit.path / "manifest.json").write_text(json.dumps({**manifest, "files": {**manifest["files"], path.name: entry}}))
    drawn = text(visit("circuit", copy.root, run=copy.circuit.id))
    assert "made by an earlier version: its nodes.parquet has no column score; make the run anew: interp circuit ioi" in drawn
    assert f"circuit?run={copy.edges.id}" in drawn
    assert "cannot be shown" not in text(visit("home", copy.root))


@pytest.mark.parametrize("name", ["curve.parquet", "prompts.parquet"])
def test_a_missing_table_of_a_circuit_shows_the_command_and_leaves_the_rest(visit, copy, name):
    for run in (copy.circuit, copy.edges):
        forget(run, name)
        at = visit("circuit", copy.root, run=run.id)
        assert commands(at).count(run.command) == 1
        assert "The circuit in view" in text(at)


def test_a_circuit_without_edges_shows_the_command(visit, copy):
    forget(copy.edges, "edges.parquet")
    assert commands(visit("circuit", copy.root, run=copy.edges.id)).count(copy.edges.command) == 1


@pytest.mark.parametrize("kind", ["circuit", "edges"])
def test_a_circuit_page_groups_its_figures_defines_its_names_and_counts_its_prompts(visit, family, kind):
    drawn = text(visit("circuit", run=getattr(family, kind).id))
    groups = ("Task", "Agreement with exact effects", "Faithfulness", "Areas under the curve")
    assert [g for g in groups if f'class="card"><h4>{g}</h4>' not in drawn] == []
    assert " is head " in drawn
    assert "the MLP of layer " in drawn
    assert "6 pairs in all: 2 to score, 2 to measure the curves, 2 only for the means" in drawn
    assert "Corrupt prompts: the second mention of the subject becomes a third name." in drawn


def test_edges_are_filtered_by_the_node_that_they_touch(visit, family):
    drawn = text(visit("circuit", run=family.edges.id, n="500", node="logits"))
    table = drawn.split("Edges of the circuit in view")[1].split("</table>")[0]
    assert "<td><code>logits</code></td>" in table
    assert "m1</code></td><td><code>m2" not in table
    assert drawn.count("<td><code>logits</code></td>") == table.count("<tr>") - 1


def test_another_schema_names_the_command(visit, copy):
    config = json.loads((copy.describe.path / "config.json").read_text())
    (copy.describe.path / "config.json").write_text(json.dumps({**config, "schema": 99}))
    drawn = text(visit("feature", copy.root))
    assert "has schema 99" in drawn
    assert "make it anew: interp describe" in drawn


def test_a_vanished_parent_is_a_sentence(visit, copy):
    shutil.rmtree(copy.cache.path)
    assert f"there is no run {copy.cache.id}" in text(visit("feature", copy.root))
    assert "its cache is gone" in text(visit("home", copy.root))


def test_a_changed_parent_is_marked(visit, copy):
    (copy.cache.path / "manifest.json").write_text((copy.cache.path / "manifest.json").read_text() + " ")
    assert "changed or gone" in text(visit("feature", copy.root))
    assert "changed or gone" not in text(visit("heads", copy.root))


def test_a_folder_that_leads_out_of_the_root_is_not_opened(visit, copy, tmp_path):
    for run in (copy.describe, copy.trains[0]):
        shutil.move(run.path, tmp_path / run.id)
        run.path.symlink_to(tmp_path / run.id)
    assert "There is no describe run" in text(visit("feature", copy.root, run=copy.describe.id))
    assert "leads out of" in text(visit("runs", copy.root, sel=copy.trains[0].id))
    assert copy.describe.id not in text(visit("home", copy.root))


def test_a_missing_stage_shows_its_command(visit, copy):
    for run in (copy.heads, copy.circuit, copy.edges, copy.describe):
        shutil.rmtree(run.path)
    for page, line in (
        ("heads", "interp heads"),
        ("head", "interp heads"),
        ("circuit", "interp circuit ioi"),
        ("explorer", "interp describe"),
    ):
        assert any(c.startswith(line) for c in commands(visit(page, copy.root)))


def test_a_training_in_progress_is_shown_with_its_step(visit):
    assert "step 145 of 400" in text(visit("runs"))


def test_hostile_tokens_are_text_on_every_page(visit, family):
    hit = [i for i in range(WIDTH) if (family.acts[i] > 0)[family.tokens.ravel() == 2].any()]
    for page, parameters in (("feature", {"f": str(hit[0])}), ("explorer", {}), ("head", {}), ("circuit", {}), ("home", {})):
        drawn = text(visit(page, **parameters))
        assert "<script" not in drawn
        assert "<img src=x" not in drawn
    assert "&lt;script&gt;" in text(visit("feature", f=str(hit[0])))


def test_pages_need_neither_torch_nor_transformers(family):
    code = f"""
import sys
sys.argv = ["main.py", "--root", {str(family.root)!r}]
from streamlit.testing.v1 import AppTest
for page in {list(PAGES)!r}:
    at = AppTest.from_file({str(MAIN)!r}, default_timeout=60).switch_page(f"views/{{page}}.py").run()
    assert not at.exception, at.exception
heavy = {{"torch", "transformers", "transformer_lens"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_server_listens_on_this_machine_only_and_sends_nothing_out():
    config = tomllib.loads((MAIN.parent / ".streamlit" / "config.toml").read_text())
    assert config["server"]["address"] == "127.0.0.1"
    assert config["browser"]["gatherUsageStats"] is False
    line = command(Path("data/runs"), 8501, "127.0.0.1")
    assert line[-2:] == ["--root", "data/runs"]
    assert line[line.index("--server.address") + 1] == "127.0.0.1"


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_page_and_pictures_have_the_same_colours(theme):
    config = tomllib.loads((MAIN.parent / ".streamlit" / "config.toml").read_text())["theme"][theme.name]
    assert (config["backgroundColor"], config["textColor"], config["primaryColor"]) == (theme.background, theme.text, theme.series[0])


def test_the_steering_page_restores_its_view_and_writes_its_command(visit, family):
    at = visit("steering", run=family.steer.id, topic="grain", arm="one", f="4 9", s="2.5", t="The <b>ship</b>")
    drawn = text(at)
    assert "Generations, one slot" in drawn
    assert "held-out accuracy 0.91" in drawn
    line = next(line for line in commands(at) if line.startswith("interp steer"))
    assert line == f"interp steer {family.trains[2].id} --topics grain=grain.txt --latents 4 9 --strength 2.5 --prompt 'The <b>ship</b>'"
    assert "<b>ship" not in drawn


def test_the_latents_page_leads_to_the_latents_and_says_what_the_error_carries(visit, family):
    at = visit("latents", run=family.latents.id, n="5")
    drawn = text(at)
    assert at.slider(key="n").value == 5
    assert "The circuit in view (5)" in drawn
    assert "<b>error</b>" in drawn
    assert f"feature?run={family.describe.id}&amp;f=6" in drawn
    assert "f=7" not in drawn
    assert "-3.70 and -1.90" in drawn.replace("−", "-")
    assert "The error enters like a latent" in drawn


def test_the_compare_page_lists_what_is_shared(visit, family):
    drawn = text(visit("compare", run=family.compare.id))
    assert "in both (4)" in drawn
    assert "only in A (16)" in drawn
    assert "4; by chance 5.6, p &lt; .001" in drawn
    assert "0.40 [0.10, 0.70], p .031" in drawn


def test_home_leads_to_circuits_of_latents_comparisons_and_steering(visit, family):
    drawn = text(visit("home"))
    for page, run in (("latents", family.latents), ("compare", family.compare), ("steering", family.steer)):
        assert f"{page}?run={run.id}" in drawn
