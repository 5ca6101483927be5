"""The products of a sparse code on a GPU, as Triton kernels. Only `products` imports this module, and only for tensors on one.

Decode and weight gradient are one sum, over segments of a list of (weight, row) pairs; the code gradient is a dot product per pair:

    out_s = sum_p weights_p rows[index_p], p from bounds_s to bounds_(s+1)        g_p = grad_b . rows[latents_p], p a pair of token b

A program owns its output and adds in an order that the shapes and bounds alone decide: no atomics, so the same input gives the same bits
on the same card. For the same reason tiles are constants and not tuned at run time: another tile adds in another order. Sums are float32,
products are not rounded to TF32. Nothing here waits for the device, and no tensor larger than a result plus `n / CHUNK` rows is made.
"""

from typing import Any, no_type_check

import torch
import triton  # pyright: ignore  # triton exists for Linux only
import triton.language as tl  # pyright: ignore
from jaxtyping import Float, Int
from torch import Tensor


def jit(kernel: Any) -> Any:
    """`triton.jit`, of one type with and without Triton at hand."""
    return triton.jit(kernel)


# A program reads this many pairs at once (their loads overlap), this many columns of each: 16 numbers a thread. By count, not measured.
PAIRS = 8
COLUMNS = 256
# Pairs that one program adds up of a long segment. A latent that fires on all B tokens takes at most 3 CHUNK + B / CHUNK additions in a
# row, not B: 416 for 4,096 tokens, 896 for 65,536. The sums of chunks take n / CHUNK rows of memory.
CHUNK = 128
# Programs that share the pairs of one token in `code_gradient`; with 32 pairs each reads one block.
SHARES = 4


def decode(
    values: Float[Tensor, " n"], latents: Int[Tensor, " n"], starts: Int[Tensor, " bounds"], rows: Float[Tensor, "d_dict d"]
) -> Float[Tensor, "batch d"]:
    """`y_b = sum_p values_p rows[latents_p]` over the pairs of token b, `starts[b] : starts[b + 1]`."""
    return segment_sums(values, latents, starts, rows)


def weight_gradient(
    values: Float[Tensor, " n"],
    latents: Int[Tensor, " n"],
    starts: Int[Tensor, " bounds"],
    rows: Float[Tensor, "batch d"],
    d_dict: int,
) -> Float[Tensor, "d_dict d"]:
    """`dW[i] = sum_p values_p rows[token of p]` over the pairs of latent i: the transpose of `decode`."""
    ordered, order = latents.int().sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(d_dict + 1, dtype=torch.int32, device=latents.device))
    # From the right, so that tokens without pairs are stepped over.
    tokens = torch.searchsorted(starts, order, right=True) - 1
    return segment_sums(values[order], tokens, bounds, rows)


def segment_sums(
    weights: Float[Tensor, " n"], index: Int[Tensor, " n"], bounds: Int[Tensor, " bounds"], rows: Float[Tensor, "n_rows d"]
) -> Float[Tensor, "segments d"]:
    """`out_s = sum_p weights_p rows[index_p]`, p in `bounds[s] : bounds[s + 1]`; bounds go from 0 to n, a segment may be empty.

    Two passes: the first adds the chunks `c CHUNK : (c + 1) CHUNK` that lie inside one segment, whichever it is; the second adds, for each
    segment, the pairs before its first whole chunk, the sums of its whole chunks, and the pairs after. Short segments have none.
    """
    _check(weights, index, bounds, rows)
    d, segments, chunks = rows.shape[1], len(bounds) - 1, len(weights) // CHUNK
    out, sums = (rows.new_empty(n, d, dtype=torch.float32) for n in (segments, chunks))
    columns, tiles = _tiles(d)
    # A chunk's segment ends at the first bound after the chunk's start.
    ends = torch.searchsorted(bounds, torch.arange(0, chunks * CHUNK, CHUNK, device=bounds.device), right=True)
    # Triton launches on the current device, which need not be the tensors'; a launch of no programs does nothing.
    with torch.cuda.device_of(rows):
        _sum_chunks[chunks, tiles](weights, index, bounds, ends, rows, sums, d, CHUNK, PAIRS, columns)
        _sum_segments[segments, tiles](weights, index, bounds, rows, sums, out, d, CHUNK, PAIRS, columns)
    return out


def code_gradient(
    grad: Float[Tensor, "batch d"], latents: Int[Tensor, " n"], starts: Int[Tensor, " bounds"], rows: Float[Tensor, "d_dict d"]
) -> Float[Tensor, " n"]:
    """`g_p = grad_b . rows[latents_p]` for each pair p of each token b, and for no others."""
    _check(grad, latents, starts, rows)
    (batch, d), out = grad.shape, grad.new_empty(len(latents), dtype=torch.float32)
    columns, _ = _tiles(d)
    with torch.cuda.device_of(rows):
        _dot_pairs[batch, SHARES](grad, latents, starts, rows, out, d, SHARES, PAIRS, columns)
    return out


def _check(*tensors: Tensor) -> None:
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError(f"the Triton kernels read contiguous tensors, this one has strides {tensor.stride()}: call .contiguous()")
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"the Triton kernels take float32 or bfloat16, not {tensor.dtype}: use the torch path of `products`")


def _tiles(d: int) -> tuple[int, int]:
    """Columns a program handles, a power of two, and how many such tiles cover d."""
    columns = min(COLUMNS, 1 << (d - 1).bit_length())
    return columns, -(-d // columns)


# `no_type_check` keeps the tests' shape checker (an import hook that wraps every function) off code that Triton must read and compile.


@jit
@no_type_check
def _sum_chunks(weights, index, bounds, ends, rows, sums, d, CHUNK: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr):
    """`sums[c]`: the pairs of chunk c, if one segment holds them all; else the row is left as it is, and never read."""
    chunk = tl.program_id(0).to(tl.int64)
    first = chunk * CHUNK
    if tl.load(bounds + tl.load(ends + chunk)) >= first + CHUNK:
        total = _weighted(tl.zeros([PAIRS, COLUMNS], tl.float32), weights, index, rows, first, first + CHUNK, d, PAIRS, COLUMNS)
        _store(sums, chunk, total, d, COLUMNS)


@jit
@no_type_check
def _sum_segments(weights, index, bounds, rows, sums, out, d, CHUNK: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr):
    """`out[s]`: the pairs of segment s, those in whole chunks by way of `sums`."""
    segment = tl.program_id(0).to(tl.int64)
    first = tl.load(bounds + segment).to(tl.int64)
    last = tl.load(bounds + segment + 1).to(tl.int64)
    first_chunk = (first + CHUNK - 1) // CHUNK
    last_chunk = last // CHUNK
    whole = first_chunk < last_chunk
    # Without a whole chunk the part before holds all pairs, and the part after none.
    before = tl.where(whole, first_chunk * CHUNK, last)
    after = tl.where(whole, last_chunk * CHUNK, last)

    total = tl.zeros([PAIRS, COLUMNS], tl.float32)
    total = _weighted(total, weights, index, rows, first, before, d, PAIRS, COLUMNS)
    for start in range(first_chunk, last_chunk, PAIRS):
        chunk = start + tl.arange(0, PAIRS)
        total += _block(sums, chunk, chunk < last_chunk, tl.program_id(1), d, COLUMNS)
    total = _weighted(total, weights, index, rows, after, last, d, PAIRS, COLUMNS)
    _store(out, segment, total, d, COLUMNS)


@jit
@no_type_check
def _dot_pairs(grad, latents, starts, rows, out, d, SHARES: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr):
    """`out[p] = grad_b . rows[latents_p]` for every SHARES-th block of pairs of token b."""
    token = tl.program_id(0).to(tl.int64)
    first = tl.load(starts + token).to(tl.int64) + tl.program_id(1) * PAIRS
    last = tl.load(starts + token + 1).to(tl.int64)
    for start in range(first, last, PAIRS * SHARES):
        pair = start + tl.arange(0, PAIRS)
        latent = tl.load(latents + pair, mask=pair < last, other=0).to(tl.int64)
        total = tl.zeros([PAIRS, COLUMNS], tl.float32)
        for tile in range(0, tl.cdiv(d, COLUMNS)):
            column = tile * COLUMNS + tl.arange(0, COLUMNS)
            g = tl.load(grad + token * d + column, mask=column < d, other=0.0).to(tl.float32)
            total += g[None, :] * _block(rows, latent, pair < last, tile, d, COLUMNS)
        tl.store(out + pair, tl.sum(total, axis=1), mask=pair < last)


@jit
@no_type_check
def _weighted(total, weights, index, rows, first, last, d, PAIRS: tl.constexpr, COLUMNS: tl.constexpr):
    """Total `[PAIRS, COLUMNS]` plus `weights_p rows[index_p]` for the pairs first : last, pair first + j on line j modulo PAIRS."""
    for start in range(first, last, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        weight = tl.load(weights + pair, mask=pair < last, other=0.0).to(tl.float32)
        row = tl.load(index + pair, mask=pair < last, other=0).to(tl.int64)
        total += weight[:, None] * _block(rows, row, pair < last, tl.program_id(1), d, COLUMNS)
    return total


@jit
@no_type_check
def _block(rows, row, present, tile, d, COLUMNS: tl.constexpr):
    """One tile of columns of some rows as float32, 0 beyond the last column and for rows not present. Row numbers are 64 bits wide."""
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    mask = present[:, None] & (column < d)[None, :]
    return tl.load(rows + row[:, None] * d + column[None, :], mask=mask, other=0.0).to(tl.float32)


@jit
@no_type_check
def _store(out, row, total, d, COLUMNS: tl.constexpr):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(out + row * d + column, tl.sum(total, axis=0), mask=column < d)
