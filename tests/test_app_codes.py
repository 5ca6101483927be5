"""The Codes page against the activations that its runs were made from."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from synthetic_base import WIDTH, vocabulary
from synthetic_runs import Family, write_family
from synthetic_zoo import Zoo, write_zoo

import app

MAIN = Path(app.__file__).parent / "main.py"


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    return write_family(tmp_path_factory.mktemp("runs"), hostile=True)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def visit(monkeypatch):
    def open_page(root: Path, **parameters: str) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["main.py", "--root", str(root)])
        at = AppTest.from_file(str(MAIN), default_timeout=60)
        at.query_params.update(parameters)
        at.switch_page("views/codes.py").run()
        assert not at.exception, at.exception
        return at

    return open_page


def text(at: AppTest) -> str:
    return "\n".join(str(block.proto.body) for block in at.get("html"))


@pytest.mark.slow
def test_a_search_counts_the_tokens_of_the_pattern_and_links_its_codes(visit, family: Family):
    at = visit(family.root, run=family.describe.id, rx=" (the) ", by="recall", c="7")
    vocab = vocabulary(True)
    rows = [[vocab[t] for t in row] for row in family.tokens]
    # Words begin with their blank, so the capture lies in the token before one that begins with a blank.
    marked = sum(a == b" the" and b.startswith(b" ") for row in rows for a, b in itertools.pairwise(row))
    assert marked > 0
    assert f"{marked:,} of {family.tokens.size:,} tokens marked" in text(at)
    assert "rx=+%28the%29+" in text(at)
    assert at.number_input(key="c").value == 7
    assert "never fired" not in text(at)


def test_usage_of_the_page_is_that_of_the_activations(visit, family: Family):
    counts = (family.acts > 0).sum(1)
    p = counts[counts > 0] / counts.sum()
    drawn = text(visit(family.root, run=family.describe.id))
    assert f"{float(np.exp(-(p * np.log(p)).sum())):,.1f}" in drawn
    assert f"{(counts == 0).sum()} (" in drawn


def test_codes_are_called_codes_where_they_are(visit, zoo: Zoo):
    drawn = text(visit(zoo.root, run=zoo.describes["codebook"].id, rx="(the)"))
    assert "Codes active on the same token" in drawn
    assert "Active tokens of each live code" in drawn


def test_a_dead_latent_says_so(visit, family: Family):
    assert "this latent was never active" in text(visit(family.root, run=family.describe.id, c=str(WIDTH - 1)))


@pytest.mark.parametrize("name", ["(a+)+$", "<script>alert(1)</script>", "zzz"])
def test_odd_patterns_are_answered(visit, family: Family, name: str):
    drawn = text(visit(family.root, run=family.describe.id, rx=name))
    assert "tokens marked" in drawn or "takes more than" in drawn
    assert "<script>" not in drawn


def test_without_an_index_the_page_shows_usage_and_the_command_that_makes_one(visit, family: Family, tmp_path: Path):
    shutil.copytree(family.root, tmp_path / "runs")
    run = tmp_path / "runs" / family.describe.id
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.startswith("codes/")}
    (run / "manifest.json").write_text(json.dumps(manifest))
    at = visit(tmp_path / "runs", run=run.name, rx="(the)")
    assert f"interp describe {family.trains[2].id}" in [block.value for block in at.code]
    assert "Perplexity" in text(at)
