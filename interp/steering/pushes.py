"""What steering adds to an activation: forced codes, added directions, and a direction with the norm of another push.

    force    x' = x + D(z') - D(z)      z' is the code z of x with chosen latents written in place of one slot, or of all slots
    add      x' = x + s * sum_i v_i d_i
    equal    x' = x + |push(x)| * d / |d|

d_i is the direction of a latent, v_i its level: its mean where it is active. What the dictionary does not explain of x stays. Slots of a
codebook belong to its books, and only books that hold a chosen code are touched (codebook features, arXiv 2310.17230: the code of lowest
similarity is replaced, or all).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks import Edit
from saes.architectures import CodebookDictionary, Module

Push = Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d"]]
Slots = Literal["one", "all"]


def force(dictionary: Module, latents: Sequence[int], slots: Slots, levels: Float[Tensor, " d_dict"], strength: float = 1.0) -> Push:
    """Write the latents into the code, each book apart: the first of a book in the place of its weakest slot, or all in place of all.

    Of k slots of a book, n latents share all k of them evenly. In a dictionary that is no codebook the slots are the active latents, and a
    forced latent has `strength` times its level.
    """
    directions = dictionary.directions()
    of_book = _by_book(dictionary, latents)

    @torch.no_grad()
    def push(x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        code = dictionary.encode_sparse(x)
        new = torch.zeros(len(x), dictionary.d_dict, dtype=x.dtype, device=x.device)
        rank = _ranks(dictionary, x, code.values, code.indices)
        for book, chosen in of_book.items():
            ours = (_book(dictionary, code.indices) == book) & (code.values > 0)
            if slots == "all":
                new.scatter_add_(1, code.indices, -(code.values * ours))
                share = code.values.shape[1] / books(dictionary) / len(chosen) if isinstance(dictionary, CodebookDictionary) else 1.0
                for latent in chosen:
                    new[:, latent] += strength * share * levels[latent]
            else:
                latent = chosen[0]
                # A latent that is there already takes no second slot.
                open_ = ~((code.indices == latent) & ours).any(1)
                weakest = rank.masked_fill(~ours, torch.inf).argmin(1, keepdim=True)
                freed = code.values.gather(1, weakest) * ours.gather(1, weakest) * open_[:, None]
                new.scatter_add_(1, code.indices.gather(1, weakest), -freed)
                new[:, latent] += strength * levels[latent] * open_
        return new @ directions

    return push


def add(dictionary: Module, latents: Sequence[int], levels: Float[Tensor, " d_dict"], strength: float = 1.0) -> Push:
    """Add the directions of the latents, each `strength` times its level."""
    chosen = torch.tensor(list(latents))
    along = strength * (levels[chosen, None] * dictionary.directions()[chosen]).sum(0).detach()
    return lambda x: along.to(x).expand_as(x)


def equal_norm(dictionary: Module, latents: Sequence[int], like: Push) -> Push:
    """Add the mean of the latents' unit directions, as far at each position as another push goes there."""
    unit = torch.nn.functional.normalize(dictionary.directions()[torch.tensor(list(latents))].detach(), dim=1).mean(0)
    unit = unit / unit.norm().clamp_min(1e-12)
    return lambda x: like(x).norm(dim=1, keepdim=True) * unit.to(x)


def edit(push: Push) -> Edit:
    """A push as the edit of a site, positions one by one, heads joined for it and split again."""

    def changed(activation: Float[Tensor, "batch pos *dims"]) -> Float[Tensor, "batch pos *dims"]:
        x = activation.flatten(0, 1).flatten(1).float()
        return (x + push(x)).to(activation.dtype).view_as(activation)

    return changed


def books(dictionary: Module) -> int:
    """Books of a codebook; any other dictionary is one."""
    return dictionary.books if isinstance(dictionary, CodebookDictionary) else 1


def n_slots(dictionary: Module) -> int | None:
    """Slots of a book; None where a dictionary has no fixed number."""
    return dictionary.k if isinstance(dictionary, CodebookDictionary) else None


def _book(dictionary: Module, latents: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    return latents // (dictionary.d_dict // books(dictionary))


def _by_book(dictionary: Module, latents: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for latent in latents:
        found.setdefault(latent // (dictionary.d_dict // books(dictionary)), []).append(latent)
    return found


def _ranks(
    dictionary: Module, x: Float[Tensor, "row d"], values: Float[Tensor, "row k"], indices: Int[Tensor, "row k"]
) -> Float[Tensor, "row k"]:
    """How much each slot means to its row: cosine score of a code, norm of what a latent writes."""
    directions = dictionary.directions()
    if isinstance(dictionary, CodebookDictionary):
        unit = torch.nn.functional.normalize(directions, dim=1)
        return torch.einsum("rd,rkd->rk", x - dictionary.b_dec, unit[indices])
    return values * directions.norm(dim=1)[indices]
