"""Sparse codes on disk: sorted by latent, exact, independent of how the tokens were cut, small in memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.features.codes import Codes, Entries, Latent, Writer, pieces


def random_codes(seed: int, n_tokens: int, k: int, d_dict: int) -> tuple[np.ndarray, np.ndarray]:
    """k different latents a token, a third of the values zero as padding."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n_tokens, d_dict)), axis=1)[:, :k]
    values = rng.gamma(2, 1, (n_tokens, k)).astype(np.float32)
    return np.where(rng.random((n_tokens, k)) < 1 / 3, np.float32(0), values), indices


def write(folder: Path, values: np.ndarray, indices: np.ndarray, d_dict: int, batch: int, limit: int, first: int = 0, end: int = -1):
    """The codes of tokens first to end, `batch` tokens at a time."""
    last = len(values) if end < 0 else end
    writer = Writer(folder, d_dict, limit=limit)
    writer.first = max(first, writer.first)
    for start in range(writer.first, last, batch):
        stop = min(start + batch, last)
        writer.update(Entries.of(values[start:stop], indices[start:stop], np.arange(start, stop)), stop)
    writer.flush(last)
    return Codes((folder,))


def literal(values: np.ndarray, indices: np.ndarray, latent: int) -> list[tuple[int, float]]:
    """(position, activation) of a latent, by looking at every slot."""
    found = []
    for position in range(len(values)):
        for slot in range(values.shape[1]):
            if indices[position, slot] == latent and values[position, slot] > 0:
                found.append((position, float(values[position, slot])))
    return found


def pairs(latent: Latent) -> list[tuple[int, float]]:
    return list(zip(latent.positions.tolist(), latent.values.tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4), st.integers(4, 9), st.integers(1, 70), st.integers(1, 200))
def test_every_latent_is_read_back_with_all_its_tokens_however_they_were_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_tokens: int, k: int, d_dict: int, batch: int, limit: int
):
    values, indices = random_codes(seed, n_tokens, k, d_dict)
    codes = write(tmp_path_factory.mktemp("codes"), values, indices, d_dict, batch, limit)
    read = [latent for start in range(0, d_dict, 3) for latent in codes.latents(start, min(start + 3, d_dict))]
    assert [latent.index for latent in read] == list(range(d_dict))
    assert [pairs(latent) for latent in read] == [literal(values, indices, latent) for latent in range(d_dict)]
    assert codes.n_active().tolist() == [len(literal(values, indices, latent)) for latent in range(d_dict)]
    assert codes.d_dict == d_dict


def test_two_folders_together_are_one_corpus_in_either_order(tmp_path: Path):
    values, indices = random_codes(0, 100, 3, 7)
    whole = write(tmp_path / "whole", values, indices, 7, 10, 40)
    write(tmp_path / "b", values, indices, 7, 7, 1000, first=55)
    write(tmp_path / "a", values, indices, 7, 9, 30, end=55)
    for folders in ((tmp_path / "a", tmp_path / "b"), (tmp_path / "b", tmp_path / "a")):
        merged = Codes(folders)
        assert [pairs(latent) for latent in merged.latents(0, 7)] == [pairs(latent) for latent in whole.latents(0, 7)]


def test_a_corpus_with_the_same_tokens_twice_is_refused(tmp_path: Path):
    values, indices = random_codes(0, 30, 2, 5)
    write(tmp_path / "a", values, indices, 5, 10, 1000)
    write(tmp_path / "b", values, indices, 5, 10, 1000, first=20)
    with pytest.raises(AssertionError, match="repeats tokens"):
        Codes((tmp_path / "a", tmp_path / "b")).n_active()


def test_a_writer_goes_on_after_the_pieces_that_are_there(tmp_path: Path):
    values, indices = random_codes(1, 90, 3, 6)
    interrupted = Writer(tmp_path / "cut", 6, limit=50)
    for start in range(0, 70, 10):
        interrupted.update(Entries.of(values[start : start + 10], indices[start : start + 10], np.arange(start, start + 10)), start + 10)
    assert 0 < interrupted.first < 70, "some pieces are written and something was lost"
    resumed = write(tmp_path / "cut", values, indices, 6, 10, 50)
    whole = write(tmp_path / "whole", values, indices, 6, 10, 50)
    assert [pairs(latent) for latent in resumed.latents(0, 6)] == [pairs(latent) for latent in whole.latents(0, 6)]


def test_a_latent_is_zero_wherever_it_is_silent():
    latent = Latent(0, np.array([2, 5, 9]), np.array([1.0, 2.0, 3.0], np.float32))
    assert latent.at(np.array([[0, 2, 3], [5, 9, 10]])).tolist() == [[0, 1, 0], [2, 3, 0]]
    assert Latent(1, np.zeros(0, np.int64), np.zeros(0, np.float32)).at(np.array([4])).tolist() == [0]


def test_memory_does_not_grow_with_tokens_times_latents(tmp_path: Path):
    d_dict, n_tokens, k = 65_536, 4096, 8
    rng = np.random.default_rng(0)
    writer = Writer(tmp_path, d_dict, limit=10_000)
    tracemalloc.start()
    for start in range(0, n_tokens, 256):
        values, indices = rng.random((256, k), np.float32) + 0.1, rng.integers(0, d_dict, (256, k))
        writer.update(Entries.of(values, indices, np.arange(start, start + 256)), start + 256)
    writer.flush(n_tokens)
    codes = Codes((tmp_path,))
    counts = codes.n_active()
    read = [len(latent.values) for start in range(0, 1024, 64) for latent in codes.latents(start, start + 64)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == counts[:1024].tolist()
    assert counts.sum() > 0.99 * n_tokens * k  # a latent drawn twice by one token is one entry
    n_pieces = len(pieces(tmp_path))
    assert n_pieces > 2
    # The whole matrix would take 268 million cells; a dozen numbers a latent and piece are allowed.
    assert peak < 12 * 4 * d_dict * n_pieces < n_tokens * d_dict / 10
