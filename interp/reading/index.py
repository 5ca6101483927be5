"""The inverted index of a described dictionary: from codes to positions, and from positions to codes."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from interp.features.codes import INDEX, KEPT, Codes, mapped
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
        """On how many of the marked tokens, all of which count, each code of each group is active."""
        if 2 * marked.sum() > self.n_tokens:  # fewer are left out
            return self.active - self.hits(self.keep.ravel() & ~marked)
        positions = np.flatnonzero(marked)
        cuts = np.searchsorted(positions, self.bounds)
        found = (self.codes.active(positions[low:high]) for low, high in itertools.pairwise(cuts))
        return np.stack([np.bincount(codes, minlength=self.n_codes) for codes in found])

    def grouped(self, marked: Bool[np.ndarray, " position"]) -> Int[np.ndarray, " group"]:
        """How many tokens of each group are marked."""
        return np.diff(np.concatenate([[0], np.cumsum(marked)])[self.bounds])
