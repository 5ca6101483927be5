"""Codebooks inside a model, trained with it (codebook features, arXiv 2310.17230): the module and the loss that `saes.train.fit` is given.

    L = L_LM + coefficient * sum over sites of mean over tokens of |C(h) - stop(h)|^2

with h what a book looks up (the activation, or its LayerNorm) and C(h) the codes that replace it. The gradient of L_LM reaches the
chosen codes, and straight through them h; that of the reconstruction reaches the codes alone. Without books the same module trains a
plain language model: from scratch, or as the fair baseline of a bottleneck.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.hooks import record
from interp.models import Model
from interp.sites import HEAD_STREAMS, Site
from saes.architectures import Codebook, CodebookDictionary
from saes.architectures.codebook import Passage
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.normalise import SAMPLE

Attention = Literal["grouped", "whole"]
# Tokens that codes start from: enough for k-means of a few thousand codes.
START_TOKENS = 16_384


@dataclass(frozen=True)
class Kind:
    """A codebook at a site: how it chooses, and how many codes each of its books has."""

    recipe: Codebook
    codes: int

    def build(self, model: Model, site: Site, seed: int) -> CodebookDictionary:
        """New books for the site's width; nothing is left out of what they replace."""
        width = model.width(site)
        book = self.recipe.build(width, width, self.recipe.books * self.codes, seed=seed)
        book.b_dec.requires_grad_(False)
        return book


def kind_at(model: Model, site: Site, *, codes: int, attention: Attention = "grouped", **options: object) -> Kind:
    """A codebook for any site: with `grouped` a site of several heads gets a book for each. Raises InputError for a site not there."""
    model.check(site)
    if site.stream == "pattern":
        raise InputError(f"{site} is no vector to look up; choose z for what heads write")
    heads = model.n_kv_heads if site.stream in ("k", "v") else model.n_heads
    several = site.stream in HEAD_STREAMS and site.head is None and attention == "grouped"
    return Kind(Codebook(books=heads if several else 1, **options), codes)  # pyright: ignore[reportArgumentType]


def started(model: Model, kinds: Mapping[Site, Kind], tokens: Int[Tensor, "seq pos"], *, seed: int = 0) -> dict[Site, CodebookDictionary]:
    """Books at the sites, their codes taken from what the model does at these tokens, before any codebook is in it."""
    books = {site: kind.build(model, site, seed + i) for i, (site, kind) in enumerate(kinds.items())}
    inputs = inputs_of(model, tokens, tuple(kinds), START_TOKENS)
    for site, kind in kinds.items():
        if kind.recipe.initial != "normal" and len(inputs[site]) < kind.codes:
            raise InputError(f"{len(inputs[site]):,} tokens cannot start {kind.codes:,} codes at {site}; give more text, or fewer --codes")
        kind.recipe.start(books[site], inputs[site])
    return {site: book.to(model.device) for site, book in books.items()}


def inputs_of(
    model: Model, tokens: Int[Tensor, "seq pos"], sites: Sequence[Site], n: int = SAMPLE
) -> dict[Site, Float[Tensor, "token width"]]:
    """What dictionaries at the sites read, for about n of the tokens."""
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for part in tokens[: -(-n // tokens.shape[1])].split(64):
        for site, rows in (record(model, part, sites, before=True) if sites else {}).items():
            found[site].append(rows.flatten(2).flatten(0, 1).float().cpu())
    return {site: torch.cat(rows)[:n] for site, rows in found.items()}


@final
class Bottlenecked(nn.Module):
    """A model with codebooks in it: the weights that `fit` trains, and what they lose."""

    def __init__(self, model: Model, books: Mapping[Site, CodebookDictionary], *, trained: bool, coefficient: float = 1.0) -> None:
        """With `trained` the model's own weights learn too. Raises InputError for a model whose weights TransformerLens copies."""
        super().__init__()
        self.books = nn.ModuleDict({_key(site): book for site, book in books.items()})
        self.base = nn.ParameterDict({_key(name): p for name, p in model.parameters.items()} if trained else {})
        self.base.requires_grad_(True)
        if trained:
            _check_used(model)
        self.model = model.with_codebooks({})
        self.sites, self.coefficient = tuple(books), coefficient
        self.d_dict: int = sum(book.d_dict for book in books.values())

    @property
    def whole(self) -> Model:
        """The model with its bottlenecks, as it stands."""
        return self.model.with_codebooks(dict(zip(self.sites, self.at(), strict=True)))

    def at(self) -> tuple[CodebookDictionary, ...]:
        """The books, in the order of the sites."""
        return tuple(self.books.values())  # pyright: ignore[reportReturnType]

    def settled(self) -> Model:
        """The trained model, as one that no longer learns."""
        self.requires_grad_(False)
        return self.whole

    def loss(self, module: "Bottlenecked", batch: Batch) -> Losses:
        """L_LM and reconstruction. `batch.x` are token ids, and `batch.y` says which of them count as predictions: the first never."""
        tokens, counts = batch.x.long(), batch.y[:, 1:]
        passages: dict[Site, Passage] = {}

        def through(site: Site, book: CodebookDictionary, x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):  # which code is nearest is not for rounded scores to say
                passages[site] = book.passage(x.float() if x.dtype == torch.bfloat16 else x)
            return passages[site].y

        books = {site: lambda x, site=site, book=book: through(site, book, x) for site, book in zip(self.sites, self.at(), strict=True)}
        logits = self.model.with_codebooks(books)(tokens)[:, :-1].float()
        nll = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(counts.shape)
        ordered = [passages[site] for site in self.sites]
        language, recon = (nll * counts).sum() / counts.sum(), _reconstruction(ordered, nll)
        right = ((logits.argmax(-1) == tokens[:, 1:]) * counts).sum() / counts.sum()
        metrics = {"loss_lm": language.detach(), "accuracy": right, "reconstruction": recon.detach()}
        active = _counts(ordered, self.at(), nll.device)
        return Losses(
            {"lm": language, "reconstruction": self.coefficient * recon}, active, metrics, self._revive(ordered) if ordered else None
        )

    def _revive(self, passages: Sequence[Passage]):
        """Dead codes become inputs of this batch, a draw for each from what its own book looked up."""

        @torch.no_grad()
        def revive(dead: Bool[Tensor, " d_dict"], generator: torch.Generator) -> dict[str, Bool[Tensor, "..."]]:
            new = {}
            parts = dead.split([book.d_dict for book in self.at()])
            for name, passage, part in zip(self.books, passages, parts, strict=True):
                codebook: Tensor = self.books[name].codebook  # pyright: ignore[reportAssignmentType]
                rows, inputs = part.view(codebook.shape[:2]), passage.h.detach().flatten(0, -3)
                book, code = rows.nonzero(as_tuple=True)
                drawn = torch.randint(len(inputs), (len(book),), generator=generator, device=inputs.device)
                codebook[book, code] = inputs[drawn, book]
                new[f"books.{name}.codebook"] = rows
            return new

        return revive


def batches(tokens: Int[Tensor, "seq pos"], batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences without end from step `start` on, each once an epoch, as the floats that `fit` hands on; every prediction counts."""
    n = len(tokens)
    epoch, order = -1, torch.zeros(0, dtype=torch.long)
    step = start
    while True:
        rows = []
        for i in range(step * batch_size, (step + 1) * batch_size):
            if i // n != epoch:
                epoch = i // n
                order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            rows.append(order[i % n])
        x = tokens[torch.stack(rows)].float()
        yield x, torch.ones_like(x)
        step += 1


def _key(name: object) -> str:
    """Modules and parameters cannot have points in their names."""
    return str(name).replace(".", "/")


def _check_used(model: Model) -> None:
    """Raises InputError where a trained weight would not be the one that is saved."""
    some = model(torch.zeros(1, 2, dtype=torch.long)).sum()
    slopes = torch.autograd.grad(some, list(model.parameters.values()), allow_unused=True) if model.parameters else ()
    copied = [name for name, slope in zip(model.parameters, slopes, strict=True) if slope is None]
    if copied or not model.parameters:
        raise InputError(
            f"{model.name} computes with copies of its weights ({', '.join(copied[:2]) or 'all'}), so they cannot be trained here; "
            "freeze them (--base frozen), or choose a model with separate query, key and value weights, such as a Llama"
        )


def _reconstruction(passages: Sequence[Passage], like: Tensor) -> Float[Tensor, ""]:
    """Squared errors, summed over dimensions and sites, mean over tokens."""
    return sum(((p.found - p.h.detach()).square().flatten(-2).sum(-1).mean() for p in passages), like.new_zeros(()))


def _counts(passages: Sequence[Passage], books: Sequence[CodebookDictionary], device: torch.device) -> Float[Tensor, " d_dict"]:
    found = [torch.bincount(p.code.indices.flatten(), minlength=b.d_dict).float() for p, b in zip(passages, books, strict=True)]
    return torch.cat(found) if found else torch.zeros(0, device=device)
