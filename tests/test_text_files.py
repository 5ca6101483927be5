"""Files of every kind, and every way to give them wrongly."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import shared

from interp.text import Docs, Files, Hub, parse
from saes.errors import InputError

STORIES = ["One day a fox ran.", "A dog saw it.\n\nIt barked.", "Ünïcode: 狐 🦊"]


def texts(path: Path, column: str | None = None) -> list[str]:
    return [document.text for document in Files(path, column).documents()]


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": s, "story": s.upper(), "n": 1}) + "\n" for s in STORIES))
    pq.write_table(pa.table({"text": STORIES, "story": [s.upper() for s in STORIES], "n": [1, 2, 3]}), tmp_path / "c.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["a.txt", "b.jsonl", "c.parquet"])
def test_every_kind_of_file_gives_the_same_documents(stories: Path, name: str):
    assert texts(stories / name) == STORIES


@pytest.mark.parametrize("name", ["b.jsonl", "c.parquet"])
def test_another_column_can_be_named(stories: Path, name: str):
    assert texts(stories / name, "story") == [s.upper() for s in STORIES]


def test_a_folder_gives_its_files_in_the_order_of_their_names(stories: Path):
    (stories / "ignored.csv").write_text("a,b")
    sources = [document.source for document in Files(stories).documents()]
    assert sources == ["a.txt:1", "a.txt:3", "a.txt:7", "b.jsonl:1", "b.jsonl:2", "b.jsonl:3", "c.parquet:1", "c.parquet:2", "c.parquet:3"]


def test_plain_text_without_separators_is_grouped_at_blank_lines_and_loses_nothing(tmp_path: Path):
    blocks = [f"Block {n} says something of its own,\nin two lines." for n in range(300)]
    (tmp_path / "a.txt").write_text("\n\n\n".join(blocks))
    documents = texts(tmp_path / "a.txt")
    assert "".join("".join(documents).split()) == "".join("".join(blocks).split())
    assert all(2_000 <= len(d) < 2_200 for d in documents[:-1])
    assert all(d.startswith("Block") and d.endswith("lines.") for d in documents)


def test_plain_text_without_blank_lines_is_cut_at_line_ends(tmp_path: Path):
    lines = [f"Line {n} goes on and on." for n in range(5_000)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    documents = texts(tmp_path / "a.txt")
    assert "\n".join(documents).splitlines() == lines
    assert max(map(len, documents)) < 20_100


def test_the_source_of_a_plain_document_is_its_first_line(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n\nfirst\n<|endoftext|>\n\n\nsecond\n")
    assert [d.source for d in Files(tmp_path / "a.txt").documents()] == ["a.txt:3", "a.txt:7"]


def test_the_revision_follows_the_content_and_not_the_place(stories: Path, tmp_path: Path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes((stories / "a.txt").read_bytes())
    assert Files(copy).revision() == Files(stories / "a.txt").revision()
    copy.write_text("other text")
    assert Files(copy).revision() != Files(stories / "a.txt").revision()


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n<|endoftext|>\r\ntwo\r\n".encode())
    assert texts(tmp_path / "a.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "column", "says"),
    [
        ("a.txt", b"", None, "holds no text"),
        ("a.txt", b" \n\n<|endoftext|>\n", None, "holds no text"),
        ("a.txt", b"caf\xe9 au lait", None, "not UTF-8"),
        ("a.csv", b"a,b", None, "no text that can be read"),
        ("a.jsonl", b'{"text": "one"}\n{"text": \n', None, r"a\.jsonl:2 is no JSON"),
        ("a.jsonl", b'["one"]', None, r"a\.jsonl:1 is a JSON list"),
        ("a.jsonl", b'{"body": "one"}', None, "no field 'text'; it has body"),
        ("a.jsonl", b'{"text": 5}', None, "'text' holds int"),
        ("a.parquet", b"this is no parquet", None, "no Parquet file"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes, column: str | None, says: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        texts(tmp_path / name, column)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("column", "says"), [("body", "has no column 'body'; it has text, story, n"), ("n", "holds int64 and no text")])
def test_a_wrong_parquet_column_is_refused_with_the_columns_there_are(stories: Path, column: str, says: str):
    with pytest.raises(InputError, match=says):
        texts(stories / "c.parquet", column)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="there is no file"):
        texts(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"holds no \.txt"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("text", "corpus"),
    [
        ("docs", Docs()),
        ("files:a/b.txt", Files(Path("a/b.txt"))),
        ("files:a/b.jsonl:story", Files(Path("a/b.jsonl"), "story")),
        ("hub:roneneldan/TinyStories", Hub("roneneldan/TinyStories")),
        ("hub:squad:validation:context", Hub("squad", "validation", "context")),
        ("hub:Salesforce/wikitext/wikitext-103-raw-v1:test", Hub("Salesforce/wikitext", "test", config="wikitext-103-raw-v1")),
    ],
)
def test_the_written_form_is_read_back(text: str, corpus: object):
    assert parse(text) == corpus


def test_an_existing_path_is_a_corpus_even_with_a_colon_in_its_name(tmp_path: Path):
    path = tmp_path / "a:b.txt"
    path.write_text("text")
    assert parse(str(path)) == parse(f"files:{path}") == Files(path)


@pytest.mark.parametrize("text", ["", "docs:numpy", "nothing.txt", "hub:", "files:", "hub:a/b/c/d", "hub:a:b:c:d", "hub:a::text"])
def test_anything_else_is_refused_with_the_ways_there_are(text: str):
    with pytest.raises(InputError, match="hub:OWNER/NAME"):
        parse(text)


def test_tiny_stories_has_as_many_stories_as_its_source_says():
    assert len(texts(shared("text/tinystories/tinystories_2MB.txt"))) == 2_317
