"""The k largest scores of each token, by way of the maxima of groups.

The k largest of n numbers lie in the k groups whose maxima are largest, so one pass over the scores (a strided maximum, which vectorises)
leaves k groups to look into. The rest is a partition of integer keys that carry a score in their high bits and its position in the low
ones. On one core this is 4 to 5 times faster than `torch.topk` over the same scores.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Below this many scores a token, a partition is faster than another round of groups (measured with AVX-512).
DIRECT = 512
GROUPS = (16, 8, 4, 2)


def select(scores: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    """Positions of the k largest scores of each row, in no particular order.

    Among scores that are not positive the choice is unspecified: a caller clips those to 0 and lets no gradient through them.
    """
    n = scores.shape[1]
    if scores.is_cuda or scores.dtype == torch.float64:
        return scores.topk(k, dim=1, sorted=False).indices
    group = next((g for g in GROUPS if n % g == 0 and n // g >= 2 * k), 1)
    if n <= DIRECT or group == 1:
        return _partition(scores, k)
    # Group j holds the columns j, j + n/group, j + 2n/group, ...: the maximum then runs along contiguous memory.
    best = select(scores.unflatten(1, (group, n // group)).amax(1), k)
    members = torch.arange(0, n, n // group, device=scores.device)
    candidates = (best[:, None, :] + members[None, :, None]).flatten(1)
    return candidates.gather(1, _partition(scores.gather(1, candidates), k))


def _partition(scores: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    n = scores.shape[1]
    if k == n:
        return torch.arange(n).expand(len(scores), n)
    if scores.dtype != torch.bfloat16 or n > 1 << 16:
        return _partition_wide(scores, k)
    # Read as an integer, a positive float keeps its order and a negative one stays below zero.
    keys = (scores.contiguous().view(torch.int16).int() << 16) | torch.arange(n, dtype=torch.int32)
    return torch.from_numpy(np.partition(keys.numpy(), n - k, axis=1)[:, n - k :] & 0xFFFF).long()


def _partition_wide(scores: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    n = scores.shape[1]
    keys = (scores.float().contiguous().view(torch.int32).long() << 32) | torch.arange(n)
    return torch.from_numpy(np.partition(keys.numpy(), n - k, axis=1)[:, n - k :] & 0xFFFFFFFF)
