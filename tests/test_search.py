"""`interp search` on the described dictionaries of a tiny model, against the tables and the regular expressions of the standard library."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from interp.cli import main
from interp.features.codes import Codes
from interp.reading import described
from interp.reading.index import Index
from interp.runs import Run
from interp.search import Search
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.describe import Describe
from interp.stages.train import Train
from saes.architectures import Codebook, TopK
from saes.errors import InputError

SITE = Site(1, "resid_post")


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(tmp_path_factory.mktemp("runs"), device="cpu", json=True)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two topics of twelve documents each, a folder each, with characters of several bytes."""
    folder = tmp_path_factory.mktemp("texts")
    for topic, words in {"river": "the river rose to the hill, naïve café", "fox": "a small fox ran over the lake 😀, not 12 dogs"}.items():
        (folder / topic).mkdir()
        for i in range(12):
            (folder / topic / f"{i}.txt").write_text(f"{words} {i}. Not {words}; never {i} again.", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(ctx: Context, tiny_llama: Path, texts: Path) -> dict[str, Run]:
    cache = execute(Cache(sites=(SITE,), model=str(tiny_llama), text=f"files:{texts}", tokens=1300, context=40, dtype="float32"), ctx)
    assert cache is not None
    found = {"cache": cache}
    for name, architecture in {"topk": TopK(4), "codebook": Codebook(2)}.items():
        train = execute(
            Train(cache.id, architecture=architecture, site=str(SITE), width=90, epochs=1.0, batch_size=256, precision="float32"), ctx
        )
        assert train is not None
        run = execute(Describe(train.id), ctx)
        assert run is not None
        found |= {f"{name}_train": train, name: run}
    return found


def dense(run: Run) -> np.ndarray:
    """[position, code] of what is active, from the pieces on the disk."""
    keep = load_file(run.path / "codes" / "kept.safetensors")["keep"]
    out = np.zeros((keep.size, 90), bool)
    for code, latent in enumerate(Codes((run.path / "codes",)).latents(0, 90)):
        out[latent.positions, code] = True
    return out


def literal_marks(run: Run, pattern: str) -> np.ndarray:
    """The tokens that share a byte with a capture, token by token."""
    keep, cache = load_file(run.path / "codes" / "kept.safetensors")["keep"], described.cache_of(run)
    raw = pa.ipc.open_file(pa.memory_map(str(cache.file("vocab.arrow")))).read_all()["raw"].to_pylist()
    out = np.zeros(keep.shape, bool)
    for seq, row in enumerate(load_file(cache.file("tokens.safetensors"))["tokens"][: len(keep)].tolist()):
        owner = [pos for pos, token in enumerate(row) for _ in raw[token]]
        text = b"".join(raw[token] for token in row).decode("utf-8", "surrogateescape")
        for match in re.finditer(pattern, text):
            low, high = (len(text[:place].encode("utf-8", "surrogateescape")) for place in match.span(1))
            out[seq, owner[low:high]] = True
    return (out & keep).ravel()


@pytest.mark.parametrize("name", ["topk", "codebook"])
@pytest.mark.parametrize("pattern", ["(fox|river)", "(?:not|never)( \\w+)", "(é|😀)", "na(ï)ve"])
def test_counts_and_figures_equal_those_of_each_token(ctx: Context, runs: dict[str, Run], name: str, pattern: str):
    run = runs[name]
    answer = Search(run.id, pattern, top=90)(ctx)
    active, marked = dense(run), literal_marks(run, pattern)
    assert answer is not None
    assert answer["marked"] == marked.sum() > 0
    assert answer["best"]
    index = Index.open(run)
    group = np.searchsorted(index.bounds, np.arange(len(marked)), "right") - 1
    held_out = group % 2 == 1
    for row in answer["best"]:
        code = active[:, row["code"]]
        assert (row["hits_all"], row["active_all"]) == ((code & marked).sum(), code.sum())
        assert (row["hits"], row["active"]) == ((code & marked & held_out).sum(), (code & held_out).sum())
        if row["active"]:
            assert row["precision"] == pytest.approx(row["hits"] / row["active"])
            assert row["precision_low"] <= row["precision"] <= row["precision_high"]
        if (marked & held_out).any():
            assert row["recall"] == pytest.approx(row["hits"] / (marked & held_out).sum())
    chosen = [row["chosen"] for row in answer["best"]]
    assert chosen == sorted(chosen, reverse=True)


def test_a_cache_stands_for_all_its_dictionaries_and_a_dictionary_for_its_description(ctx: Context, runs: dict[str, Run]):
    both = Search(runs["cache"].id, "(fox)")(ctx)
    assert both is not None
    assert set(both["runs"]) == {runs["topk"].id, runs["codebook"].id}
    one = Search(runs["topk_train"].id, "(fox)")(ctx)
    assert one is not None
    assert one["runs"] == [runs["topk"].id]
    best = {row["run"]: row for row in reversed(both["best"])}
    assert one["best"][0] in both["best"] or best[runs["topk"].id]["chosen"] >= one["best"][0]["chosen"]


def test_topics_are_what_is_captured_of_the_sources(ctx: Context, runs: dict[str, Run]):
    answer = Search(runs["topk"].id, "^([^/]+)/", within="source", top=5)(ctx)
    assert answer is not None
    assert {row["topic"] for row in answer["best"]} == {"fox", "river"}
    cache = described.cache_of(runs["topk"])
    doc_of = load_file(cache.file("tokens.safetensors"))["doc_of"].ravel()
    sources, keep = described.sources_of(runs["topk"]), Index.open(runs["topk"]).keep.ravel()
    active = dense(runs["topk"])
    for row in answer["best"]:
        here = np.array([doc >= 0 and sources[doc].startswith(row["topic"]) for doc in doc_of]) & keep
        assert row["marked"] == here.sum()
        assert row["hits_all"] == (active[:, row["code"]] & here).sum()


def run_line(*line: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(list(line))
    return left.value.code


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("topk", "(a"), "is no regular expression"),
        (("topk", "(a)(b)"), "has 2 capture groups"),
        (("topk", "a", "--top", "0"), "lists nothing"),
        (("topk", "a", "--by", "luck"), "choose one of f1, precision, recall"),
        (("topk", "nowhere", "--within", "source"), "names no topic of 8 documents"),
        (("describe-00000000", "a"), "there is no run"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(ctx: Context, runs: dict[str, Run], capsys, line: tuple[str, ...], sentence: str):
    name, *rest = line
    assert run_line("search", runs[name].id if name in runs else name, *rest, "--root", str(ctx.root)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_no_match_is_an_answer_and_the_table_shows_codes(ctx: Context, runs: dict[str, Run], capsys):
    root = ("--root", str(ctx.root))
    assert run_line("search", runs["topk"].id, "(zebra)", "--json", *root) == 0
    assert json.loads(capsys.readouterr().out)["best"] == []
    assert run_line("search", runs["topk"].id, "(fox)", *root) == 0
    shown = capsys.readouterr().out
    assert f"{runs['topk'].id}:f:" in shown
    assert "tokens by lift" in shown


def test_a_description_without_index_names_the_command_that_makes_one(ctx: Context, runs: dict[str, Run]):
    bare = execute(Describe(runs["topk_train"].id, index=False), ctx)
    assert bare is not None
    assert not any(name.startswith("codes/") for name in bare.manifest)
    with pytest.raises(InputError, match=f"`interp describe {runs['topk_train'].id}` makes one"):
        Search(bare.id, "a")(ctx)
