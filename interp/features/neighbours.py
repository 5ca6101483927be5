"""Geometry of the directions: norms, agreement of encoder and decoder, and the nearest other latents."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

NEIGHBOURS = 20
# Cosines of one chunk.
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Neighbours:
    """The latents whose directions have the largest cosine, nearest first; -1 and 0 where a small dictionary has no more."""

    ids: Int[Tensor, "d_dict n"]
    cos: Float[Tensor, "d_dict n"]


def norms(directions: Float[Tensor, "d_dict d_out"]) -> Float[Tensor, " d_dict"]:
    """Euclidean norm of each direction."""
    return torch.linalg.vector_norm(directions, dim=1)


def cosines(a: Float[Tensor, "d_dict d"], b: Float[Tensor, "d_dict d"]) -> Float[Tensor, " d_dict"]:
    """Cosine of each row with the same row of the other, zero where one of them is."""
    return (_unit(a) * _unit(b)).sum(1)


def nearest(directions: Float[Tensor, "d_dict d_out"], n: int = NEIGHBOURS) -> Neighbours:
    """The n nearest other latents of each, by chunks; results on the CPU."""
    unit, found = _unit(directions), min(n, len(directions) - 1)
    ids = torch.full((len(unit), n), -1, dtype=torch.int32)
    cos = torch.zeros(len(unit), n)
    rows = max(1, _CHUNK // len(unit))
    for start in range(0, len(unit), rows):
        similar = unit[start : start + rows] @ unit.T
        similar.diagonal(start).fill_(-torch.inf)  # a latent is no neighbour of itself
        values, indices = similar.topk(found)
        ids[start : start + rows, :found], cos[start : start + rows, :found] = indices.int().cpu(), values.cpu()
    return Neighbours(ids, cos)


def _unit(directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min(1e-30)
