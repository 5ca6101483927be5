"""What all synthetic runs share: sizes, a vocabulary with hostile tokens, and how a run folder is sealed."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from interp import runs
from interp.runs import Draft, Run

MODEL = "smollm2"
CONTEXT, SEQUENCES, WIDTH, D_IN, DEAD = 64, 60, 192, 24, 12
LAYERS, HEADS = 8, 6
# A value and the two bounds of its interval.
ENDS = ("", "_low", "_high")
HOSTILE = (
    b"<script>window.pwned=1</script>",
    b"<img src=x onerror=window.pwned=1>",
    b"$x$",
    b"**b**",
    b"`tick`",
    b"&lt;",
    b"\xe2\x80\xaeright-to-left",
    b"zero\xe2\x80\x8dwidth",
    b"\xed\xa0\x80",
    b"\xf0\x9f",
    b"\r",
    b"\x00",
    b"long" * 1250,
    b"</bdi></div><a href=javascript:window.pwned=1>",
)
SENTENCES = (
    "When Mary and John went to the store , John gave a drink to Mary .",
    "The keeper of the lighthouse counted the ships that passed before the storm .",
    "A gradient of the loss is computed with respect to every parameter of the module .",
    "In 1969 the crew of Apollo landed on the Moon and returned to Earth with samples .",
    "def forward ( self , x ) : return self . decoder ( self . encoder ( x ) )",
    "The river rose in spring , and the farmers carried their grain to the hill above the town .",
    "She said that the museum in Paris was closed on Monday , so they walked to the park instead .",
    "If the matrix is symmetric , its eigenvalues are real and its eigenvectors are orthogonal .",
)


def visible(raw: bytes) -> str:
    """Text of a token: partial UTF-8 as escapes, control characters as their pictures."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 else c for c in text)


def vocabulary(hostile: bool) -> list[bytes]:
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    return [b"<|endoftext|>", b"\n", *([*HOSTILE] if hostile else []), *(b" " + word.encode() for word in words)]


def write_vocabulary(work: Draft, vocab: list[bytes]) -> None:
    table = pa.table({
        "id": pa.array(range(len(vocab)), pa.int32()), "text": [visible(raw) for raw in vocab],
        "raw": pa.array(vocab, pa.binary()), "special": [i == 0 for i in range(len(vocab))],
    })  # fmt: skip
    write_arrow(work.path / "vocab.arrow", table)


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def make_run(root: Path, stage: str, config: dict[str, Any], parents: dict[str, str], command: str, fill: Any) -> Run:
    """One sealed run folder whose files are written by `fill(draft)`."""
    with runs.draft(root, stage, config, parents) as work:
        head = json.loads((work.path / runs.CONFIG).read_text())
        head["provenance"]["command"] = command
        work.write_json(runs.CONFIG, head)
        fill(work)
        return work.seal()
