"""English prose that is already there: the docstrings of installed packages, read by `ast` without importing the packages.

Files are read in the order of a hash of their path, a few hundred at a time, and the documents of each batch are mixed by another hash, so
any prefix is a fair mix over packages and the same on every machine. Files with few docstrings for their length (mostly generated model
code) wait for a second round: the first 400,000 tokens then take seconds. Whoever changes what is read, or its order, raises `prose.RULES`.
"""

import ast
import contextlib
import gc
import hashlib
import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, PackagePath, distribution, version

from interp.text.document import Document
from interp.text.prose import RULES, paragraphs
from saes.errors import InputError

PACKAGES = (
    "torch", "transformers", "sympy", "networkx", "numpy", "scipy", "scikit-learn", "pandas", "huggingface-hub", "datasets", "accelerate",
    "streamlit", "transformer-lens", "mpmath", "fsspec", "pyarrow", "jinja2", "joblib", "click", "pillow", "requests", "urllib3",
    "packaging", "pydantic", "wandb", "beartype", "narwhals",
)  # fmt: skip
"""Installed with the workbench, and written in sentences (plotly and altair document by template)."""

MIN_WORDS = 25
"""A shorter docstring is a label and no prose: `Return the size.`"""

_BATCH = 256
# A file with this share of its bytes between triple quotes is read in the first round: a fifth of the files, almost half of the prose.
_RICH = 0.4
_QUOTED = re.compile(rb'"""(.*?)"""', re.DOTALL)
_ADDS_DOCSTRING = re.compile(r"add_\w*doc\w*")  # torch and numpy document their compiled functions by add_docstr(...), add_newdoc(...)


@dataclass(frozen=True)
class Docs:
    """Prose from the docstrings of installed packages. Needs no download."""

    packages: tuple[str, ...] = PACKAGES
    """Names as pip knows them; those that are not installed are left out."""

    def documents(self) -> Iterator[Document]:
        """The prose of each docstring, no paragraph twice; raises InputError when none of the packages is installed."""
        files = [file for package in self._installed() for file in _python_files(package)]
        seen: set[bytes] = set()
        for batch in _batches(_rich_first(sorted(files, key=lambda file: _hash(file.as_posix())))):
            documents = (Document(text, source) for source, docstring in batch if (text := _unseen_prose(docstring, seen)))
            yield from sorted(documents, key=lambda document: _hash(document.source))

    def revision(self) -> str:
        """Hash of the package versions, of the rules in `prose` and of the Python version, which decides what can be parsed."""
        parts = [f"{name}=={version(name)}" for name in self._installed()]
        parts += [f"rules=={RULES}", f"python=={sys.version_info.major}.{sys.version_info.minor}"]
        return f"docs-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"

    def describe(self) -> str:
        names = self._installed()
        return f"prose from the docstrings of {len(names)} installed packages ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"

    def _installed(self) -> list[str]:
        found = [name for name in dict.fromkeys(self.packages) if _is_installed(name)]
        if not found:
            named = ", ".join(self.packages) or "(none named)"
            raise InputError(f"none of the packages {named} is installed; name others, or give text as files:PATH")
        return found


def docstrings(source: bytes) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring in Python source, outermost first; nothing where it does not parse."""
    try:
        with warnings.catch_warnings(), _collector_paused():
            warnings.simplefilter("ignore")  # invalid escapes are the concern of the package
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from _below(tree)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """A syntax tree is very many objects and no cycle; beside a loaded model the collector would take a third of the time for nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _below(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    if (docstring := ast.get_docstring(node, clean=False)) is not None:
        yield node.body[0].lineno, docstring
    for statement in node.body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _below(statement)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield from _handed_over(statement.value)


def _handed_over(call: ast.Call) -> Iterator[tuple[int, str]]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if _ADDS_DOCSTRING.fullmatch(name):
        for part in itertools.chain.from_iterable(map(ast.walk, call.args)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def _python_files(package: str) -> Iterator[PackagePath]:
    """From the list that the installer wrote, so the order of the file system plays no part."""
    for file in distribution(package).files or ():
        if file.suffix == ".py" and not any("test" in part for part in file.parts):
            yield file


def _rich_first(files: Iterable[PackagePath]) -> Iterator[list[tuple[str, str]]]:
    """(source, docstring) of every docstring, file by file; files with few docstrings come last."""
    poor = []
    for file in files:
        if _share_in_quotes(content := _read(file)) >= _RICH:
            yield _located(file, content)
        else:
            poor.append(file)
    for file in poor:
        yield _located(file, _read(file))


def _located(file: PackagePath, content: bytes) -> list[tuple[str, str]]:
    return [(f"{file.as_posix()}:{line}", text) for line, text in docstrings(content)]


def _batches(files: Iterator[list[tuple[str, str]]]) -> Iterator[list[tuple[str, str]]]:
    while batch := list(itertools.islice(files, _BATCH)):
        yield list(itertools.chain.from_iterable(batch))


def _unseen_prose(docstring: str, seen: set[bytes]) -> str:
    """The paragraphs not yet seen, blank lines between; empty when they are too short together."""
    kept = []
    for paragraph in paragraphs(docstring):
        if (key := _likeness(paragraph)) not in seen:
            seen.add(key)
            kept.append(paragraph)
    text = "\n\n".join(kept)
    return text if len(text.split()) >= MIN_WORDS else ""


def _likeness(paragraph: str) -> bytes:
    """Equal for paragraphs that differ only in names, numbers and signs: `Construct a Bert model.`, `Construct a GPT-2 model.`"""
    return _hash(" ".join(word for word in paragraph.split() if word.isalpha() and word.islower()))


def _share_in_quotes(source: bytes) -> float:
    return sum(map(len, _QUOTED.findall(source))) / max(len(source), 1)


def _read(file: PackagePath) -> bytes:
    try:
        return file.read_binary()
    except OSError:
        return b""  # listed by the installer and deleted since


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
