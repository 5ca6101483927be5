"""The exact bytes of every token, and how they are shown.

Vocabularies store bytes in disguise: byte-level BPE writes each byte as a printable character (a space as `Ġ`), SentencePiece writes a
space as `▁` and single bytes as `<0x0A>`. Which disguise it is says the tokenizer's own decoder; here it is taken off. For byte-level BPE
the bytes of the tokens of a text, joined, are the UTF-8 bytes of the text. A Llama tokenizer puts a space in front of the text first
(its `Prepend` normaliser) and reads a literal `▁` as a space: then the bytes are those of that text.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from interp.text.pack import FastTokenizer

# Controls 0-31 have pictures at U+2400, delete at U+2421; the controls of Latin-1 have none and are written as escapes.
_PICTURES = {**{code: chr(0x2400 + code) for code in range(32)}, 0x7F: "␡", **{code: f"\\u{code:04x}" for code in range(0x80, 0xA0)}}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SCHEMA = pa.schema([("id", pa.int32()), ("text", pa.utf8()), ("raw", pa.binary()), ("special", pa.bool_())])


def display(raw: bytes) -> str:
    """Text as it is, control characters as their pictures, bytes that are no UTF-8 as `\\xe2\\x82`."""
    return raw.decode("utf-8", errors="backslashreplace").translate(_PICTURES)


def vocabulary(tokenizer: FastTokenizer, d_vocab: int) -> pa.Table:
    """Text to show and raw bytes of each of `d_vocab` ids. An id that the tokenizer lacks reads `<id 50000>` and has no bytes."""
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    bare = _undisguise(json.loads(backend.to_str()))
    raw: list[bytes | None] = []
    for token_id in range(d_vocab):
        token = backend.id_to_token(token_id)
        # Added tokens stand in the text as they are written, never in disguise.
        raw.append(added[token_id].content.encode() if token_id in added else None if token is None else bare(token))
    text = [f"<id {token_id}>" if item is None else display(item) for token_id, item in enumerate(raw)]
    special = [token_id in added and added[token_id].special for token_id in range(d_vocab)]
    return pa.table([list(range(d_vocab)), text, [item or b"" for item in raw], special], schema=_SCHEMA)


def byte_alphabet() -> dict[str, int]:
    """Character to byte in byte-level BPE (Radford et al. 2019): printable Latin-1 is itself, other bytes are U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _undisguise(spec: dict[str, Any]) -> Callable[[str], bytes]:
    """Token to bytes, as the decoder of this tokenizer.json says."""
    parts = _flat(spec.get("decoder")) + _flat(spec.get("pre_tokenizer"))
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        return lambda token: b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in token)
    space = next((part["replacement"] for part in parts if part["type"] == "Metaspace"), "▁") if kinds & {"Metaspace", "Replace"} else None
    prefix = next((part["prefix"] for part in parts if part["type"] == "WordPiece"), None)
    by_byte = "ByteFallback" in kinds or bool(spec["model"].get("byte_fallback"))

    def bare(token: str) -> bytes:
        if by_byte and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if prefix is not None:
            return token.removeprefix(prefix).encode()
        return (token if space is None else token.replace(space, " ")).encode()

    return bare


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a decoder or pre-tokenizer, sequences opened."""
    if part is None:
        return []
    inner = part.get("decoders") or part.get("pretokenizers")
    return [part] if inner is None else [step for item in inner for step in _flat(item)]
