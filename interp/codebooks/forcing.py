"""Codes put into a pass by hand: the intervention of codebook features (arXiv 2310.17230, section 3.2)."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from interp.hooks import patched
from interp.models import Model
from interp.models.bridge import flat
from interp.sites import Site
from saes.architectures import CodebookDictionary


@contextlib.contextmanager
def forced(model: Model, codes: Mapping[Site, Int[Tensor, "batch chosen"]], position: int) -> Iterator[None]:
    """Replace what bottlenecks write at one position by these codes, one list a sequence: k of each book, as `choose` gives them.

    The bottlenecks stay where they are; what they make of the other positions is not touched, except through what comes before them.
    """

    def write(site: Site, chosen: Tensor):
        book = model.codebooks[site]
        assert isinstance(book, CodebookDictionary), f"{site} holds no codebook whose codes could be forced"
        code = torch.zeros(len(chosen), book.d_dict, device=chosen.device).scatter_(1, chosen, book.value)

        def edit(x: Tensor) -> Tensor:
            changed = x.clone()
            changed[:, position] = book.decode(code.to(x)).to(x)
            return changed

        return flat(edit)

    with patched(model, {site: write(site, chosen) for site, chosen in codes.items()}):
        yield
