"""Text of one's own: plain text, JSON lines or Parquet, one file or a folder of them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp.text.document import Document
from saes.errors import InputError

PLAIN = (".txt", ".md")
SUFFIXES = (*PLAIN, ".jsonl", ".parquet")
SEPARATOR = "<|endoftext|>"
"""A line of its own between two documents of a plain text file."""

# Without separators, blocks between blank lines are joined into documents of at least this many characters, about 500 tokens: long enough
# for context, short enough that a batch of sequences comes from many places.
_GROUPED = 2_000
# A file without blank lines is cut at the first line end after this many characters, so that memory stays bounded.
_CUT = 20_000


@dataclass(frozen=True)
class Files:
    """A text file, a .jsonl or .parquet file, or a folder of such files in the order of their names.

    Plain text is cut at lines that say `<|endoftext|>`; without any, at blank lines, joined into documents of 2,000 characters and more.
    """

    path: Path
    """File (.txt, .md, .jsonl, .parquet) or folder."""
    column: str | None = None
    """Field of the text in .jsonl and .parquet; without it `text`."""

    def documents(self) -> Iterator[Document]:
        """Every document that is not blank; raises InputError for what cannot be read, and when there is no text at all."""
        empty = True
        for file in self._files():
            source = file.name if file == self.path else file.relative_to(self.path).as_posix()
            for number, text in self._texts(file):
                if text.strip():
                    empty = False
                    yield Document(text.strip(), f"{source}:{number}")
        if empty:
            raise InputError(f"{self.path} holds no text; give a file with some, or --text docs, which needs none")

    def revision(self) -> str:
        """The sha256 of the files and of the column."""
        digest = hashlib.sha256(repr(self.column).encode())
        for file in self._files():
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return f"files-{digest.hexdigest()[:16]}"

    def describe(self) -> str:
        n_files = len(self._files())
        return f"{self.path}" + ("" if n_files == 1 else f" ({n_files} files)") + ("" if self.column is None else f", column {self.column}")

    def _files(self) -> list[Path]:
        if self.path.is_dir():
            files = sorted((p for p in self.path.rglob("*") if p.suffix in SUFFIXES and p.is_file()), key=lambda p: p.as_posix())
            if not files:
                raise InputError(f"the folder {self.path} holds no {', '.join(SUFFIXES)} file; give one that does")
            return files
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}; give a {', '.join(SUFFIXES)} file, a folder of them, or use docs")
        if self.path.suffix not in SUFFIXES:
            raise InputError(f"{self.path} is no text that can be read; files end in {', '.join(SUFFIXES)}")
        return [self.path]

    def _texts(self, file: Path) -> Iterator[tuple[int, str]]:
        """Number (line or row, from 1) and text of each document of one file."""
        try:
            if file.suffix == ".parquet":
                yield from _parquet(file, self.column or "text")
            elif file.suffix == ".jsonl":
                yield from _json_lines(file, self.column or "text")
            else:
                yield from _plain(file)
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 ({error.reason}); convert it, for example with `iconv -t UTF-8`") from None
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}") from None


def _plain(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig") as lines:
        separated = any(line.strip() == SEPARATOR for line in lines)
    with file.open(encoding="utf-8-sig") as lines:
        yield from _split(lines, separated)


def _split(lines: Iterable[str], separated: bool) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each document."""
    held: list[str] = []
    start, size = 1, 0
    for number, line in enumerate(lines, 1):
        blank, separator = not line.strip(), line.strip() == SEPARATOR
        if separator if separated else (blank and size >= _GROUPED) or size >= _CUT:
            yield start, "".join(held)
            held, size = [], 0
        if separator or (blank and not held):
            continue
        start = start if held else number
        held.append(line)
        size += len(line)
    yield start, "".join(held)


def _json_lines(file: Path, column: str) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _field(_parsed(line, f"{file}:{number}"), column, f"{file}:{number}")


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is no JSON ({error.msg} at column {error.colno}); a .jsonl file has one object a line") from None
    if not isinstance(row, dict):
        raise InputError(f"{place} is a JSON {type(row).__name__}; a .jsonl file has one object a line, with the text in a field")
    return row


def _field(row: dict[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise InputError(f"{place} has no field {column!r}; it has {', '.join(row) or 'none'}: name one as files:PATH:FIELD")
    value = row[column]
    if not isinstance(value, str | None):
        raise InputError(f"{place}: the field {column!r} holds {type(value).__name__} and no text; name another as files:PATH:FIELD")
    return value or ""


def _parquet(file: Path, column: str) -> Iterator[tuple[int, str]]:
    try:
        with pq.ParquetFile(file) as table:
            _check_column(table.schema_arrow, column, file)
            batches = table.iter_batches(batch_size=1024, columns=[column])
            for number, text in enumerate((text for batch in batches for text in batch.column(0).to_pylist()), 1):
                yield number, text or ""
    except pa.ArrowInvalid as error:
        raise InputError(f"{file} is no Parquet file that can be read ({str(error).splitlines()[0]})") from None


def _check_column(schema: pa.Schema, column: str, file: Path) -> None:
    if column not in schema.names:
        raise InputError(f"{file} has no column {column!r}; it has {', '.join(schema.names)}: name one as files:PATH:COLUMN")
    kind = schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{file}: the column {column!r} holds {kind} and no text; name another as files:PATH:COLUMN")
