"""Text to read activations from. `Corpus` lists where it comes from; `parse` reads the command-line form; `pack` makes sequences of it."""

from pathlib import Path

from interp.text.docs import Docs
from interp.text.document import Document
from interp.text.files import Files
from interp.text.hub import Hub
from interp.text.pack import Packed, pack
from interp.text.synthetic import repeated_tokens
from interp.text.vocab import display, vocabulary
from saes.errors import InputError

Corpus = Docs | Files | Hub
WAYS = (
    "docs (prose from installed packages), a path or files:PATH[:COLUMN] (.txt, .md, .jsonl, .parquet, or a folder), "
    "hub:OWNER/NAME[/CONFIG][:SPLIT[:COLUMN]]"
)

__all__ = ["Corpus", "Docs", "Document", "Files", "Hub", "Packed", "display", "pack", "parse", "repeated_tokens", "vocabulary"]


def parse(text: str) -> Corpus:
    """The corpus that was written on the command line; raises InputError, which lists the ways, for anything else."""
    kind, _, rest = text.strip().partition(":")
    if kind == "docs" and not rest:
        return Docs()
    if kind == "files" and rest:
        return _files(rest)
    if kind == "hub" and rest:
        return _hub(rest)
    if text.strip() and Path(text.strip()).expanduser().exists():
        return Files(Path(text.strip()).expanduser())
    raise InputError(f"{text!r} names no text; write {WAYS}")


def _files(rest: str) -> Files:
    """`PATH[:COLUMN]`, where a path that exists may hold colons itself."""
    path, _, column = rest.rpartition(":")
    if not path or Path(rest).expanduser().exists():
        return Files(Path(rest).expanduser())
    return Files(Path(path).expanduser(), column or None)


def _hub(rest: str) -> Hub:
    name, *options = rest.split(":")
    owner, *parts = name.split("/")
    if len(options) > 2 or len(parts) > 2 or not all([owner, *parts, *options]):
        raise InputError(
            f"'hub:{rest}' names no data set; write hub:OWNER/NAME[/CONFIG][:SPLIT[:COLUMN]], as in hub:roneneldan/TinyStories"
        )
    config = parts.pop() if len(parts) == 2 else None
    fields = dict(zip(("split", "column"), options, strict=False))
    return Hub("/".join([owner, *parts]), config=config, **fields)
