"""The two differentiable halves of a k-sparse dictionary; both gradients touch the support alone.

`encode` gives the winners' values a gradient without ever keeping the dense scores, `decode` writes them out. Losses compose them freely:
every term that reads a value (reconstruction, prefixes, auxiliary terms) reaches encoder weight, bias and input.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from saes.kernels import products


def encode(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_dict"],
    b_enc: Float[Tensor, " d_dict"],
    centre: Float[Tensor, " d_in"] | None,
) -> Float[Tensor, "batch k"]:
    """`values = relu((x - centre) W_enc + b_enc)` at the winners, already computed, joined to the graph of x and the weights."""
    return _Encode.apply(values, indices, x, W_enc, b_enc, centre)  # pyright: ignore[reportReturnType]


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "d_dict d_out"]
) -> Float[Tensor, "batch d_out"]:
    """Sum of the winners' rows, weighted by their values, differentiable in both."""
    return _Decode.apply(values, indices, rows)  # pyright: ignore[reportReturnType]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, indices, x, W_enc, centre)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, indices, x, W_enc, centre = ctx.saved_tensors
        # A winner that was clipped to 0 passes nothing on.
        grad = torch.where(values > 0, grads[0], 0)
        _, _, want_x, want_weight, want_bias, want_centre = ctx.needs_input_grad
        d_dict = W_enc.shape[1]
        sums = products.latent_sums(grad, indices, d_dict) if want_bias or want_centre else None
        h = x if centre is None else x - centre
        d_weight = products.weight_gradient(grad, indices, h, d_dict).t() if want_weight else None
        d_x = products.decode(grad, indices, W_enc.t().contiguous()) if want_x else None
        # dL/dcentre = -(sum_b g_b) W_enc^T: summed over tokens first, it is one matrix-vector product.
        d_centre = -(W_enc @ sums) if want_centre and sums is not None else None
        return None, None, d_x, d_weight, sums if want_bias else None, d_centre


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, rows)
        return products.decode(values, indices, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, indices, rows = ctx.saved_tensors
        grad = grads[0].contiguous()
        want_values, _, want_rows = ctx.needs_input_grad
        d_values = products.code_gradient(grad, indices, rows) if want_values else None
        return d_values, None, products.weight_gradient(values, indices, grad, len(rows)) if want_rows else None
