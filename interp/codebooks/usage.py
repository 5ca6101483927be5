"""How much of its codes a codebook uses: counts, usage perplexity and dead codes of every book (arXiv 2310.17230 reports none of them)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks import record
from interp.models import Model
from interp.sites import Site
from saes.architectures import CodebookDictionary


@dataclass(frozen=True, eq=False)
class Usage:
    """How often each code of each book was chosen."""

    counts: Int[Tensor, "book code"]

    @property
    def perplexity(self) -> Float[Tensor, " book"]:
        """exp of the entropy of a book's choices: as many codes, equally used, would be as hard to foresee."""
        share = self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)
        return (-torch.xlogy(share, share).sum(1)).exp()

    @property
    def dead_share(self) -> Float[Tensor, " book"]:
        """The share of a book's codes that was never chosen."""
        return (self.counts == 0).float().mean(1)

    def figures(self) -> dict[str, float]:
        """Means over the books."""
        return {"perplexity": float(self.perplexity.mean()), "dead_share": float(self.dead_share.mean())}


@torch.no_grad()
def codes_at(model: Model, tokens: Int[Tensor, "seq pos"], batch: int = 64) -> dict[Site, Int[Tensor, "seq pos chosen"]]:
    """The codes that each bottleneck of the model chooses at every token, as latents of its dictionary."""
    books = {site: book for site, book in model.codebooks.items() if isinstance(book, CodebookDictionary)}
    found: dict[Site, list[Tensor]] = {site: [] for site in books}
    for part in tokens.split(batch):
        for site, x in record(model, part, books, before=True).items():
            found[site].append(books[site].encode_sparse(x.flatten(2).float()).indices.cpu())
    return {site: torch.cat(parts) for site, parts in found.items()}


def usage(model: Model, tokens: Int[Tensor, "seq pos"]) -> dict[Site, Usage]:
    """How the bottlenecks of the model use their codes at these tokens."""
    found = {}
    for site, codes in codes_at(model, tokens).items():
        book = model.codebooks[site]
        assert isinstance(book, CodebookDictionary)
        found[site] = Usage(torch.bincount(codes.flatten(), minlength=book.d_dict).view(book.books, -1))
    return found
