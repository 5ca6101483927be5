"""Text of a data set on the Hugging Face Hub, streamed: nothing is downloaded ahead of its use."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from interp.text.document import Document
from saes.errors import InputError

INSTEAD = "use `docs`, which needs no network, or text of your own as `files:PATH`"


@dataclass(frozen=True)
class Hub:
    """A data set of the Hub, read as a stream at the commit that `revision` names."""

    name: str
    """OWNER/NAME, for example roneneldan/TinyStories."""
    split: str = "train"
    """Split of the data set."""
    column: str = "text"
    """Column that holds the text."""
    config: str | None = None
    """Configuration (subset), for data sets that have several, for example wikitext-103-raw-v1."""

    def documents(self) -> Iterator[Document]:
        """The text of each row that is not blank; raises InputError when the Hub, the split or the column cannot be had."""
        rows = iter(self._rows())
        for number in itertools.count(1):
            try:
                row = next(rows, None)
            except Exception as error:
                # The stream runs through datasets, fsspec, an HTTP client and a file format: each has its own errors for a lost line.
                raise InputError(f"reading {self.describe()} stopped at row {number} ({_brief(error)}); try again, or {INSTEAD}") from error
            if row is None:
                return
            if (text := self._text(row)).strip():
                yield Document(text.strip(), f"{self.name}:{number}")

    def revision(self) -> str:
        """The commit of the data set, with what is read of it; raises InputError when the Hub cannot be reached."""
        return f"hub-{_commit(self.name)}-{self.config or 'default'}-{self.split}-{self.column}"

    def describe(self) -> str:
        return f"{self.name}{f' ({self.config})' if self.config else ''}, split {self.split}, column {self.column}, from the Hub"

    def _rows(self) -> Any:
        commit = _commit(self.name)
        # datasets takes a second to import, and only this corpus needs it.
        from datasets import load_dataset

        try:
            return load_dataset(self.name, self.config, split=self.split, revision=commit, streaming=True)
        except Exception as error:
            raise InputError(
                f"{self.describe()} cannot be opened ({_brief(error)}); name it as hub:OWNER/NAME[/CONFIG][:SPLIT[:COLUMN]], or {INSTEAD}"
            ) from error

    def _text(self, row: dict[str, Any]) -> str:
        value = row.get(self.column)
        if self.column not in row or not isinstance(value, str | None):
            strings = ", ".join(name for name, item in row.items() if isinstance(item, str)) or "none"
            raise InputError(f"{self.name} has no text in the column {self.column!r} but in: {strings}; name one as hub:NAME:SPLIT:COLUMN")
        return value or ""


@functools.lru_cache
def _commit(name: str) -> str:
    try:
        # First of all, because it fails at once where load_dataset would try for half a minute.
        return str(HfApi().dataset_info(name, timeout=20).sha)
    except RepositoryNotFoundError:
        raise InputError(f"the Hub has no data set {name!r} that is open to you; check the name (OWNER/NAME), or {INSTEAD}") from None
    except Exception as error:
        raise InputError(f"the Hub could not be asked for the data set {name!r} ({_brief(error)}); {INSTEAD}") from error


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
