"""The inverted index of a described dictionary: from codes to positions, and from positions to codes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int
from safetensors import safe_open

from interp.features.codes import INDEX, KEPT, Codes, mapped, pieces
from interp.reading.text import Text
from interp.runs import Run
from saes.errors import InputError

# Groups of consecutive sequences: even ones choose codes, odd ones measure them, and their differences give the intervals.
GROUPS = 64


@dataclass(frozen=True, eq=False)
class Index:
    """Where the codes of a dictionary are active, on the tokens that it was described on."""

    codes: Codes
    keep: Bool[np.ndarray, "seq context"]
    """Tokens that count."""

    @staticmethod
    def open(run: Run) -> "Index":
        """The index of a describe run; raises InputError when it has none."""
        name = f"{INDEX}/{KEPT}"
        if not run.has(name):
            dictionary = run.config["parents"]["dictionary"]
            raise InputError(f"{run.id} was described without an index of its codes; `interp describe {dictionary}` makes one")
        for piece in run.manifest:
            if piece.startswith(f"{INDEX}/"):
                run.file(piece)
        return Index(Codes((run.path / INDEX,)), np.asarray(mapped(run.file(name), "keep")))

    @property
    def n_codes(self) -> int:
        return self.codes.d_dict

    @property
    def context(self) -> int:
        return self.keep.shape[1]

    @cached_property
    def n_tokens(self) -> int:
        return int(self.keep.sum())

    @cached_property
    def bounds(self) -> Int[np.ndarray, " bound"]:
        """Flat positions at which the groups begin, and the end."""
        groups = min(GROUPS, len(self.keep))
        return np.linspace(0, len(self.keep), groups + 1).astype(np.int64) * self.context

    @cached_property
    def active(self) -> Int[np.ndarray, "group code"]:
        """On how many tokens of each group each code is active."""
        return self.codes.n_active_between(self.bounds)

    def hits(self, marked: Bool[np.ndarray, " position"]) -> Int[np.ndarray, "group code"]:
        """On how many of the marked tokens of each group each code is active."""
        positions = np.flatnonzero(marked)
        counts, found = self.codes.active(positions)
        cuts = np.concatenate([[0], np.cumsum(counts)])[np.searchsorted(positions, self.bounds)]
        parts = [np.bincount(found[low:high], minlength=self.n_codes) for low, high in zip(cuts[:-1], cuts[1:], strict=True)]
        return np.stack(parts)

    def grouped(self, marked: Bool[np.ndarray, " position"]) -> Int[np.ndarray, " group"]:
        """How many tokens of each group are marked."""
        return np.diff(np.concatenate([[0], np.cumsum(marked)])[self.bounds])


def described_tokens(run: Run) -> Int[np.ndarray, "seq context"]:
    """The token matrix of the cache that a describe run was made from."""
    with safe_open(cache_of(run).file("tokens.safetensors"), "np") as file:
        return file.get_tensor("tokens")


def described_text(run: Run, n_seq: int) -> Text:
    """The text of the first `n_seq` sequences of the cache that a describe run was made from."""
    vocabulary = pa.ipc.open_file(pa.memory_map(str(cache_of(run).file("vocab.arrow")))).read_all()
    return Text.of(described_tokens(run)[:n_seq], vocabulary["raw"].to_pylist())


def cache_of(run: Run) -> Run:
    """The ancestor that holds the tokens; raises InputError when a parent is gone."""
    while run.stage != "cache":
        parents: dict[str, Any] = run.config["parents"]
        if not parents:
            raise InputError(f"{run.id} was not made from cached tokens; `interp describe` describes a dictionary of a cache run")
        run = run.parent(next(iter(parents)))
    return run


def n_bytes(run: Run) -> int:
    """Size of the index of a describe run on the disk."""
    return sum(path.stat().st_size for *_, path in pieces(run.path / INDEX))
