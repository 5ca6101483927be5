"""Record, edit and splice activations: context managers that leave no trace."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.bridge import Model, has_heads
from interp.sites import Site
from saes.dictionary import Dictionary

Edit = Callable[[Tensor], Tensor]


class _Stop(Exception):
    """All sites have fired; the rest of the model need not run."""


def record(model: Model, tokens: Int[Tensor, "batch pos"], sites: Iterable[Site]) -> dict[Site, Float[Tensor, "..."]]:
    """Activations of the sites, [batch, pos, width...] (`pattern`: [batch, head, query, key]); the model stops at the deepest.

    A site with a head gives that head alone, without the head axis. Raises InputError for a site that the model lacks.
    """
    wanted = tuple(dict.fromkeys(sites))
    found: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        def hook(activation: Tensor) -> None:
            found[site] = _head(site, activation)
            if len(found) == len(wanted):
                raise _Stop

        return hook

    with torch.no_grad(), model.hooked({site: keep(site) for site in wanted}), contextlib.suppress(_Stop):
        model(tokens)
    return {site: found[site] for site in wanted}


@contextlib.contextmanager
def patched(model: Model, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Replace activations by what the edits return; an edit of a site with a head is given and returns that head alone."""

    def edit(site: Site, function: Edit) -> Edit:
        def hook(activation: Tensor) -> Tensor:
            if site.head is None:
                return function(activation)
            changed = activation.clone()
            _head(site, changed).copy_(function(_head(site, activation)))
            return changed

        return hook

    with model.hooked({site: edit(site, function) for site, function in edits.items()}):
        yield


@contextlib.contextmanager
def spliced(model: Model, dictionaries: Mapping[Site, Dictionary], *, error: bool = False) -> Iterator[None]:
    """Replace activations by their reconstructions; with `error` the reconstruction error is added back, and nothing changes."""

    def reconstruct(dictionary: Dictionary) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            x = activation.flatten(2).float() if activation.ndim > 3 else activation.float()
            y = dictionary.decode(dictionary.encode(x))
            y = y + (x - y) if error else y
            return y.reshape(activation.shape).to(activation.dtype)

        return edit

    with patched(model, {site: reconstruct(dictionary) for site, dictionary in dictionaries.items()}):
        yield


def _head(site: Site, activation: Tensor) -> Tensor:
    if site.head is None or not has_heads(site):
        return activation
    return activation[:, site.head] if site.stream == "pattern" else activation[:, :, site.head]
