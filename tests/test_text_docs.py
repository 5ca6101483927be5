"""Prose from docstrings, on a package made for the test and on what is installed."""

import gc
import itertools
import re
import sys
from pathlib import Path

import pytest

from interp.text import Docs
from interp.text.docs import MIN_WORDS, docstrings
from saes.errors import InputError

SENTENCE = (
    "This {} explains at some length what it is for and when one would rather take another, because a short text is no prose at all here."
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution `lighthouse` with two modules, as pip would leave it."""
    files = {
        "lighthouse/__init__.py": f'"""{SENTENCE.format("package")}"""\nraise RuntimeError("imported")\n',
        "lighthouse/keeper.py": f'def keep():\n    """{SENTENCE.format("function")}\n\n    {SENTENCE.format("package")}\n    """\n',
        "lighthouse/broken.py": "def (:\n",
        "lighthouse/test_keeper.py": f'"""{SENTENCE.format("test")}"""\n',
        "lighthouse-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lighthouse\nVersion: 1.0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "lighthouse-1.0.dist-info/RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_package_is_read_without_being_imported_and_no_paragraph_comes_twice(package: Path):
    documents = list(Docs(("lighthouse",)).documents())
    paragraphs = [paragraph for document in documents for paragraph in document.text.split("\n\n")]
    assert sorted(paragraphs) == [SENTENCE.format("function"), SENTENCE.format("package")]
    assert "lighthouse" not in sys.modules
    assert {d.source.split(":")[0] for d in documents} <= {"lighthouse/__init__.py", "lighthouse/keeper.py"}


def test_the_order_is_that_of_hashes_and_not_that_of_the_record(package: Path):
    before = list(Docs(("lighthouse",)).documents())
    record = package / "lighthouse-1.0.dist-info/RECORD"
    record.write_text("".join(reversed(record.read_text().splitlines(keepends=True))))
    assert list(Docs(("lighthouse",)).documents()) == before


def test_the_revision_follows_the_version_and_missing_packages_do_not_count(package: Path):
    first = Docs(("lighthouse",)).revision()
    assert Docs(("lighthouse", "no-such-package")).revision() == first
    metadata = package / "lighthouse-1.0.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    assert Docs(("lighthouse",)).revision() != first


@pytest.mark.parametrize("packages", [(), ("no-such-package",)])
def test_without_any_installed_package_one_sentence_says_so(packages: tuple[str, ...]):
    with pytest.raises(InputError, match="files:PATH"):
        next(Docs(packages).documents())


def test_docstrings_of_modules_classes_methods_and_calls_are_found_with_their_lines():
    source = """'module'
class A:
    'class'
    async def f(self):
        'method'
add_docstr(abs, r'call')
print('not this')
"""
    assert list(docstrings(source.encode())) == [(1, "module"), (3, "class"), (5, "method"), (6, "call")]


def test_reading_leaves_the_garbage_collector_as_it_was():
    assert gc.isenabled()
    list(docstrings(b"def (:\n"))
    assert gc.isenabled()


def test_what_is_installed_gives_clean_paragraphs_without_repeats():
    documents = list(itertools.islice(Docs(("networkx", "jinja2")).documents(), 400))
    assert len(documents) == 400
    paragraphs = [paragraph for document in documents for paragraph in document.text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    for document in documents:
        assert len(document.text.split()) >= MIN_WORDS
        assert not re.search(r">>>|`|::|\.\. |\\|\s{3}|:param", document.text), document
    assert {document.source.split("/")[0] for document in documents} == {"networkx", "jinja2"}
    assert documents == list(itertools.islice(Docs(("networkx", "jinja2")).documents(), 400))


@pytest.mark.slow
def test_a_prefix_of_the_default_corpus_mixes_many_packages():
    documents = list(itertools.islice(Docs().documents(), 600))
    sources = [document.source.split("/")[0] for document in documents]
    assert len(set(sources)) >= 12
    assert max(sources.count(name) for name in set(sources)) <= 300
