"""How evenly the codes of a dictionary are used, codebook by codebook."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Usage:
    """Use of one codebook; a dictionary without books is one."""

    codes: int
    dead: int
    """Codes that were never active."""
    perplexity: float
    """exp of the entropy of the shares of use: so many codes, equally used, have that entropy. At most `codes`; 0 without any use."""
    top_share: float
    """Share of all use that falls on the most used hundredth of the codes, one at least."""


def usage(n_active: Int[np.ndarray, " code"], books: int = 1) -> list[Usage]:
    """From how often each code is active; codes of a book stand side by side."""
    assert len(n_active) % books == 0, f"{len(n_active)} codes are not {books} equal books"
    return [_of(book) for book in n_active.reshape(books, -1)]


def _of(counts: Int[np.ndarray, " code"]) -> Usage:
    total, dead = int(counts.sum()), int((counts == 0).sum())
    if not total:
        return Usage(len(counts), dead, 0.0, 0.0)
    p = counts[counts > 0] / total
    top = np.sort(p)[::-1][: max(1, len(counts) // 100)].sum()
    return Usage(len(counts), dead, float(np.exp(-(p * np.log(p)).sum())), float(top))
