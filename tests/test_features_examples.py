"""Examples: each bucket holds what it says, drawn the same way whatever the batches, with the right windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.features import hashing, windows
from interp.features.codes import Latent
from interp.features.examples import BANDS, RANDOM, SILENT, TOP, Choice, Occurrences, Quota, choose

CONTEXT = 16
QUOTA = Quota(top=6, per_band=3, random=4, silent=4)


def corpus(seed: int, n_seq: int, share: float) -> tuple[Latent, np.ndarray, np.ndarray]:
    """A latent that is active on a share of the kept tokens of a random corpus of five words, some values equal."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 5, n_seq * CONTEXT)
    keep = rng.random(len(tokens)) < 0.9
    active = np.flatnonzero(keep & (rng.random(len(tokens)) < share))
    return Latent(11, active, (rng.integers(1, 12, len(active)) / 4).astype(np.float32)), tokens, keep


def bucket(choice: Choice, number: int) -> list[int]:
    chosen = choice.bucket == number
    assert choice.rank[chosen].tolist() == list(range(chosen.sum()))
    return choice.positions[chosen].tolist()


CASES = given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([0.0, 0.02, 0.3, 0.97, 1.0]))


@settings(deadline=None)
@CASES
def test_the_top_bucket_holds_the_largest_in_order(seed: int, n_seq: int, share: float):
    latent, tokens, keep = corpus(seed, n_seq, share)
    choice = choose(latent, QUOTA, Occurrences.of(tokens, keep, 0))
    ranked = sorted(zip(latent.values.tolist(), latent.positions.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    assert bucket(choice, TOP) == [position for _, position in ranked[: QUOTA.top]]


@settings(deadline=None)
@CASES
def test_each_band_holds_its_smallest_keys_strongest_first(seed: int, n_seq: int, share: float):
    latent, tokens, keep = corpus(seed, n_seq, share)
    choice = choose(latent, QUOTA, Occurrences.of(tokens, keep, 0))
    act = dict(zip(latent.positions.tolist(), latent.values.tolist(), strict=True))
    for band in range(1, BANDS + 1):
        highest = max(act.values(), default=0)
        members = [p for p, value in act.items() if (band - 1) * highest / BANDS < value <= band * highest / BANDS]
        members.sort(key=lambda p: int(hashing.keys(np.array([p]), 0, 1, latent.index)[0]))
        assert bucket(choice, band) == sorted(members[: QUOTA.per_band], key=lambda p: (-act[p], p))


@settings(deadline=None)
@CASES
def test_silent_examples_have_the_token_of_a_top_example_and_no_activation(seed: int, n_seq: int, share: float):
    latent, tokens, keep = corpus(seed, n_seq, share)
    choice = choose(latent, QUOTA, Occurrences.of(tokens, keep, 0))
    chosen, active = bucket(choice, SILENT), set(latent.positions.tolist())
    words = {int(tokens[p]) for p in bucket(choice, TOP)}
    available = [p for p in np.flatnonzero(keep).tolist() if p not in active and int(tokens[p]) in words]
    assert set(chosen) <= set(available)
    assert len(chosen) == len(set(chosen)) == min(QUOTA.silent, len(available))


def test_random_examples_are_active_and_all_are_equally_likely():
    n, drawn = 40, np.zeros(40)
    tokens, keep = np.zeros(64, np.int64), np.ones(64, bool)
    for seed in range(2000):
        latent = Latent(3, np.arange(n), np.linspace(1, 9, n).astype(np.float32))
        drawn[bucket(choose(latent, Quota(0, 0, 4, 0), Occurrences.of(tokens, keep, seed)), RANDOM)] += 1
    # 200 expected with a standard deviation of 13.4
    assert drawn.min() > 140
    assert drawn.max() < 260


def test_latents_draw_different_samples_and_the_same_seed_the_same():
    tokens, keep = np.zeros(256, np.int64), np.ones(256, bool)
    occurrences = Occurrences.of(tokens, keep, 7)
    values = np.ones(100, np.float32)
    first, again, other = (choose(Latent(i, np.arange(0, 200, 2), values), QUOTA, occurrences) for i in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions)
    assert set(bucket(first, RANDOM)) != set(bucket(other, RANDOM))
    assert set(bucket(first, SILENT)) != set(bucket(other, SILENT))


def test_a_latent_that_fires_on_nearly_every_occurrence_still_finds_the_silent_ones():
    tokens, keep = np.zeros(1600, np.int64), np.ones(1600, bool)
    silent = [17, 801, 1599]
    positions = np.setdiff1d(np.arange(1600), silent)
    choice = choose(Latent(0, positions, np.ones(len(positions), np.float32)), QUOTA, Occurrences.of(tokens, keep, 0))
    assert sorted(bucket(choice, SILENT)) == silent


def test_keys_are_a_bijection_that_looks_random():
    keys = hashing.keys(np.arange(100_000), 1, 2, 3)
    assert len(np.unique(keys)) == 100_000
    assert abs(float((keys / 2.0**64).mean()) - 0.5) < 0.005
    # Reference outputs of SplitMix64 for the seed 1234567 (states advance by the golden gamma).
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * gamma) % 2**64 for i in range(3)], np.uint64)
    assert hashing.splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("context", [CONTEXT, 64])
def test_windows_hold_the_activations_around_the_example_and_nothing_beyond_its_sequence(context: int):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, (12, context)).astype(np.int32)
    positions = np.flatnonzero(rng.random(tokens.size) < 0.4)
    dense = np.zeros(tokens.size, np.float32)
    dense[positions] = rng.random(len(positions), np.float32) + 0.5
    latent = Latent(5, positions, dense[positions])
    choice = choose(latent, QUOTA, Occurrences.of(tokens.ravel(), np.ones(tokens.size, bool), 0))
    table = windows.table([windows.rows(latent, choice, context)], tokens, {"seed": "0"})
    assert table.schema.equals(windows.SCHEMA)
    assert table.schema.metadata == {b"seed": b"0"}
    folds: dict[tuple[int, ...], int] = {}
    for row, position in zip(table.to_pylist(), choice.positions.tolist(), strict=True):
        seq, pos, start = row["seq"], row["pos"], row["start"]
        assert seq * context + pos == position
        assert start <= pos < start + windows.WINDOW
        assert start + windows.WINDOW <= max(context, windows.WINDOW)
        around = dense.reshape(-1, context)[seq, start : start + windows.WINDOW]
        expected = np.zeros(windows.WINDOW, np.float16)
        expected[: len(around)] = around
        assert row["acts"] == expected.tolist()
        assert row["act"] == float(np.float16(dense[position])) == row["acts"][pos - start]
        shown = tuple(tokens[seq, start : start + windows.WINDOW].tolist())
        assert folds.setdefault(shown, row["fold"]) == row["fold"]
    assert len(set(folds.values())) == len(folds) > 5


def test_an_activation_beyond_float16_is_stored_as_the_largest():
    latent = Latent(0, np.array([3]), np.array([1e6], np.float32))
    choice = Choice(np.zeros(1, np.uint8), np.zeros(1, np.uint16), np.array([3]))
    table = windows.table([windows.rows(latent, choice, 8)], np.zeros((1, 8), np.int32), {})
    assert table["act"].to_pylist() == [65504.0]
