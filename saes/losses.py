"""Loss terms, each a pure function of tensors. All expect normalised activations: centred, with `E|y|^2 = d_out`."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from saes.activations import KLargest
from saes.kernels import autograd
from saes.sparse import SparseDictionary

# Below this many dead latents for each one chosen, dense products among the dead are faster than sparse ones (measured, CPU, d 576, k_aux
# 288).
DENSE = 8


def fvu(y: Float[Tensor, "batch d"], y_hat: Float[Tensor, "batch d"], variance: float) -> Float[Tensor, ""]:
    """Fraction of variance unexplained, `mean_b |y - y_hat|^2 / variance`, against the variance of the data set, not of the batch.

    With a fixed denominator the mean over batches is the global value.
    """
    return F.mse_loss(y_hat.to(y.dtype), y, reduction="sum") / (len(y) * variance)


def aux_k(
    dictionary: SparseDictionary,
    x: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    dead: Bool[Tensor, " d_dict"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """What the k_aux best dead latents of each token leave of the residual (Gao et al. 2024, arXiv 2406.04093, section 2.4).

        aux = min(n_dead / k_aux, 1) * mean_b |e - e_hat|^2 / Var(e),    e detached,    NaN -> 0

    The variance of e, so that the term keeps its weight while the reconstruction improves; the factor, so that a few dead latents cannot be
    asked to explain all of it.
    """
    # The CPU knows the number of dead latents and works among them alone; on a GPU that would wait for the device.
    if not dead.is_cuda and not dead.any():
        return x.new_zeros(())
    error = residual.detach()
    guess = _among_dead(dictionary, x, dead, k_aux)
    ratio = F.mse_loss(guess.to(error.dtype), error, reduction="sum") / (error - error.mean(0)).square().sum()
    return torch.nan_to_num(ratio) * (dead.sum() / k_aux).clamp(max=1)


def _among_dead(dictionary: SparseDictionary, x: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    if dead.is_cuda or int(dead.sum()) > DENSE * k_aux:
        return among_sparse(dictionary, x, dead, k_aux)
    return among_dense(dictionary, x, dead, k_aux)


def among_sparse(
    dictionary: SparseDictionary, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_dict"], k: int
) -> Float[Tensor, "batch d_out"]:
    """What the k best of the dead latents write, b_dec left out: a shape that does not depend on how many are dead."""
    code = dictionary.encode_sparse(x, among=dead, activation=KLargest(k))
    return autograd.decode(code.values, code.indices, dictionary.W_dec)


def among_dense(
    dictionary: SparseDictionary, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_dict"], k: int
) -> Float[Tensor, "batch d_out"]:
    """The same by dense products among the dead latents."""
    rows = dead.nonzero()[:, 0]
    directions = dictionary.W_dec[rows]
    code = F.linear(dictionary.encoder_input(x), dictionary.W_enc.t()[rows], dictionary.b_enc[rows]).relu()
    if len(rows) > k:
        score = code.detach() * directions.detach().norm(dim=1).to(code.dtype)
        code = code * torch.zeros_like(code).scatter(1, score.topk(k, dim=1, sorted=False).indices, 1)
    return code @ directions
