"""Documents to sequences of one length: `[bos] d1 d1 d1 eos d2 | [bos] d2 d2 eos ...`, every position used.

A document that does not fit goes on in the next sequence. The tokenizer adds nothing itself; the beginning-of-sequence token opens every
sequence and the tokenizer's end-of-sequence token, if there is one, closes every document.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Int32
from tokenizers import Tokenizer as Backend

from interp.text.document import Document
from saes.errors import InputError

# Text handed to the tokenizer at once: enough to keep its threads busy, little enough that memory and reading ahead stay small.
_CHARACTERS = 200_000
# Positions are written as uint16.
_LONGEST = 2**16
_SCHEMA = pa.schema([("doc", pa.int32()), ("seq", pa.int32()), ("pos", pa.uint16()), ("source", pa.utf8())])


@runtime_checkable
class FastTokenizer(Protocol):
    """What is needed of a fast tokenizer of transformers (importing its class would import torch)."""

    @property
    def backend_tokenizer(self) -> Backend: ...
    @property
    def eos_token_id(self) -> int | None: ...


@dataclass(frozen=True)
class Packed:
    """Full sequences of tokens, and where each document begins."""

    tokens: Int32[np.ndarray, "n_seq context"]
    doc_of: Int32[np.ndarray, "n_seq context"]
    """Index of the document of each token, -1 for the beginning-of-sequence token; an end-of-sequence token belongs to what it ends."""
    documents: pa.Table
    """doc int32, seq int32, pos uint16, source utf8: where each document begins."""


def pack(documents: Iterable[Document], tokenizer: FastTokenizer, n_tokens: int, context: int, bos_id: int | None) -> Packed:
    """The first `n_tokens // context` sequences, BOS counted; reads no further. Raises InputError when there is too little text."""
    _check(tokenizer, n_tokens, context, bos_id)
    n_seq, width = n_tokens // context, context - (bos_id is not None)
    tokens, doc_of = np.empty(n_seq * width, np.int32), np.empty(n_seq * width, np.int32)
    starts: list[int] = []
    sources: list[str] = []
    filled = 0
    for source, ids in _encoded(documents, tokenizer):
        end = min(filled + len(ids), len(tokens))
        tokens[filled:end] = ids[: end - filled]
        doc_of[filled:end] = len(starts)
        starts.append(filled)
        sources.append(source)
        filled = end
        if filled == len(tokens):
            break
    if filled < len(tokens):
        found = filled + (-(-filled // width) if bos_id is not None else 0)
        raise InputError(f"the text gives {found:,} tokens and {n_tokens:,} were asked for; ask for fewer, or give more text")
    return _assembled(tokens.reshape(n_seq, width), doc_of.reshape(n_seq, width), starts, sources, bos_id)


def _check(tokenizer: FastTokenizer, n_tokens: int, context: int, bos_id: int | None) -> None:
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Backend):
        raise InputError(f"{type(tokenizer).__name__} is no fast tokenizer; use a model whose folder has a tokenizer.json")
    shortest = 1 if bos_id is None else 2
    if not shortest <= context <= _LONGEST:
        raise InputError(f"a context of {context} tokens cannot be packed; choose {shortest} to {_LONGEST}")
    if n_tokens < context:
        raise InputError(f"{n_tokens} tokens do not fill one sequence of {context}; ask for more tokens or a shorter context")


def _encoded(documents: Iterable[Document], tokenizer: FastTokenizer) -> Iterator[tuple[str, list[int]]]:
    """(source, ids with the end-of-sequence token) of each document that is not empty."""
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    backend = tokenizer.backend_tokenizer
    # A document is encoded whole, whatever the tokenizer.json asks for; transformers sets both anew at each of its own calls.
    backend.no_truncation()
    backend.no_padding()
    for batch in _batches(documents):
        for document, encoding in zip(batch, backend.encode_batch_fast([d.text for d in batch], add_special_tokens=False), strict=True):
            if ids := encoding.ids:
                yield document.source, ids + eos


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _assembled(
    tokens: Int32[np.ndarray, "n_seq width"],
    doc_of: Int32[np.ndarray, "n_seq width"],
    starts: list[int],
    sources: list[str],
    bos_id: int | None,
) -> Packed:
    n_seq, width = tokens.shape
    shift = 0 if bos_id is None else 1
    if bos_id is not None:
        tokens = np.concatenate([np.full((n_seq, 1), bos_id, np.int32), tokens], axis=1)
        doc_of = np.concatenate([np.full((n_seq, 1), -1, np.int32), doc_of], axis=1)
    seq, pos = np.divmod(np.asarray(starts, np.int64), width)
    columns = [np.arange(len(starts), dtype=np.int32), seq.astype(np.int32), (pos + shift).astype(np.uint16), pa.array(sources, pa.utf8())]
    return Packed(tokens, doc_of, pa.table(columns, schema=_SCHEMA))
