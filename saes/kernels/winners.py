"""The encoder's dense product and the choice of winners, a slab of tokens at a time, so that `[batch, d_dict]` scores are never kept.

Winners are chosen by the score `pre_i |W_dec[i]|`, and their value is `pre_i`: the same function and the same gradients as an encoder
scaled by the decoder's norms whose output is divided by them again, so the norms stay free and are never renormalised.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Scores held at once. 8 M (16 MB in bfloat16) stay close to the cache and below the size from which malloc returns memory to the system.
SLAB = 1 << 23


@torch.no_grad()
def winners(
    h: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_dict"],
    b_enc: Float[Tensor, " d_dict"],
    norms: Float[Tensor, " d_dict"],
    choose: Callable[[Tensor], Tensor],
    among: Bool[Tensor, " d_dict"] | None = None,
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Values, 0 where a winner's is not positive, and indices of the latents that `choose` picks from the scores of each token.

    Under `torch.autocast` the product is made in its type (bfloat16); values come back in the type of `h`. With `among`, all other latents
    lose.
    """
    autocast = torch.is_autocast_enabled(h.device.type)
    kind = torch.get_autocast_dtype(h.device.type) if autocast else h.dtype
    scale = norms.to(kind)
    weight, bias = W_enc.t().to(kind) * scale[:, None], (b_enc * scale).to(kind)
    if among is not None:
        bias = torch.where(among, bias, -torch.inf)
    # Divided by the rounded norm that multiplied the weight, so that its rounding cancels.
    divisor = scale.to(h.dtype).clamp_min(torch.finfo(h.dtype).tiny)
    found = [_slab(part, weight, bias, divisor, choose) for part in h.to(kind).chunk(1 + h.shape[0] * len(norms) // SLAB)]
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def _slab(h: Tensor, weight: Tensor, bias: Tensor, divisor: Tensor, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    scores = torch.addmm(bias, h, weight.t())
    indices = choose(scores)
    return scores.gather(1, indices).to(divisor.dtype).relu() / divisor[indices], indices
