"""Examples of one latent: where it is strongest, samples of all strengths, and where one would expect it but it is silent.

Samples are drawn by the smallest hashed keys of their positions, so they depend on the seed and the corpus, not on batches.

    bucket 0       the largest activations, ties by position
    bucket 1-5     uniform bands of (0, max], band b = ((b - 1) max / 5, b max / 5], a sample each, strongest first
    bucket 6       a sample of all active tokens, in random order
    bucket 7       a token of a top example elsewhere, with the latent silent, in random order, taking the tokens in turn
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt16

from interp.features import hashing
from interp.features.codes import Latent
from saes.errors import InputError

TOP, RANDOM, SILENT = 0, 6, 7
BANDS = 5
# Silent tokens are mostly found at once; only a latent that fires on nearly all occurrences of a token needs the rest of them.
_GLANCE = 64


@dataclass(frozen=True)
class Quota:
    """How many examples of each kind."""

    top: int = 20
    """Largest activations."""
    per_band: int = 5
    """Activations sampled from each of the five bands."""
    random: int = 5
    """Activations sampled from all."""
    silent: int = 5
    """Places with the token of a top example where the latent is silent."""

    def __post_init__(self) -> None:
        counts = (self.top, self.per_band, self.random, self.silent)
        if min(counts) < 0 or max(counts) >= 1 << 16:
            raise InputError(f"{self} asks for a number of examples that no table holds; give 0 to 65,535 of each kind")

    @property
    def total(self) -> int:
        return self.top + BANDS * self.per_band + self.random + self.silent


@dataclass(frozen=True)
class Choice:
    """The examples of a latent in the order of the table: by bucket, then rank."""

    bucket: UInt8[np.ndarray, " n"]
    rank: UInt16[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Occurrences:
    """Where each token of the vocabulary occurs among the tokens that count, each token's places in a random order."""

    tokens: Int[np.ndarray, " positions"]
    """The token at each flat position."""
    places: Int[np.ndarray, " kept"]
    offsets: Int[np.ndarray, " bounds"]
    seed: int

    @staticmethod
    def of(tokens: Int[np.ndarray, " positions"], keep: Bool[np.ndarray, " positions"], seed: int) -> "Occurrences":
        """Index the kept positions of a corpus by token."""
        kept = np.flatnonzero(keep)
        order = np.lexsort((hashing.keys(kept, seed, SILENT), tokens[kept]))
        places = kept[order]
        return Occurrences(tokens, places, np.searchsorted(tokens[places], np.arange(int(tokens.max(initial=-1)) + 2)), seed)

    def __call__(self, token: int) -> Int[np.ndarray, " n"]:
        """The places of a token."""
        return self.places[self.offsets[token] : self.offsets[token + 1]]


def choose(latent: Latent, quota: Quota, occurrences: Occurrences) -> Choice:
    """All examples of a latent; none for a dead one, fewer than asked where there are no more."""
    strongest = top(latent, quota.top)
    buckets = [strongest, *bands(latent, quota.per_band, occurrences.seed), sample(latent, quota.random, occurrences.seed)]
    buckets.append(silent(latent, strongest, quota.silent, occurrences))
    sizes = [len(bucket) for bucket in buckets]
    return Choice(
        np.repeat(np.arange(len(buckets), dtype=np.uint8), sizes),
        np.concatenate([np.arange(n, dtype=np.uint16) for n in sizes]),
        np.concatenate(buckets),
    )


def top(latent: Latent, n: int) -> Int[np.ndarray, " n"]:
    """Positions of the n largest activations, largest first; of equal ones the earlier."""
    return latent.positions[np.argsort(-latent.values, kind="stable")[:n]]


def bands(latent: Latent, n: int, seed: int) -> list[Int[np.ndarray, " n"]]:
    """Positions of n activations from each uniform band of (0, max], each band strongest first."""
    if not len(latent.values):
        return [latent.positions] * BANDS
    band = np.ceil(latent.values.astype(np.float64) * (BANDS / float(latent.values.max())))
    shuffled = np.argsort(hashing.keys(latent.positions, seed, 1, latent.index))
    chosen = [shuffled[band[shuffled] == b][:n] for b in range(1, BANDS + 1)]
    return [latent.positions[c[np.lexsort((latent.positions[c], -latent.values[c]))]] for c in chosen]


def sample(latent: Latent, n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Positions of n activations, all equally likely."""
    return latent.positions[np.argsort(hashing.keys(latent.positions, seed, RANDOM, latent.index))[:n]]


def silent(latent: Latent, like: Int[np.ndarray, " top"], n: int, occurrences: Occurrences) -> Int[np.ndarray, " n"]:
    """Positions with the token of an example in `like` on which the latent is silent, from up to n tokens in turn."""
    start = hashing.stream(occurrences.seed, SILENT, latent.index)
    found: list[np.ndarray] = []
    for token in dict.fromkeys(occurrences.tokens[like].tolist()):
        if len(found) < n and len(places := _silent_places(latent, occurrences(token), n, start)):
            found.append(places)
    turns = [places[turn] for turn in range(n) for places in found if turn < len(places)]
    return np.array(turns[:n], np.int64)


def _silent_places(latent: Latent, places: Int[np.ndarray, " places"], n: int, start: int) -> Int[np.ndarray, " m"]:
    """The first n silent places from a start of the latent's own, so that latents do not share their examples."""
    begin = start % len(places)
    glance = places[begin : begin + _GLANCE]
    free = glance[latent.at(glance) == 0]
    if len(free) < n:
        around = np.concatenate((places[begin:], places[:begin]))
        free = around[latent.at(around) == 0]
    return free[:n]
