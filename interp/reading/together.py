"""Codes that are active together: on the same token, or some tokens later."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.reading.index import Index


@dataclass(frozen=True)
class Together:
    """Every code beside one."""

    n: Int[np.ndarray, " code"]
    """Tokens on which both are active."""
    expected: Float[np.ndarray, " code"]
    """How many there would be if the two were independent."""
    phi: Float[np.ndarray, " code"]
    """Correlation of the two over all tokens, as 0 and 1 (Pearson's phi); 0 for a code that never or always fires."""

    def nearest(self, code: int, n: int) -> Int[np.ndarray, " some"]:
        """The n codes with the highest phi that fire beside it at all, itself left out."""
        order = np.argsort(-self.phi, kind="stable")
        return order[(order != code) & (self.n[order] > 0)][:n]


def together(index: Index, code: int, later: int = 0) -> Together:
    """Every code `later` tokens after one (negative: before it), within the same sequence."""
    positions, seq = index.codes.latents(code, code + 1)[0].positions, index.context
    beside = positions + later
    inside = (beside // seq == positions // seq) & index.keep.ravel()[np.clip(beside, 0, index.keep.size - 1)]
    beside = beside[inside]
    n = np.bincount(index.codes.active(beside), minlength=index.n_codes)
    total, one, other = index.n_tokens, len(beside), index.active.sum(0).astype(float)
    deviation = np.sqrt(float(one) * (total - one) * other * (total - other))
    phi = np.divide(total * n - one * other, deviation, out=np.zeros(len(n)), where=deviation > 0)
    return Together(n, one * other / max(1, total), phi)
