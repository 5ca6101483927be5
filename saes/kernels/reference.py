"""Slow literal twins of the kernels, one sum at a time. They define what the fast ones must return."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def select(scores: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    """Sort each row, keep the first k."""
    return torch.stack([torch.tensor(sorted(range(len(row)), key=lambda i: -float(row[i]))[:k]) for row in scores])


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "d_dict d_out"]
) -> Float[Tensor, "batch d_out"]:
    """`y_b = sum_j values_bj rows[indices_bj]`."""
    out = torch.zeros(len(values), rows.shape[1], dtype=rows.dtype)
    for b, j in _pairs(indices):
        out[b] += values[b, j] * rows[indices[b, j]]
    return out


def weight_gradient(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "batch d"], n_latents: int
) -> Float[Tensor, "d_dict d"]:
    """`dW[i] = sum_b values_bi rows_b`."""
    out = torch.zeros(n_latents, rows.shape[1], dtype=rows.dtype)
    for b, j in _pairs(indices):
        out[indices[b, j]] += values[b, j] * rows[b]
    return out


def code_gradient(
    grad: Float[Tensor, "batch d_out"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "d_dict d_out"]
) -> Float[Tensor, "batch k"]:
    """`g_bj = grad_b . rows[indices_bj]`."""
    out = torch.zeros(indices.shape, dtype=rows.dtype)
    for b, j in _pairs(indices):
        out[b, j] = (grad[b] * rows[indices[b, j]]).sum()
    return out


def topk_dictionary(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_dict"],
    b_enc: Float[Tensor, " d_dict"],
    W_dec: Float[Tensor, "d_dict d_out"],
    b_dec: Float[Tensor, " d_out"],
    *,
    k: int,
    centred: bool,
    W_skip: Float[Tensor, "d_out d_in"] | None = None,
) -> tuple[Float[Tensor, "batch d_dict"], Float[Tensor, "batch d_out"]]:
    """Dense code and output of a TopK dictionary, differentiable by autograd: every step is the equation."""
    pre = (x - b_dec if centred else x) @ W_enc + b_enc
    chosen = select((pre * W_dec.norm(dim=1)).detach(), k)
    mask = torch.zeros_like(pre).scatter(1, chosen, 1.0)
    code = torch.relu(pre) * mask
    y_hat = code @ W_dec + b_dec
    return code, y_hat if W_skip is None else y_hat + x @ W_skip.T


def aux_k(
    pre: Float[Tensor, "batch d_dict"],
    residual: Float[Tensor, "batch d_out"],
    W_dec: Float[Tensor, "d_dict d_out"],
    dead: list[int],
    k_aux: int,
) -> Float[Tensor, ""]:
    """What the dead latents leave of the residual, over its variance (Gao et al. 2024, section 2.4), token by token."""
    error = residual.detach()
    variance = (error - error.mean(0)).square().sum(1).mean()
    total = torch.zeros((), dtype=pre.dtype)
    for b in range(len(pre)):
        ranked = sorted(dead, key=lambda i: -float((pre[b, i] * W_dec[i].norm()).detach()))[:k_aux]
        guess = sum((torch.relu(pre[b, i]) * W_dec[i] for i in ranked), torch.zeros_like(error[b]))
        total = total + (error[b] - guess).square().sum() / len(pre)
    return min(len(dead) / k_aux, 1.0) * total / variance


def _pairs(indices: Int[Tensor, "batch k"]) -> list[tuple[int, int]]:
    return [(b, j) for b in range(indices.shape[0]) for j in range(indices.shape[1])]
