"""Packing against a literal twin."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import TEXT
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from interp.text import Document, pack, repeated_tokens
from saes.errors import InputError

DOCUMENTS = [Document(f"{n} {text}" * (n % 7), f"corpus.txt:{n}") for n, text in enumerate(TEXT * 4)]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama)


def literal(tokenizer: Any, n_tokens: int, context: int, bos: int | None) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, str]]]:
    """The same, one token at a time."""
    tokens, owners, starts = [], [], []
    doc = 0
    for document in DOCUMENTS:
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        for place, token in enumerate([*ids, tokenizer.eos_token_id] if ids else []):
            if bos is not None and len(tokens) % context == 0:
                tokens.append(bos)
                owners.append(-1)
            if len(tokens) < n_tokens // context * context and place == 0:
                starts.append((doc, len(tokens) // context, len(tokens) % context, document.source))
            tokens.append(token)
            owners.append(doc)
        doc += bool(ids)
    n_seq = n_tokens // context
    return np.reshape(tokens[: n_seq * context], (n_seq, context)), np.reshape(owners[: n_seq * context], (n_seq, context)), starts


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize(("n_tokens", "context"), [(64, 64), (1000, 7), (999, 16), (2000, 333), (10, 2)])
def test_packing_equals_the_literal_loop(tokenizer: Any, n_tokens: int, context: int, bos: int | None):
    packed = pack(DOCUMENTS, tokenizer, n_tokens, context, bos)
    tokens, owners, starts = literal(tokenizer, n_tokens, context, bos)
    assert packed.tokens.dtype == packed.doc_of.dtype == np.int32
    np.testing.assert_array_equal(packed.tokens, tokens)
    np.testing.assert_array_equal(packed.doc_of, owners)
    assert [tuple(row.values()) for row in packed.documents.to_pylist()] == starts


def test_every_document_is_read_back_from_its_tokens(tokenizer: Any):
    packed = pack(DOCUMENTS, tokenizer, 3_000, 50, 0)
    full = [d for d in DOCUMENTS if d.text]
    for doc in range(packed.documents.num_rows - 1):
        ids = packed.tokens[packed.doc_of == doc].tolist()
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == full[doc].text


def test_no_more_documents_are_read_than_are_needed(tokenizer: Any):
    def endless() -> Iterator[Document]:
        while True:
            yield DOCUMENTS[5]

    assert pack(endless(), tokenizer, 5_000, 100, 0).tokens.shape == (50, 100)


def test_a_document_longer_than_a_batch_runs_over_many_sequences(tokenizer: Any):
    packed = pack([Document("word " * 60_000, "a.txt:1")], tokenizer, 20_000, 100, 0)
    assert packed.documents.num_rows == 1
    assert set(np.unique(packed.doc_of)) == {-1, 0}


def test_too_little_text_is_refused_with_both_numbers(tokenizer: Any):
    n_tokens = len(tokenizer(TEXT[0], add_special_tokens=False)["input_ids"]) + 1
    document = Document(TEXT[0], "a.txt:1")
    assert pack([document], tokenizer, n_tokens, n_tokens, None).tokens.shape == (1, n_tokens)
    with pytest.raises(InputError, match=f"gives {n_tokens} tokens and {n_tokens + 1} were asked for"):
        pack([document], tokenizer, n_tokens + 1, n_tokens + 1, None)


@pytest.mark.parametrize(
    ("n_tokens", "context", "says"), [(100, 1, "cannot be packed"), (99, 100, "do not fill"), (10**6, 70_000, "cannot be packed")]
)
def test_impossible_sizes_are_refused(tokenizer: Any, n_tokens: int, context: int, says: str):
    with pytest.raises(InputError, match=says):
        pack(DOCUMENTS, tokenizer, n_tokens, context, 0)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(InputError, match=r"no fast tokenizer.*tokenizer\.json"):
        pack(DOCUMENTS, SimpleNamespace(backend_tokenizer=None, eos_token_id=0), 100, 10, 0)  # pyright: ignore[reportArgumentType]


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 99), st.none() | st.just(7))
def test_repeated_tokens_repeat_and_stay_among_the_allowed(n_seq: int, half: int, seed: int, bos: int | None):
    allowed = np.array([3, 5, 11])
    tokens = repeated_tokens(n_seq, half, allowed, seed, bos)
    body = tokens if bos is None else tokens[:, 1:]
    assert tokens.dtype == np.int32
    assert body.shape == (n_seq, 2 * half)
    assert set(np.unique(body)) <= {3, 5, 11}
    assert bos is None or set(tokens[:, 0]) == {bos}
    np.testing.assert_array_equal(body[:, :half], body[:, half:])
    np.testing.assert_array_equal(tokens, repeated_tokens(n_seq, half, allowed, seed, bos))


def test_repeated_tokens_use_all_that_is_allowed_and_differ_by_seed():
    allowed = np.arange(20)
    assert set(np.unique(repeated_tokens(50, 20, allowed, 0, None))) == set(range(20))
    assert (repeated_tokens(50, 20, allowed, 0, None) != repeated_tokens(50, 20, allowed, 1, None)).any()


def test_repeated_tokens_of_nothing_are_refused():
    with pytest.raises(InputError, match="an id to draw"):
        repeated_tokens(1, 5, np.array([], dtype=np.int64), 0, None)
