"""Repeated random tokens: what induction heads are measured on (Olsson et al. 2022, arXiv 2209.11895).

It makes token ids and no text, so it is a function beside the corpora and no member of `Corpus`.
"""

import numpy as np
from jaxtyping import Int32, Integer

from saes.errors import InputError


def repeated_tokens(
    n_seq: int, half: int, allowed: Integer[np.ndarray, " n_allowed"], seed: int, bos: int | None
) -> Int32[np.ndarray, "n_seq context"]:
    """`[bos, r_1..r_half, r_1..r_half]` with r drawn uniformly from `allowed`; without the first column when `bos` is None.

    Raises InputError for no sequences, an empty half, or no ids to draw from.
    """
    if n_seq < 1 or half < 1 or len(allowed) == 0:
        raise InputError(f"repeated tokens need a sequence, a token to repeat and an id to draw; given {n_seq}, {half} and {len(allowed)}")
    drawn = np.random.default_rng(seed).choice(allowed, size=(n_seq, half)).astype(np.int32)
    first = [] if bos is None else [np.full((n_seq, 1), bos, dtype=np.int32)]
    return np.concatenate([*first, drawn, drawn], axis=1)
