"""Sparse codes of a corpus, sorted by latent, on disk: what every statistic of a latent is computed from.

Codes arrive token by token, statistics are latent by latent. So the codes of a block of tokens are written as one sorted piece, and reading
some latents joins their slices of all pieces: an external sort. Every statistic is then exact and independent of the order in which tokens
came; memory holds one piece or the latents at hand, never tokens x d_dict. Merging two corpora is reading both folders.

    <first>-<stop>.safetensors   {offsets [d_dict + 1], positions int32 [n], values float32 [n]}: compressed columns of the tokens from flat
                                 position first to stop; positions count from first; offsets[i] : offsets[i + 1] is the slice of latent i;
                                 {rows int64 [stop - first + 1], latents int32 [n]}: the same the other way, the latents of each token

Both ways lie on the disk, because a question about a latent needs its tokens alone, and a question about some tokens their latents alone.
"""

import itertools
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.sparse import coo_array

from interp.runs import written

# Entries (token, latent) of one piece: 50 MB on disk, about 200 MB while it is sorted.
PIECE = 1 << 22
# Folder of the pieces in a described run, and the file beside them that says which tokens count.
INDEX, KEPT = "codes", "kept.safetensors"


@dataclass(frozen=True)
class Latent:
    """One latent on the whole corpus: the tokens on which it is active."""

    index: int
    positions: Int[np.ndarray, " n"]
    """Flat positions (sequence * context + position), ascending."""
    values: Float[np.ndarray, " n"]
    """Activations, all above zero."""

    def at(self, positions: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Activations at any positions, zero where the latent is silent."""
        if not len(self.positions):
            return np.zeros(positions.shape, np.float32)
        found = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return np.where(self.positions[found] == positions, self.values[found], np.float32(0))


@dataclass(frozen=True)
class Entries:
    """Active latents of some tokens, one entry for each (token, latent)."""

    values: Float[np.ndarray, " n"]
    latents: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]
    """Flat positions."""

    @staticmethod
    def of(values: Float[np.ndarray, "token k"], indices: Int[np.ndarray, "token k"], positions: Int[np.ndarray, " token"]) -> "Entries":
        """From k slots a token; slots without activation are left out."""
        token, slot = np.nonzero(values > 0)
        return Entries(values[token, slot].astype(np.float32), indices[token, slot], positions[token])


@dataclass
class Writer:
    """Collects codes and writes a piece whenever enough have come; continues after the last piece that is there."""

    folder: Path
    d_dict: int
    limit: int = PIECE
    first: int = field(init=False)
    """The flat position up to which everything is on disk."""
    _parts: list[Entries] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.first = max((stop for _, stop, _ in pieces(self.folder)), default=0)

    def update(self, entries: Entries, stop: int) -> None:
        """Add the codes of all tokens from the last `stop` to this flat position."""
        self._parts.append(entries)
        if sum(len(part.values) for part in self._parts) >= self.limit:
            self.flush(stop)

    def flush(self, stop: int) -> None:
        """Write what has come as the piece that ends before flat position `stop`."""
        if stop > self.first:
            write_piece(self.folder, self.first, stop, self.d_dict, self._parts)
        self.first = stop
        self._parts.clear()


def write_piece(folder: Path, first: int, stop: int, d_dict: int, parts: list[Entries]) -> None:
    """Sort entries by latent, then position, and write them."""
    values = np.concatenate([part.values for part in parts])
    latents = np.concatenate([part.latents for part in parts])
    positions = np.concatenate([part.positions for part in parts]) - first
    columns = coo_array((values, (positions, latents)), shape=(stop - first, d_dict)).tocsc()
    columns.sort_indices()
    rows = columns.tocsr()
    tensors = {"offsets": columns.indptr, "positions": columns.indices.astype(np.int32), "values": columns.data}
    tensors |= {"rows": rows.indptr.astype(np.int64), "latents": rows.indices.astype(np.int32)}
    with written(folder / f"{first:012d}-{stop:012d}.safetensors") as aside:
        save_file(tensors, aside)


def pieces(folder: Path) -> list[tuple[int, int, Path]]:
    """(first, stop, file) of the pieces of a folder, in the order of the corpus."""
    files = sorted(folder.glob("*-*.safetensors"))
    return [(*(int(number) for number in file.stem.split("-")), file) for file in files]  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Codes:
    """The codes in one or several folders, read latent by latent."""

    folders: tuple[Path, ...]

    @cached_property
    def _pieces(self) -> list[tuple[int, np.ndarray, Any]]:
        found = sorted(piece for folder in self.folders for piece in pieces(folder))
        for (_, stop, _), (first, _, path) in itertools.pairwise(found):
            assert stop <= first, f"{path} repeats tokens of the piece before it"
        files = [(first, safe_open(path, "np")) for first, _, path in found]
        return [(first, file.get_tensor("offsets"), file) for first, file in files]

    @cached_property
    def _rows(self) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """(first, stop, rows, latents) of the pieces, mapped into memory."""
        found = sorted(piece for folder in self.folders for piece in pieces(folder))
        return [(first, stop, mapped(path, "rows"), mapped(path, "latents")) for first, stop, path in found]

    @property
    def d_dict(self) -> int:
        return len(self._pieces[0][1]) - 1

    def n_active(self) -> Int[np.ndarray, " d_dict"]:
        """On how many tokens each latent is active."""
        return np.asarray(np.sum([np.diff(offsets) for _, offsets, _ in self._pieces], axis=0, dtype=np.int64))

    def latents(self, start: int, stop: int) -> list[Latent]:
        """Latents start to stop with all their active tokens."""
        parts = [_slice(first, offsets[start : stop + 1], file) for first, offsets, file in self._pieces]
        return [_joined(start + i, [(p[o[i] : o[i + 1]], v[o[i] : o[i + 1]]) for o, p, v in parts]) for i in range(stop - start)]

    def active(self, positions: Int[np.ndarray, " token"]) -> Int[np.ndarray, " n"]:
        """The latents that are active at some ascending flat positions, one token after the other."""
        found = []
        for first, stop, rows, latents in self._rows:
            low, high = np.searchsorted(positions, (first, stop))
            at = positions[low:high] - first
            starts, n = rows[at], rows[at + 1] - rows[at]
            found.append(latents[np.repeat(starts - np.cumsum(n) + n, n) + np.arange(n.sum())])
        return np.concatenate(found)

    def n_active_between(self, bounds: Int[np.ndarray, " bound"]) -> Int[np.ndarray, "group d_dict"]:
        """On how many tokens each latent is active, from each ascending flat position to the next."""
        out = np.zeros((len(bounds) - 1, self.d_dict), np.int64)
        for first, stop, rows, latents in self._rows:
            cuts = rows[np.clip(bounds, first, stop) - first]
            for group, (low, high) in enumerate(itertools.pairwise(cuts)):
                if low < high:
                    out[group] += np.bincount(latents[low:high], minlength=self.d_dict)
        return out


def mapped(path: Path, name: str) -> np.ndarray:
    """One tensor of a safetensors file as it lies on the disk: only what is looked at is read."""
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(start))[name]
    kind = {"I32": np.int32, "I64": np.int64, "BOOL": np.bool_}[entry["dtype"]]
    shape = tuple(entry["shape"])
    return np.memmap(path, kind, "r", 8 + start + entry["data_offsets"][0], shape) if all(shape) else np.zeros(shape, kind)


def _joined(index: int, parts: list[tuple[np.ndarray, np.ndarray]]) -> Latent:
    return Latent(index, np.concatenate([positions for positions, _ in parts]), np.concatenate([values for _, values in parts]))


def _slice(first: int, offsets: np.ndarray, file: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = int(offsets[0]), int(offsets[-1])
    if low == high:  # safetensors refuses an empty slice
        return offsets - low, np.zeros(0, np.int64), np.zeros(0, np.float32)
    return offsets - low, file.get_slice("positions")[low:high].astype(np.int64) + first, file.get_slice("values")[low:high]
