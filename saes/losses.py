"""Loss terms, each a pure function of tensors. All expect normalised activations: centred, with `E|y|^2 = d_out`.

Dividing a published loss, whose squared error is summed over dimensions, by d_out gives the form used here: error as a fraction of variance
(FVU), and penalties `/ d_out`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from saes.activations import KLargest
from saes.sparse import SparseDictionary
from saes.support import Support

# Below this many dead latents for each one chosen, dense products among the dead are faster than sparse ones (measured, CPU, d 576, k_aux
# 288).
DENSE = 8


def fvu(y: Float[Tensor, "batch d"], y_hat: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
    """Fraction of variance unexplained, `mean_b |y - y_hat|^2 / d`, against the variance of the data set, not of the batch.

    With a fixed denominator the mean over batches is the global value.
    """
    return F.mse_loss(y_hat.to(y.dtype), y, reduction="sum") / y.numel()


def nested_fvu(y: Float[Tensor, "batch d"], y_hats: Float[Tensor, "batch prefix d"]) -> Float[Tensor, " prefix"]:
    """`fvu` of the reconstruction from each prefix of the latents (Bussmann et al. 2025, arXiv 2503.17547)."""
    return (y_hats.to(y.dtype) - y[:, None]).square().sum((0, 2)) / y.numel()


def aux_k(
    dictionary: SparseDictionary,
    x: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    dead: Bool[Tensor, " d_dict"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """What the k_aux best dead latents of each token leave of the residual (Gao et al. 2024, arXiv 2406.04093, section 2.4).

        aux = min(n_dead / k_aux, 1) * mean_b |e - e_hat|^2 / Var(e),    e detached,    0 where Var(e) = 0

    The variance of e, so that the term keeps its weight while the reconstruction improves; the factor, so that a few dead latents cannot be
    asked to explain all of it.
    """
    # The CPU knows the number of dead latents and works among them alone; on a GPU that would wait for the device.
    if not dead.is_cuda and not dead.any():
        return x.new_zeros(())
    error = residual.detach()
    guess = _among_dead(dictionary, x, dead, min(k_aux, dictionary.d_dict))
    unexplained, variance = F.mse_loss(guess.to(error.dtype), error, reduction="sum"), (error - error.mean(0)).square().sum()
    # Divided after the choice: the gradient of 0 / 0 is NaN, whatever becomes of its value.
    ratio = torch.where(variance > 0, unexplained, 0) / torch.where(variance > 0, variance, 1)
    return ratio * (dead.sum().to(ratio) / k_aux).clamp(max=1)


def _among_dead(dictionary: SparseDictionary, x: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    if dead.is_cuda or int(dead.sum()) > DENSE * k_aux:
        return among_sparse(dictionary, x, dead, k_aux)
    return among_dense(dictionary, x, dead, k_aux)


def among_sparse(
    dictionary: SparseDictionary, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_dict"], k: int
) -> Float[Tensor, "batch d_out"]:
    """What the k best of the dead latents write, b_dec left out: a shape that does not depend on how many are dead."""
    support = dictionary.support(x, activation=KLargest(k), among=dead)
    # Living latents score minus infinity: where fewer than k are dead, they are listed and write nothing.
    return support.decode(torch.where(support.pre > 0, support.pre, 0), dictionary.W_dec)


def among_dense(
    dictionary: SparseDictionary, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_dict"], k: int
) -> Float[Tensor, "batch d_out"]:
    """The same by dense products among the dead latents."""
    rows = dead.nonzero()[:, 0]
    directions = dictionary.W_dec[rows]
    code = F.linear(dictionary.encoder_input(x), dictionary.W_enc.t()[rows], dictionary.b_enc[rows]).relu()
    if len(rows) > k:
        score = code.detach() * dictionary.norms()[rows].to(code.dtype)
        code = code * torch.zeros_like(code).scatter(1, score.topk(k, dim=1, sorted=False).indices, 1)
    return code @ directions


def l1(support: Support, code: Tensor, lengths: Float[Tensor, " d_dict"], p: float = 1.0) -> Float[Tensor, ""]:
    """`mean_b sum_i (z_i n_i)^p / d`: the weight of a latent is the length of what it writes, so a long direction does not evade it.

    Summed over latents and divided by nothing else: callers divide by d_out. For p < 1 see Wright and Sharkey 2024; p is annealed by some.
    """
    weight = code * support.of_latent(lengths)
    # The power has an infinite slope at 0, where the latent is off anyway.
    weight = weight if p == 1 else torch.where(weight > 0, weight.clamp_min(1e-12).pow(p), 0)
    return weight.sum() / len(support.per_token(code))


def tanh_l0(support: Support, code: Tensor, lengths: Float[Tensor, " d_dict"], c: float) -> Float[Tensor, ""]:
    """`mean_b sum_i tanh(c z_i n_i)`, a smooth count of active latents (Anthropic, January 2025)."""
    return torch.tanh(c * code * support.of_latent(lengths)).sum() / len(support.per_token(code))


def target_l0(count: Float[Tensor, ""], k: int) -> Float[Tensor, ""]:
    """`(mean_b L0_b / k - 1)^2`: quadratic in the mean over the batch, so tokens may differ in their number of latents."""
    return (count / k - 1).square()


def jump(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """`z = pre H(pre - threshold)` with the pseudo-derivative of Rajamanoharan et al. 2024 (arXiv 2407.14435), elementwise.

        dz/dpre = H(pre - threshold)        dz/dthreshold = -(threshold / eps) K((pre - threshold) / eps)

    K is 1 on (-1/2, 1/2) and looks at pre, on both sides of the threshold: applied to z it would never see an inactive latent.
    """
    return _Jump.apply(pre, threshold, bandwidth)  # pyright: ignore[reportReturnType]


def step(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """`H(pre - threshold)`, whose pseudo-derivative is `-(1 / eps) K((pre - threshold) / eps)` in the threshold and 0 in pre."""
    return _Step.apply(pre, threshold, bandwidth)  # pyright: ignore[reportReturnType]


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > threshold, pre, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        window = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype)
        return grads[0] * (pre > threshold), -grads[0] * threshold / ctx.bandwidth * window, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        window = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype)
        return None, -grads[0] / ctx.bandwidth * window, None
