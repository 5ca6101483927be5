"""A dictionary and the cached tokens that it is described on; encoding them is the one pass over the corpus."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int

from interp.dictionaries import Trained
from interp.features.codes import Codes, Entries, Writer
from interp.progress import bar
from interp.store import Store
from saes.architectures import Module

# Pre-activations of one batch: 128 MB in float32, whatever the width.
BATCH = 1 << 25


@dataclass(frozen=True, eq=False)
class Corpus:
    """A dictionary and the cached sequences that it is described on."""

    trained: Trained
    keep: Bool[np.ndarray, "seq context"]
    """Tokens that count."""

    @property
    def store(self) -> Store:
        return self.trained.store

    @property
    def dictionary(self) -> Module:
        return self.trained.dictionary

    @property
    def n_seq(self) -> int:
        return len(self.keep)

    @cached_property
    def n_tokens(self) -> int:
        return int(self.keep.sum())

    @cached_property
    def flat(self) -> Int[np.ndarray, " positions"]:
        """The token at each flat position."""
        return self.store.tokens[: self.n_seq].ravel()

    @property
    def batch(self) -> int:
        """Sequences encoded at once."""
        return max(1, BATCH // (self.dictionary.d_dict * self.store.context))

    def encode(self, folder: Path) -> Codes:
        """Encode all kept tokens into `folder`, after the pieces that are already there."""
        writer, context = Writer(folder, self.dictionary.d_dict), self.store.context
        first = writer.first // context
        with bar(self.n_seq * context, "tok", "encode", initial=first * context) as progress:
            for start in range(first, self.n_seq, self.batch):
                stop = min(start + self.batch, self.n_seq)
                writer.update(self.entries(start, stop), stop * context)
                progress.update((stop - start) * context)
        writer.flush(self.n_seq * context)
        return Codes((folder,))

    @torch.no_grad()
    def entries(self, start: int, stop: int) -> Entries:
        """The codes of the kept tokens of sequences start to stop."""
        kept = self.keep[start:stop]
        x = self.trained.inputs(start, stop)[torch.from_numpy(kept)]
        code = self.dictionary.encode_sparse(x.to(next(self.dictionary.parameters())))
        return Entries.of(code.values.cpu().numpy(), code.indices.cpu().numpy(), start * self.store.context + np.flatnonzero(kept))
