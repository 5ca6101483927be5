"""The activation store: read side of a cache run, and the token order of training.

A run made with `--no-stored` holds tokens only; its activations are computed by the model whenever they are read.

Layout (see data/README.md): `tokens.safetensors` {tokens, doc_of int32 [n_seq, context]}, and for each site
`acts/<site>/<shard>.safetensors` {acts [seqs, context, width], norms float32 [seqs, context]}, all shards of `shard_sequences` sequences.
"""

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor

from interp.hooks import record
from interp.models import Model, load
from interp.runs import Run, read_json
from interp.sites import Site
from saes.errors import InputError

# Attention sinks and other giants carry most of the squared norm and teach a dictionary nothing.
OUTLIER = 10.0


def shard_name(site: Site, index: int) -> str:
    return f"acts/{site}/{index:05d}.safetensors"


@dataclass(frozen=True, eq=False)
class Store:
    """Activations of a finished cache run, memory-mapped; or computed, where the run did not store them."""

    run: Run
    device: str = "auto"
    """Where the model runs that computes what is not stored."""

    @staticmethod
    def open(run: Run, *sites: Site, device: str = "auto") -> "Store":
        """Open for the sites (all without any), checking the sha256 of every file that will be read; raises InputError."""
        store = Store(run, device)
        for site in sites:
            if site not in store.sites:
                raise InputError(f"{run.id} holds no {site}; it holds {', '.join(map(str, store.sites))}")
        shards = [shard_name(s, i) for s in sites or store.sites for i in range(store.n_shards)] if store.stored else []
        run.verify("tokens.safetensors", *shards)
        return store

    @functools.cached_property
    def stored(self) -> bool:
        """Whether activations lie on the disk."""
        return bool(self.run.config["config"]["stored"])

    @functools.cached_property
    def model(self) -> Model:
        """The model that the tokens are for, in the type that activations are in."""
        return load(self.run.config["config"]["model"], self.run.config["config"]["dtype"], self.device)

    @functools.cached_property
    def config(self) -> dict[str, object]:
        return self.run.config["config"]

    @functools.cached_property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(text) for text in self.run.config["config"]["sites"])

    @functools.cached_property
    def tokens(self) -> Int[np.ndarray, "seq context"]:
        return self._token_matrix("tokens")

    @functools.cached_property
    def doc_of(self) -> Int[np.ndarray, "seq context"]:
        """Document of each token, -1 for BOS and padding."""
        return self._token_matrix("doc_of")

    @property
    def n_seq(self) -> int:
        return len(self.tokens)

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    @functools.cached_property
    def n_shards(self) -> int:
        return sum(name.startswith(f"acts/{self.sites[0]}/") for name in self.run.manifest)

    @functools.cached_property
    def n_train(self) -> int:
        """Sequences for training; those after them are held out."""
        return self.n_seq - max(1, round(self.n_seq * float(self.run.config["config"]["held_out"])))

    def width(self, site: Site) -> int:
        """Numbers per token."""
        return self._shards(site)[0][0].shape[-1] if self.stored else self.model.width(site)

    def sequences(self, sites: Sequence[Site], start: int, stop: int) -> Float[Tensor, "seq context width"]:
        """Activations of sequences start to stop, in the stored dtype, several sites side by side."""
        if self.stored:
            return torch.cat([self._stored(site, start, stop) for site in sites], -1)
        found = self.computed(sites, np.arange(start, stop))
        return torch.cat([found[site] for site in sites], -1)

    def computed(self, sites: Sequence[Site], sequences: Int[np.ndarray, " seq"]) -> dict[Site, Float[Tensor, "seq context width"]]:
        """Activations of some sequences, from the model."""
        found = record(self.model, torch.from_numpy(self.tokens[sequences]).long(), sites, before=True)
        return {site: activation.flatten(2) for site, activation in found.items()}

    def _stored(self, site: Site, start: int, stop: int) -> Tensor:
        shards, starts = self._shards(site)
        parts = []
        for index in range(bisect.bisect_right(starts, start) - 1, len(shards)):
            low, high = max(start - starts[index], 0), min(stop - starts[index], len(shards[index]))
            if high <= 0:
                break
            parts.append(shards[index][low:high])
        return torch.cat(parts)

    def rows(self, site: Site, flat: Int[np.ndarray, " row"]) -> Float[Tensor, "row width"]:
        """Activations of tokens by flat position (sequence * context + position), in that order."""
        shards, starts = self._shards(site)
        order = np.argsort(flat)
        cuts = np.searchsorted(flat[order], [start * self.context for start in starts] + [self.n_seq * self.context])
        out = torch.empty(len(flat), shards[0].shape[-1], dtype=shards[0].dtype)
        for index, (low, high) in enumerate(itertools.pairwise(cuts)):
            if low < high:
                chosen = order[low:high]
                local = torch.from_numpy(flat[chosen] - starts[index] * self.context)
                out[torch.from_numpy(chosen)] = shards[index].flatten(0, 1)[local]
        return out

    def norms(self, site: Site) -> Float[Tensor, "seq context"]:
        """Euclidean norm of each activation, measured when it was cached."""
        files = [self.run.file(shard_name(site, index)) for index in range(self.n_shards)]
        return torch.cat([read_tensor(path, "norms") for path in files])

    @functools.cached_property
    def medians(self) -> dict[Site, float]:
        """Median norm of the text tokens at each site, from all of them or, where nothing is stored, from a sample."""
        summary = read_json(self.run.file("summary.json"))
        return {site: summary[f"median_norm_{site}"] for site in self.sites}

    @functools.cached_property
    def excluded(self) -> dict[str, Bool[Tensor, "seq context"]]:
        """Masks of what is left out, by reason: bos, padding, outlier (at any site a norm over 10 times the median of the text tokens).

        One mask for all sites, so that transcoders, crosscoders and grids read the same tokens everywhere. Outliers that are not stored are
        known only once they are computed.
        """
        text = torch.from_numpy(self.doc_of >= 0)
        first = torch.zeros_like(text)
        first[:, 0] = True
        giant = torch.zeros_like(text)
        for site in self.sites if self.stored else ():
            giant |= outliers(self.norms(site), text)
        return {"bos": ~text & first, "padding": ~text & ~first, "outlier": giant}

    @property
    def keep(self) -> Bool[Tensor, "seq context"]:
        """Tokens that count: neither BOS nor padding nor outlier."""
        return ~torch.stack(list(self.excluded.values())).any(0)

    def order(self, seed: int, part: str = "train") -> "Order":
        """The shuffled order of the kept tokens of a part, `train` or `held_out`."""
        keep = self.keep
        keep[: self.n_train] &= part == "train"
        keep[self.n_train :] &= part == "held_out"
        return Order(np.flatnonzero(keep.numpy()), seed)

    def distinct_documents(self, flat: Int[np.ndarray, " row"]) -> int:
        """How many documents the tokens come from."""
        return len(np.unique(self.doc_of.ravel()[flat]))

    def _token_matrix(self, name: str) -> Int[np.ndarray, "seq context"]:
        return read_tensor(self.run.file("tokens.safetensors"), name).numpy()

    def _shards(self, site: Site) -> tuple[list[Tensor], list[int]]:
        if site not in self._open:
            shards = [read_tensor(self.run.file(shard_name(site, index)), "acts") for index in range(self.n_shards)]
            self._open[site] = (shards, [int(n) for n in np.cumsum([0] + [len(shard) for shard in shards])[:-1]])
        return self._open[site]

    @functools.cached_property
    def _open(self) -> dict[Site, tuple[list[Tensor], list[int]]]:
        return {}


def outliers(norms: Float[Tensor, "seq context"], text: Bool[Tensor, "seq context"]) -> Bool[Tensor, "seq context"]:
    """Text tokens whose norm is over 10 times the median norm of the text tokens."""
    return text & (norms > OUTLIER * norms[text].median())


@dataclass(frozen=True, eq=False)
class Order:
    """A token-level shuffle without state: the rows of a step depend on (seed, step) alone.

    Every epoch is a permutation of its own of all rows, so each token is seen once an epoch.
    """

    pool: Int[np.ndarray, " row"]
    seed: int

    def rows(self, step: int, batch_size: int) -> Int[np.ndarray, " batch"]:
        """Flat positions of the batch of a step; a batch may reach into the next epoch."""
        n, first = len(self.pool), step * batch_size
        last = first + batch_size
        parts = [self._epoch(e)[max(first - e * n, 0) : last - e * n] for e in range(first // n, (last - 1) // n + 1)]
        return np.concatenate(parts)

    def steps(self, batch_size: int, start: int = 0) -> Iterator[Int[np.ndarray, " batch"]]:
        """The batches from step `start` on, without end."""
        step = start
        while True:
            yield self.rows(step, batch_size)
            step += 1

    @functools.cached_property
    def _epochs(self) -> dict[int, np.ndarray]:
        return {}

    def _epoch(self, epoch: int) -> Int[np.ndarray, " row"]:
        if epoch not in self._epochs:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            for old in [e for e in self._epochs if e < epoch - 1]:
                del self._epochs[old]
            self._epochs[epoch] = self.pool[generator.permutation(len(self.pool))]
        return self._epochs[epoch]


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, memory-mapped."""
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)
