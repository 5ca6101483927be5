"""The two differentiable halves of a sparse dictionary; both gradients touch the pairs alone.

`encode` gives pre-activations at the pairs a gradient without ever keeping the dense ones, `decode` writes a code out. Losses compose them
freely with elementwise functions: every term that reads a value (reconstruction, prefixes, auxiliary terms, penalties) reaches encoder
weight, bias and input.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from saes.kernels import products
from saes.kernels.pairs import Pairs


def encode(
    pre: Float[Tensor, " n"],
    pairs: Pairs,
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_dict"],
    b_enc: Float[Tensor, " d_dict"],
    centre: Float[Tensor, " d_in"] | None,
) -> Float[Tensor, " n"]:
    """`pre = (x - centre) W_enc + b_enc` at the pairs, already computed, joined to the graph of x and the weights."""
    return _Encode.apply(pre, pairs, x, W_enc, b_enc, centre)  # pyright: ignore[reportReturnType]


def decode(values: Float[Tensor, " n"], pairs: Pairs, rows: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, "batch d_out"]:
    """Sum of the rows of each token's latents, weighted by their values, differentiable in both."""
    return _Decode.apply(values, pairs, rows)  # pyright: ignore[reportReturnType]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, pairs: Pairs, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(x, W_enc, centre)
        return pre.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W_enc, centre = ctx.saved_tensors
        grad, pairs = grads[0].contiguous(), ctx.pairs
        _, _, want_x, want_weight, want_bias, want_centre = ctx.needs_input_grad
        sums = products.latent_sums(grad, pairs) if want_bias or want_centre else None
        h = x if centre is None else x - centre
        d_weight = products.weight_gradient(grad, pairs, h).t() if want_weight else None
        d_x = products.decode(grad, pairs, W_enc.t().contiguous()) if want_x else None
        # dL/dcentre = -(sum_b g_b) W_enc^T: summed over tokens first, it is one matrix-vector product.
        d_centre = -(W_enc @ sums) if want_centre and sums is not None else None
        return None, None, d_x, d_weight, sums if want_bias else None, d_centre


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pairs: Pairs, rows: Tensor) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(values, rows)
        return products.decode(values, pairs, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, rows = ctx.saved_tensors
        grad, pairs = grads[0].contiguous(), ctx.pairs
        want_values, _, want_rows = ctx.needs_input_grad
        d_values = products.code_gradient(grad, pairs, rows) if want_values else None
        return d_values, None, products.weight_gradient(values, pairs, grad) if want_rows else None
