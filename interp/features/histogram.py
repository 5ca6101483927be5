"""Histograms over shared edges: bin i of `BINS` holds what lies in [i, i + 1) / BINS of the range, the last bin its upper edge too."""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt32
from torch import Tensor

BINS = 50


def activations(values: Float[np.ndarray, " n"]) -> UInt32[np.ndarray, " bins"]:
    """Counts of the active values by fraction of the largest."""
    if not len(values):
        return np.zeros(BINS, np.uint32)
    fraction = values.astype(np.float64) / float(values.max())
    return np.bincount(np.minimum((fraction * BINS).astype(np.int64), BINS - 1), minlength=BINS).astype(np.uint32)


def rows(values: Float[Tensor, "n m"]) -> tuple[Int[Tensor, "n bins"], Float[Tensor, "n 2"]]:
    """Counts of each row between its own smallest and largest value, and these two."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    # A constant row has no width: all of it falls into the first bin.
    width = torch.where(high > low, high - low, torch.ones_like(high))
    index = ((values - low) * (BINS / width)).int().clamp_(max=BINS - 1)
    index += torch.arange(len(values), dtype=torch.int32, device=values.device)[:, None] * BINS
    counts = torch.bincount(index.flatten(), minlength=len(values) * BINS)
    return counts.reshape(len(values), BINS), torch.cat([low, high], 1)
