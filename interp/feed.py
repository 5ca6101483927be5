"""What training reads: a batch of activations at several sites, as a function of the step alone.

`Stored` takes the rows from the disk. `Streamed` runs the model alongside, a chunk of sequences at a time, and keeps nothing: one pass
needs no disk, a second pass computes again. Both shuffle tokens, and both are resumed by arithmetic.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.sites import Site
from interp.store import OUTLIER, Order, Store

# Tokens whose activations a streaming source holds and shuffles.
CHUNK = 65_536
# Sequences of one forward pass.
_BATCH = 16
Rows = dict[Site, Float[Tensor, "batch width"]]


@dataclass(frozen=True, eq=False)
class Stored:
    """Batches from the disk."""

    store: Store
    sites: tuple[Site, ...]
    batch_size: int
    seed: int

    @functools.cached_property
    def order(self) -> Order:
        return self.store.order(self.seed)

    @property
    def n_tokens(self) -> int:
        """Tokens of an epoch."""
        return len(self.order.pool)

    def batch(self, step: int) -> Rows:
        """The rows of a step at every site, in the stored type."""
        flat = self.order.rows(step, self.batch_size)
        return {site: self.store.rows(site, flat) for site in self.sites}

    def sample(self, n: int) -> Rows:
        """The first n rows of training."""
        flat = self.order.rows(0, min(n, self.n_tokens))
        return {site: self.store.rows(site, flat) for site in self.sites}

    def documents_per_batch(self) -> float:
        """Distinct documents of a batch, counted on the first eight."""
        return float(np.mean([self.store.distinct_documents(self.order.rows(step, self.batch_size)) for step in range(8)]))


@dataclass(frozen=True, eq=False)
class Streamed:
    """Batches from the model.

    Sequences are permuted anew each epoch; tokens are permuted within a chunk. An outlier is known only when it is there: another token of
    the chunk takes its place, so that a batch keeps its size and a step its meaning. What does not fill a batch at the end of a chunk is
    left out.
    """

    store: Store
    sites: tuple[Site, ...]
    batch_size: int
    seed: int

    @functools.cached_property
    def text(self) -> Int[np.ndarray, " seq"]:
        """Text tokens of each training sequence."""
        return self.store.keep[: self.store.n_train].sum(1).numpy()

    @property
    def n_tokens(self) -> int:
        return int(self.text.sum())

    def batch(self, step: int) -> Rows:
        """The rows of a step at every site."""
        epoch, chunk, place = self._place(step)
        rows, order = self._chunk(epoch, chunk)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return {site: rows[site][chosen] for site in self.sites}

    def sample(self, n: int) -> Rows:
        """Rows of the first chunk of training, n at most."""
        rows, order = self._chunk(0, 0)
        return {site: rows[site][order[:n]] for site in self.sites}

    def documents_per_batch(self) -> float:
        """Distinct documents of a batch, counted on the first."""
        sequences = self._sequences(0)[0]
        documents = self.store.doc_of[sequences][self.store.keep[torch.from_numpy(sequences)].numpy()]
        return float(len(np.unique(documents[self._chunk(0, 0)[1][: self.batch_size].numpy()])))

    def _place(self, step: int) -> tuple[int, int, int]:
        """Epoch, chunk and batch within the chunk of a step."""
        epoch = 0
        while step >= (total := int(self._batches(epoch)[-1])):
            step, epoch = step - total, epoch + 1
        chunk = int(np.searchsorted(self._batches(epoch), step, "right"))
        return epoch, chunk, step - (int(self._batches(epoch)[chunk - 1]) if chunk else 0)

    @functools.lru_cache(4)  # noqa: B019 (one source lives as long as its training)
    def _batches(self, epoch: int) -> Int[np.ndarray, " chunk"]:
        """Batches up to the end of each chunk of an epoch."""
        return np.cumsum([self.text[sequences].sum() // self.batch_size for sequences in self._sequences(epoch)])

    @functools.lru_cache(2)  # noqa: B019
    def _sequences(self, epoch: int) -> list[Int[np.ndarray, " seq"]]:
        """The sequences of each chunk, as many as hold CHUNK tokens and at least a batch."""
        order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.store.n_train)
        wanted = max(CHUNK, 2 * self.batch_size)
        ends = np.searchsorted(np.cumsum(self.text[order]), np.arange(wanted, self.n_tokens, wanted)) + 1
        parts = np.split(order, ends)
        # A last chunk smaller than a batch joins the one before it.
        if len(parts) > 1 and self.text[parts[-1]].sum() < self.batch_size:
            parts[-2:] = [np.concatenate(parts[-2:])]
        return parts

    @functools.lru_cache(1)  # noqa: B019
    def _chunk(self, epoch: int, chunk: int) -> tuple[Rows, Int[Tensor, " row"]]:
        """Activations of the text tokens of a chunk, and their order."""
        sequences = self._sequences(epoch)[chunk]
        keep = self.store.keep[torch.from_numpy(sequences)]
        parts: dict[Site, list[Tensor]] = {site: [] for site in self.sites}
        giants: list[Tensor] = []
        for start in range(0, len(sequences), _BATCH):
            # All sites that the run is of, so that what is left out does not depend on those that are read.
            found = self.store.computed(self.store.sites, sequences[start : start + _BATCH])
            rows = {site: values[keep[start : start + _BATCH].to(values.device)] for site, values in found.items()}
            giants.append(torch.stack([v.float().norm(dim=1) > OUTLIER * self.store.medians[s] for s, v in rows.items()]).any(0).cpu())
            for site in self.sites:
                parts[site].append(rows[site].cpu())
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch << 32 | chunk + 1]))
        return {site: torch.cat(found) for site, found in parts.items()}, _order(torch.cat(giants), generator)


def _order(giant: Bool[Tensor, " row"], generator: np.random.Generator) -> Int[Tensor, " row"]:
    """A permutation of the rows, with another row in place of each giant."""
    order = torch.from_numpy(generator.permutation(len(giant)))
    good = order[~giant[order]]
    return torch.where(giant[order], good[torch.from_numpy(generator.integers(len(good), size=len(order)))], order)


Feed = Stored | Streamed


def feed(store: Store, sites: tuple[Site, ...], batch_size: int, seed: int) -> Feed:
    """The batches of a cache run, from the disk where it stored activations."""
    return (Stored if store.stored else Streamed)(store, sites, batch_size, seed)
