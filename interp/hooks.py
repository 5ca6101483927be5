"""Record, edit and splice activations: context managers that leave no trace."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.bridge import Hook, Model, flat, head_of, replaced
from interp.sites import Site
from saes.dictionary import Dictionary

Edit = Callable[[Tensor], Tensor]


class _Stop(Exception):
    """All sites have fired; the rest of the model need not run."""


def record(
    model: Model, tokens: Int[Tensor, "batch pos"], sites: Iterable[Site], *, before: bool = False
) -> dict[Site, Float[Tensor, "..."]]:
    """Activations of the sites, [batch, pos, width...] (`pattern`: [batch, head, query, key]); the model stops at the deepest.

    A site with a head gives that head alone, without the head axis. With `before`, a site where the model has a bottleneck gives what the
    bottleneck reads, which is what a dictionary there is about, not what it writes. Raises InputError for a site that the model lacks.
    """
    wanted = tuple(dict.fromkeys(sites))
    found: dict[Site, Tensor] = {}

    def take(site: Site, activation: Tensor) -> None:
        found[site] = activation
        if len(found) == len(wanted):
            raise _Stop

    def tapped(site: Site, book: Edit) -> Edit:
        def edit(x: Tensor) -> Tensor:
            take(site, x)
            return book(x)

        return edit

    inner = {site: tapped(site, book) for site, book in model.codebooks.items() if before and site in wanted}
    outer: dict[Site, Hook] = {
        site: lambda activation, site=site: take(site, head_of(site, activation)) for site in wanted if site not in inner
    }
    with torch.no_grad(), model.hooked(outer), contextlib.suppress(_Stop):
        model.with_codebooks({**model.codebooks, **inner})(tokens)
    return {site: found[site] for site in wanted}


@contextlib.contextmanager
def patched(model: Model, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Replace activations by what the edits return; an edit of a site with a head is given and returns that head alone."""

    with model.hooked({s: lambda activation, s=s, edit=edit: replaced(s, activation, edit) for s, edit in edits.items()}):
        yield


@contextlib.contextmanager
def spliced(model: Model, dictionaries: Mapping[Site, Dictionary], *, error: bool = False) -> Iterator[None]:
    """Replace activations by their reconstructions; with `error` the reconstruction error is added back, and nothing changes."""

    def reconstruct(dictionary: Dictionary) -> Edit:
        def edit(x: Tensor) -> Tensor:
            y = dictionary.decode(dictionary.encode(x))
            return y + (x - y) if error else y

        return flat(edit)

    with patched(model, {site: reconstruct(dictionary) for site, dictionary in dictionaries.items()}):
        yield
