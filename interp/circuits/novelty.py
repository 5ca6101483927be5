"""How many codes a head, or a pair of heads, has on one kind of prompts and not on another: the counts behind discrete codes.

Codes are numbers from 0 for each prompt and unit; -1 is none and is never counted.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weights = Literal["sets", "occurrences", "excess"]
Combine = Literal["any", "all"]


@dataclass(frozen=True)
class Counting:
    """What of a code counts. p and q are the shares of positive and negative prompts that have it."""

    weights: Weights = "sets"
    """sets: 1 for a code that only positives have (published). occurrences: p for such a code. excess: max(0, p - q) for every code, so one
    stray negative does not erase it."""
    divide: bool = False
    """Divide by the size of the union, of weights where codes have weights."""
    combine: Combine = "any"
    """With several kinds of negatives: count the kind under which a code is newest (any), or oldest (all: their union)."""


def novelty(
    positive: Int[Tensor, "prompt unit"], negative: Int[Tensor, "kind prompt unit"], n: int, how: Counting
) -> Float[Tensor, " unit"]:
    """Codes, of n, that the positives of each unit have and its negatives lack."""
    sides = torch.cat((positive[None], negative))
    known, units = sides >= 0, positive.shape[1]
    keys = (sides + n * torch.arange(units, device=sides.device))[known]
    seen, place = keys.unique(return_inverse=True)
    side = torch.arange(len(sides), device=sides.device)[:, None, None].expand_as(sides)[known]
    counts = torch.bincount(side * len(seen) + place, minlength=len(sides) * len(seen)).unflatten(0, (len(sides), len(seen)))
    share = (counts > 0).double() if how.weights == "sets" else counts.double() / len(positive)
    p, q = share[0], share[1:]
    gain = p * (q == 0) if how.weights == "occurrences" else (p - q).clamp(min=0)
    gain = gain.amax(0) if how.combine == "any" else gain.amin(0)
    total = gain.new_zeros(2, units).index_add_(1, seen // n, torch.stack((gain, share.amax(0))))
    return total[0] / total[1].clamp_min(1e-12) if how.divide else total[0]


def cooccurrence(
    positive: Int[Tensor, "prompt unit"], negative: Int[Tensor, "kind prompt unit"], n: int, how: Counting
) -> Float[Tensor, "unit unit"]:
    """The same for every pair of units and the n^2 joint codes; symmetric, the units themselves on the diagonal."""

    def joint(codes: Int[Tensor, "*prompt unit"], unit: int) -> Int[Tensor, "*prompt unit"]:
        one = codes[..., unit, None]
        return torch.where((codes >= 0) & (one >= 0), one * n + codes, -1)

    units = range(positive.shape[1])
    return torch.stack([novelty(joint(positive, unit), joint(negative, unit), n * n, how) for unit in units])


def appearances(pairs: Float[Tensor, "unit unit"], share: float = 0.5) -> Float[Tensor, " unit"]:
    """How often each unit stands in the best pairs. Pairs that tie for the last places share them, whatever the order of units."""
    best = round(share * pairs.numel())
    last = pairs.flatten().sort(descending=True).values[best - 1]
    above, tied = pairs > last, pairs == last
    return (above + tied * (best - above.sum()) / tied.sum()).sum(1)
