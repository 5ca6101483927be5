"""The encoder's dense product and the choice among its scores, a slab of tokens at a time: `[batch, d_dict]` scores are never kept.

Latents are chosen by the score `pre_i |W_dec[i]|`, and their value is made from `pre_i`: the same function and the same gradients as an
encoder scaled by the decoder's norms whose output is divided by them again, so the norms stay free and are never renormalised.
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.kernels.pairs import Pairs
from saes.kernels.select import select

# Scores held at once. 10 M (20 MB in bfloat16) stay close to the cache and below the size from which malloc returns memory to the system.
SLAB = 10 << 20
# Slabs of full tiles where they fit: 18,432 latents take 211 ms in slabs of 512 tokens, 225 of 410 and 238 of 568.
TILE = 256
# Share of latents active from which dense products are faster than sparse ones (measured, CPU with AVX-512, d 576).
DENSE = 1 / 24


class Scores:
    """Scores of all latents for some tokens, made a slab at a time whenever they are read."""

    def __init__(
        self,
        h: Float[Tensor, "batch d_in"],
        W_enc: Float[Tensor, "d_in d_dict"],
        b_enc: Float[Tensor, " d_dict"],
        norms: Float[Tensor, " d_dict"],
        among: Bool[Tensor, " d_dict"] | None = None,
    ) -> None:
        """Under `torch.autocast` the product is made in its type (bfloat16). With `among`, all other latents score lowest."""
        kind = torch.get_autocast_dtype(h.device.type) if torch.is_autocast_enabled(h.device.type) else h.dtype
        scale = norms.to(kind)
        self.h, self.d_dict, self.norms = h.to(kind), len(norms), norms
        self.weight, bias = W_enc.t().to(kind) * scale[:, None], (b_enc * scale).to(kind)
        self.bias = bias if among is None else torch.where(among, bias, -torch.inf)
        # Divided by the rounded norm that multiplied the weight, so that its rounding cancels.
        self._divisor = scale.to(h.dtype).clamp_min(torch.finfo(h.dtype).tiny)

    def __len__(self) -> int:
        return len(self.h)

    def slabs(self) -> Iterator[Float[Tensor, "rows d_dict"]]:
        """The scores of all tokens in turn."""
        rows = SLAB // self.d_dict
        rows = rows // TILE * TILE or max(1, rows)
        product = _product(self.weight, self.bias, min(rows, len(self)))
        for part in self.h.split(rows):
            yield product(part)

    def pre(self, scores: Float[Tensor, " n"], latents: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Pre-activations from the scores of these latents."""
        return scores.to(self._divisor.dtype) / self._divisor[latents]

    def largest(self, k: int) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        """The k largest scores of each token and their latents."""
        found = [(scores.gather(1, indices), indices) for scores in self.slabs() for indices in (select(scores, k),)]
        return torch.cat([scores for scores, _ in found]), torch.cat([indices for _, indices in found])

    def above(self, bound: Float[Tensor, " d_dict"]) -> tuple[Float[Tensor, " n"], Pairs] | None:
        """All scores above each latent's bound; None where they are so many, judged by the first slab, that dense products are faster.

        Also None on a GPU: how many there are is known only after waiting for the device.
        """
        if self.h.is_cuda:
            return None
        bound, values, latents, counts = bound.to(self.h.dtype), [], [], []
        for scores in self.slabs():
            mask = scores > bound
            if not counts and torch.count_nonzero(mask) > DENSE * mask.numel():
                return None
            values.append(scores[mask])
            latents.append(mask.nonzero()[:, 1])
            counts.append(mask.sum(1))
        starts = torch.cat(counts).cumsum(0)
        return torch.cat(values), Pairs(torch.cat(latents), torch.cat([starts.new_zeros(1), starts]), self.d_dict)


def _product(weight: Float[Tensor, "d_dict d_in"], bias: Float[Tensor, " d_dict"], rows: int) -> Callable[[Tensor], Tensor]:
    """`h -> h weight^T + bias`. In bfloat16 on a CPU the weight is packed once for all slabs, and the bias added in registers.

    The bits are those of `torch.addmm`, in .8 to .9 of the time (oneDNN, AVX-512 BF16, slabs of 512 to 2,048 tokens).
    """
    if weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _packs():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda h: torch.ops.mkldnn._linear_pointwise(h, packed, bias, "none", [], "")
    return lambda h: torch.addmm(bias, h, weight.t())


@cache
def _packs() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
