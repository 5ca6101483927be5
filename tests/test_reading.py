"""Reading codes: every count and figure against a literal twin that looks at each token, and captures exact to the byte."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_features_codes import random_codes, write

from interp.reading import intervals
from interp.reading.index import Index
from interp.reading.search import Found, compared, marks
from interp.reading.text import Text, captures, compiled
from interp.reading.together import together
from interp.reading.usage import usage
from interp.reading.words import Lexicon
from saes.errors import InputError

# Whole words, pieces of characters, a lone surrogate in CESU-8, half an emoji, an id without bytes.
RAW = [
    b"the",
    b" cat",
    b"caf",
    b"\xc3",
    b"\xa9",
    b" ",
    b"\xf0\x9f",
    b"\x98\x80",
    b"",
    b"\xed\xa0\x80",
    b"\n",
    b"12",
    "é".encode(),
    b"a",
    b"b",
]


def bytes_of(spans: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Spans of characters as spans of bytes, by encoding what stands before."""
    return [tuple(len(text[:place].encode("utf-8", "surrogateescape")) for place in span) for span in spans]  # pyright: ignore


def literal(tokens: np.ndarray, pattern: str, which: str) -> np.ndarray:
    """The marked tokens, one sequence, match and token at a time, with the regular expressions of the standard library."""
    marked = np.zeros(tokens.shape, bool)
    for seq, row in enumerate(tokens.tolist()):
        raw = b"".join(RAW[t] for t in row)
        text = raw.decode("utf-8", "surrogateescape")
        assert text.encode("utf-8", "surrogateescape") == raw
        found = re.compile(pattern)
        for start, stop in bytes_of([m.span(found.groups) for m in found.finditer(text) if m.start(found.groups) >= 0], text):
            at, touched = 0, []
            for pos, token in enumerate(row):
                end = at + len(RAW[token])
                if at < stop and end > start and end > at and stop > start:
                    touched.append(pos)
                at = end
            for pos in touched[:1] if which == "first" else touched[-1:] if which == "last" else touched:
                marked[seq, pos] = True
    return marked.ravel()


PATTERNS = [
    r"caf(é)",
    r"(é)",
    r"the( cat)",
    "(\U0001f600)",
    r"(\d+)",
    r"t(h)e",
    r"(x)?a",
    r"()a",
    r"a|b",
    r"(?<=the) (c.t)",
    r"^(\w+)",
    r"(.)$",
]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 30), st.sampled_from(PATTERNS), st.sampled_from(["all", "first", "last"])
)
def test_captures_mark_the_tokens_that_share_a_byte_with_them(seed: int, n_seq: int, context: int, pattern: str, which):
    tokens = np.random.default_rng(seed).integers(0, len(RAW), (n_seq, context))
    np.testing.assert_array_equal(marks(Text.of(tokens, RAW), pattern, which), literal(tokens, pattern, which))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=4), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_any_bytes_are_kept_and_every_character_finds_its_own(raw: list[bytes], seed: int):
    tokens = np.random.default_rng(seed).integers(0, len(raw), (3, 9))
    text = Text.of(tokens, raw)
    assert [row.encode("utf-8", "surrogateescape") for row in text.rows] == [b"".join(raw[t] for t in row) for row in tokens]
    assert text.char_starts[-1] == text.token_bytes.sum()
    sizes = [len(c.encode("utf-8", "surrogateescape")) for row in text.rows for c in row]
    assert np.diff(text.char_starts).tolist() == sizes


def test_a_capture_over_partial_characters_takes_all_their_tokens():
    tokens = np.array([[2, 3, 4, 5, 6, 7, 0]])  # caf|C3|A9| |F0 9F|98 80|the
    text = Text.of(tokens, RAW)
    assert text.rows == ("café \U0001f600the",)
    assert np.flatnonzero(marks(text, "caf(é)")).tolist() == [1, 2]
    assert np.flatnonzero(marks(text, "(\U0001f600)")).tolist() == [4, 5]
    assert np.flatnonzero(marks(text, "t(h)e")).tolist() == [6]
    assert not marks(text, "(dog)").any()
    assert np.flatnonzero(marks(text, "the")).tolist() == [6], "without a group the whole match counts"
    assert not marks(text, "(x)?the").any(), "a group that took no part marks nothing"


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("(", "is no regular expression"),
        ("(a)(b)", "has 2 capture groups"),
        ("a" * 501, "at most 500"),
        ("[z-a]", "is no regular expression"),
    ],
)
def test_a_bad_pattern_is_refused_in_one_sentence(pattern: str, sentence: str):
    with pytest.raises(InputError, match=re.escape(sentence)):
        compiled(pattern)


def test_a_pattern_without_end_is_given_up():
    with pytest.raises(InputError, match="takes more than"):
        captures("(a+)+$", ["a" * 5000 + "b"] * 50, patience=0.2)


def make(folder: Path, seed: int, n_seq: int, context: int, d_dict: int) -> tuple[Index, np.ndarray]:
    """An index of random codes in several pieces, and the dense matrix [position, code] of what is active."""
    rng = np.random.default_rng(seed)
    keep = rng.random((n_seq, context)) < 0.8
    values, indices = random_codes(seed, n_seq * context, 3, d_dict)
    values = np.where(keep.ravel()[:, None], values, np.float32(0))
    codes = write(folder, values, indices, d_dict, context, 40)
    dense = np.zeros((n_seq * context, d_dict), bool)
    position, slot = np.nonzero(values > 0)
    dense[position, indices[position, slot]] = True
    return Index(codes, keep), dense


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 8), st.integers(4, 9))
def test_counts_of_every_code_equal_those_of_the_dense_matrix(tmp_path_factory, seed: int, n_seq: int, context: int, d_dict: int):
    index, dense = make(tmp_path_factory.mktemp("codes"), seed, n_seq, context, d_dict)
    marked = np.random.default_rng(seed + 1).random(len(dense)) < 0.3
    found, counted = compared(index, marked), marked & index.keep.ravel()
    assert found.hits.sum(0).tolist() == [sum(dense[p, c] for p in np.flatnonzero(counted)) for c in range(d_dict)]
    assert found.active.sum(0).tolist() == dense.sum(0).tolist()
    assert found.marked.sum() == counted.sum()
    assert index.n_tokens == index.keep.sum()
    for group, (low, high) in enumerate(zip(index.bounds[:-1], index.bounds[1:], strict=True)):
        assert found.hits[group].tolist() == dense[low:high][counted[low:high]].sum(0).tolist()
        assert found.active[group].tolist() == dense[low:high].sum(0).tolist()
        assert found.marked[group] == counted[low:high].sum()
    figures = found.everywhere
    for code in range(d_dict):
        both, fires, all_marked = (dense[:, code] & counted).sum(), dense[:, code].sum(), counted.sum()
        if fires:
            assert figures.precision.value[code] == pytest.approx(both / fires)
        if all_marked:
            assert figures.recall.value[code] == pytest.approx(both / all_marked)
        if fires + all_marked:
            assert figures.f1.value[code] == pytest.approx(2 * both / (fires + all_marked))


def literal_share(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """A share with its interval, by the formulas of the module, one group at a time in float64."""
    t, n, groups = float(part.sum()), float(whole.sum()), len(part)
    p = t / n
    between = sum((float(a) - p * float(b)) ** 2 for a, b in zip(part, whole, strict=True)) * groups / (groups - 1) / n**2
    independent = p * (1 - p) / n
    n = n / max(1.0, between / independent) if independent > 0 else n
    z = 1.959964
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_intervals_equal_their_literal_twin(seed: int, groups: int):
    rng = np.random.default_rng(seed)
    whole = rng.integers(1, 30, (groups, 5))
    part = rng.binomial(whole, rng.random((groups, 5)))
    part[:, 0], part[:, 1] = 0, whole[:, 1]
    shares = intervals.share(part, whole)
    for code in range(5):
        expected = literal_share(part[:, code], whole[:, code])
        np.testing.assert_allclose((shares.value[code], shares.low[code], shares.high[code]), expected, atol=1e-12)
    marked = rng.integers(0, 9, (groups, 1)) + part.max(1, keepdims=True)
    f1 = intervals.f1(part, whole, marked)
    for code in range(5):
        j = literal_share(part[:, code], whole[:, code] + marked[:, 0] - part[:, code])
        np.testing.assert_allclose((f1.value[code], f1.low[code], f1.high[code]), [2 * x / (1 + x) for x in j], atol=1e-12)


def test_intervals_cover_where_tokens_of_a_group_are_alike():
    """95 % intervals of a share whose groups differ, in 2,000 texts; those for independent tokens would cover far less."""
    rng = np.random.default_rng(0)
    rates = rng.beta(2, 6, (32, 2000))
    whole = rng.integers(5, 60, (32, 2000))
    part = rng.binomial(whole, rates)
    shares = intervals.share(part, whole)
    covered = ((shares.low <= 0.25) & (shares.high >= 0.25)).mean()
    low, high = intervals.wilson(shares.value, whole.sum(0).astype(float))
    naive = ((low <= 0.25) & (high >= 0.25)).mean()
    assert 0.91 < covered < 0.97
    assert naive < 0.7


def test_codes_are_chosen_on_one_half_and_measured_on_the_other():
    hits = np.array([[5, 1, 0, 0], [0, 4, 0, 9], [5, 1, 1, 0], [0, 4, 0, 9]])
    active = np.array([[5, 2, 0, 0], [9, 4, 0, 9], [5, 2, 1, 0], [9, 4, 0, 9]])
    found = Found(hits, active, np.array([10, 10, 10, 10]))
    assert found.best(4).tolist() == [0, 1, 2], "code 3 has no hit where codes are chosen"
    assert found.best(1, "precision", floor=0.06).tolist() == [0]
    assert found.best(3, "precision", floor=0.0).tolist() == [0, 2, 1]
    assert found.held_out.precision.value[[0, 1]].tolist() == [0.0, 1.0]
    assert np.isnan(found.held_out.precision.value[2])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-2, 2))
def test_codes_beside_a_code_and_its_tokens_equal_their_literal_twins(tmp_path_factory, seed: int, later: int):
    index, dense = make(tmp_path_factory.mktemp("codes"), seed, 12, 7, 6)
    keep, tokens = index.keep.ravel(), np.random.default_rng(seed).integers(0, 5, 84)
    for code in range(6):
        one = np.zeros(84, bool)
        for p in np.flatnonzero(dense[:, code]):
            if 0 <= p + later < 84 and (p + later) // 7 == p // 7 and keep[p + later]:
                one[p + later] = True
        beside = together(index, code, later)
        for other in range(6):
            n = int((one & dense[:, other]).sum())
            assert beside.n[other] == n
            assert beside.expected[other] == pytest.approx(one.sum() * dense[:, other].sum() / keep.sum())
            a, b = one[keep].astype(float), dense[keep, other].astype(float)
            if a.std() > 0 and b.std() > 0:
                assert beside.phi[other] == pytest.approx(np.corrcoef(a, b)[0, 1])
        words = Lexicon(tokens, keep).under(index.codes.latents(code, code + 1)[0])
        for i, token in enumerate(words.ids):
            under, everywhere = (dense[:, code] & (tokens == token)).sum(), (keep & (tokens == token)).sum()
            assert words.count[i] == under
            assert words.lift[i] == pytest.approx(under / dense[:, code].sum() / (everywhere / keep.sum()))
            assert words.recall[i] == pytest.approx(under / everywhere)
        assert words.count.sum() == dense[:, code].sum()
        assert np.all(np.diff(words.lift[words.by_lift(9)]) <= 0)
        assert np.all(words.count[words.by_lift(9)] >= 3)


def test_perplexity_counts_equally_used_codes_and_each_book_has_its_own():
    first, second, third = usage(np.array([7, 7, 7, 7, 9, 0, 0, 0, 0, 0, 0, 0]), 3)
    assert (first.perplexity, first.dead, first.top_share) == (pytest.approx(4), 0, pytest.approx(0.25))
    assert (second.perplexity, second.dead, second.top_share) == (pytest.approx(1), 3, 1)
    assert (third.perplexity, third.dead, third.top_share) == (0, 4, 0)
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert usage((p * 8).astype(int))[0].perplexity == pytest.approx(float(np.exp(-sum(x * np.log(x) for x in p))))
