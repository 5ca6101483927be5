"""Products with a k-sparse code, all of them weighted sums of rows: decode, weight gradients, code gradients.

With G = dL/dy_hat, z the code and g = dL/dpre (zero off the support):

    y_hat_b = sum_j z_bj W_dec[i_bj]        g_bj = G_b . W_dec[i_bj]
    dW_dec[i] = sum_b z_bi G_b              dW_enc[:, i] = sum_b g_bi h_b        db_enc[i] = sum_b g_bi

`embedding_bag` is such a sum, with tokens as bags and latents as rows when it decodes, with latents as bags and tokens as rows in a weight
gradient. Each bag is summed by one thread in a fixed order, without atomics, so the CPU result is deterministic.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.kernels.support import Support


def decode(values: Float[Tensor, "batch k"], support: Support, rows: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, "batch d_out"]:
    """Sum of the winners' rows, weighted by their values."""
    return F.embedding_bag(support.indices, rows, per_sample_weights=values, mode="sum")


def weight_gradient(
    values: Float[Tensor, "batch k"], support: Support, rows: Float[Tensor, "batch d"]
) -> Float[Tensor, "d_dict d"]:
    """For each latent the sum of its tokens' rows, weighted by their values: the transpose of `decode`."""
    pairs = support.by_latent
    weights = values.flatten()[pairs.order]
    return F.embedding_bag(pairs.tokens, rows, pairs.offsets, per_sample_weights=weights, mode="sum", include_last_offset=True)


def code_gradient(
    grad: Float[Tensor, "batch d_out"], support: Support, rows: Float[Tensor, "d_dict d_out"]
) -> Float[Tensor, "batch k"]:
    """Dot product of each token's gradient with the rows of its winners, and with no others."""
    batch, k = support.indices.shape
    starts = torch.arange(0, batch * k, k, device=grad.device)
    bags = torch.arange(batch, device=grad.device).repeat_interleave(k, output_size=batch * k)
    flat = support.indices.flatten()
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(grad.contiguous(), rows, flat, starts, bags, 0).view(batch, k)


def latent_sums(values: Float[Tensor, "batch k"], support: Support) -> Float[Tensor, " d_dict"]:
    """Sum of each latent's values over the batch."""
    return values.new_zeros(support.n_latents).index_add_(0, support.indices.flatten(), values.flatten())
