"""Products with a sparse code, all of them weighted sums of rows: decode, weight gradients, code gradients.

With G = dL/dy_hat, z the code and g = dL/dpre (zero off the pairs):

    y_hat_b = sum_j z_bj W_dec[i_bj]        g_bj = G_b . W_dec[i_bj]
    dW_dec[i] = sum_b z_bi G_b              dW_enc[:, i] = sum_b g_bi h_b        db_enc[i] = sum_b g_bi

`embedding_bag` is such a sum, with tokens as bags and latents as rows when it decodes, with latents as bags and tokens as rows in a weight
gradient. Each bag is summed by one thread in a fixed order, without atomics, so the CPU result is deterministic. On a GPU the kernels of
`triton_products` do the same in single precision; the tensors decide, never an import.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.kernels.pairs import Pairs


def decode(values: Float[Tensor, " n"], pairs: Pairs, rows: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, "batch d_out"]:
    """Sum of the rows of each token's latents, weighted by their values."""
    if _on_gpu(values):
        from saes.kernels import triton_products

        return triton_products.decode(values, pairs.latents, pairs.starts, rows)
    return F.embedding_bag(pairs.latents, rows, pairs.starts, per_sample_weights=values, mode="sum", include_last_offset=True)


def weight_gradient(values: Float[Tensor, " n"], pairs: Pairs, rows: Float[Tensor, "batch d"]) -> Float[Tensor, "d_dict d"]:
    """For each latent the sum of its tokens' rows, weighted by their values: the transpose of `decode`."""
    order, tokens, bounds = pairs.by_latent
    if _on_gpu(values):
        from saes.kernels import triton_products

        return triton_products.segment_sums(values[order], tokens, bounds, rows)
    return F.embedding_bag(tokens, rows, bounds, per_sample_weights=values[order], mode="sum", include_last_offset=True)


def code_gradient(grad: Float[Tensor, "batch d_out"], pairs: Pairs, rows: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, " n"]:
    """Dot product of each token's gradient with the rows of its latents, and with no others."""
    if _on_gpu(grad):
        from saes.kernels import triton_products

        return triton_products.code_gradient(grad, pairs.latents, pairs.starts, rows)
    # Latent by latent each row is read once, in order, and what is read at random are the few megabytes of a batch: a third of the time at
    # 18,432 latents.
    order, tokens, bounds = pairs.by_latent
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(rows, grad, tokens, bounds[:-1], pairs.latents[order], 0)
    return torch.empty_like(found).index_copy_(0, order, found)


def latent_sums(values: Float[Tensor, " n"], pairs: Pairs) -> Float[Tensor, " d_dict"]:
    """Sum of each latent's values over the batch."""
    return values.new_zeros(pairs.d_dict).index_add(0, pairs.latents, values)


def token_sums(values: Float[Tensor, " n"], pairs: Pairs) -> Float[Tensor, " batch"]:
    """Sum of each token's values over its latents."""
    return values.new_zeros(pairs.n_tokens).index_add(0, pairs.tokens, values)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.dtype != torch.float64
