"""The rows of `examples.parquet`: references into the token matrix, each with the latent's activations around it."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, UInt

from interp.features import hashing
from interp.features.codes import Latent
from interp.features.examples import Choice

# Tokens of a window; the example is the 21st where the sequence leaves room, because what a latent reads stands before it.
WINDOW, BEFORE = 32, 20
# Row group i of the file holds latents 64 i to 64 i + 63, so that one latent is one small read.
GROUP = 64
SCHEMA = pa.schema({
    "latent": pa.int32(), "bucket": pa.uint8(), "rank": pa.uint16(), "seq": pa.int32(), "pos": pa.uint16(), "act": pa.float16(),
    "start": pa.uint16(), "acts": pa.list_(pa.float16(), WINDOW), "fold": pa.uint64(),
})  # fmt: skip


def starts(pos: Int[np.ndarray, " n"], context: int) -> Int[np.ndarray, " n"]:
    """Where in its sequence the window of an example at `pos` begins; it stays inside the sequence where that is long enough."""
    return np.clip(pos - BEFORE, 0, max(0, context - WINDOW))


def read(latent: Latent, positions: Int[np.ndarray, " n"], context: int) -> Float[np.ndarray, "n window"]:
    """Activations of the latent in the windows around flat positions; 0 beyond the end of a short sequence."""
    seq, pos = np.divmod(positions, context)
    within = starts(pos, context)[:, None] + np.arange(WINDOW)
    return np.where(within < context, latent.at(seq[:, None] * context + within), np.float32(0))


def rows(latent: Latent, choice: Choice, context: int) -> dict[str, np.ndarray]:
    """Columns of `SCHEMA` for the examples of one latent, all but `fold`."""
    seq, pos = np.divmod(choice.positions, context)
    return {
        "latent": np.full(len(pos), latent.index, np.int32), "bucket": choice.bucket, "rank": choice.rank, "seq": seq.astype(np.int32),
        "pos": pos.astype(np.uint16), "act": latent.at(choice.positions), "start": starts(pos, context).astype(np.uint16),
        "acts": read(latent, choice.positions, context),
    }  # fmt: skip


def table(parts: list[dict[str, np.ndarray]], tokens: Int[np.ndarray, "seq context"], metadata: Mapping[str, str]) -> pa.Table:
    """One row group from the rows of its latents, given the token matrix."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns["fold"] = hashing.fold(_shown(columns["seq"], columns["start"], tokens))
    columns["act"] = _half(columns["act"])
    columns["acts"] = pa.FixedSizeListArray.from_arrays(pa.array(_half(columns["acts"]).ravel()), WINDOW)
    return pa.table(columns, schema=SCHEMA.with_metadata(dict(metadata)))


def _shown(seq: Int[np.ndarray, " n"], start: UInt[np.ndarray, " n"], tokens: Int[np.ndarray, "s context"]) -> Int[np.ndarray, "n window"]:
    """The tokens of windows, -1 beyond the end of a short sequence."""
    within = start[:, None].astype(np.int64) + np.arange(WINDOW)
    context = tokens.shape[1]
    return np.where(within < context, tokens[seq[:, None], np.minimum(within, context - 1)], -1)


def _half(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """float16, the largest of which stands for what is larger."""
    return np.minimum(values, np.finfo(np.float16).max).astype(np.float16)
