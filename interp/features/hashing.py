"""Hashes that choose and recognise examples: the same token gets the same key in every run, order and batch."""

import hashlib
import struct

import numpy as np
from jaxtyping import Int, UInt64

_GAMMA, _MULTIPLY_1, _MULTIPLY_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def splitmix64(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The mixing step of SplitMix64 (Steele, Lea and Flood 2014), a bijection: distinct numbers never collide."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        x = x + _GAMMA
        x = (x ^ (x >> np.uint64(30))) * _MULTIPLY_1
        x = (x ^ (x >> np.uint64(27))) * _MULTIPLY_2
        return x ^ (x >> np.uint64(31))


def stream(*numbers: int) -> int:
    """One 64-bit number of several, for example of seed, purpose and latent."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest(), "little")


def keys(positions: Int[np.ndarray, " n"], *numbers: int) -> UInt64[np.ndarray, " n"]:
    """A random key of each position, all different; who wants a sample takes the smallest."""
    return splitmix64(positions.astype(np.uint64) ^ np.uint64(stream(*numbers)))


def fold(tokens: Int[np.ndarray, "n window"]) -> UInt64[np.ndarray, " n"]:
    """A hash of each row of tokens: equal windows, equal numbers."""
    mixed = np.zeros(len(tokens), np.uint64)
    for column in tokens.T:
        mixed = splitmix64(mixed ^ column.astype(np.int64).astype(np.uint64))
    return mixed
