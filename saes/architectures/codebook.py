"""Codebook: vector quantisation with k codes of each of several books (codebook features, arXiv 2310.17230; VQ-VAE, arXiv 1711.00937).

x is cut into G chunks, one for each book of N codes C. With c_i the chosen codes of a chunk,

    score_i = h . C_i / |C_i| (cosine) or h . C_i - |C_i|^2 / 2 (euclid)        x_hat = b_dec + mean or sum over the k best of C_i
    L = fvu + dead_coefficient * mean over dead codes of |C_i - h_r|^2 / d      h_r a random chunk of the batch

with h the chunk of x - b_dec, or its affine LayerNorm (`norm`), whose scale codes and x_hat then have: nothing undoes the norm.
The code is k-hot with the value 1/k (mean) or 1 (sum), so a codebook is a dictionary with block-diagonal directions: statistics, splicing
and circuits treat it like any other. Codes start as k-means centres of a sample, or as rows of it.

Inside a model that is trained, `forward` is straight-through: `x_hat + h - stop(h)` hands the gradient of x_hat to the chosen codes and,
unchanged, to h; with a LayerNorm it goes on through that to x.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.kernels import autograd
from saes.kernels.pairs import Pairs
from saes.kernels.select import select
from saes.losses import fvu
from saes.normalise import Normalisation
from saes.sparse import Sparse

# Chunks compared with their codes at once, in scores.
SLAB = 1 << 23
# Rounds in which centres are drawn, each from the rows that those before explain worst (Bahmani et al. 2012), and rounds of k-means.
DRAWS, ROUNDS = 16, 5


@final
class CodebookDictionary(nn.Module):
    """Books of codes and what they make of a vector."""

    def __init__(
        self,
        d: int,
        books: int,
        codes: int,
        k: int,
        *,
        metric: str = "cosine",
        combine: str = "mean",
        norm: bool = False,
        eps: float = 1e-5,
    ) -> None:
        """All codes start at 0. Raises InputError for sizes that cannot be."""
        super().__init__()
        if min(d, books, codes) < 1 or d % books:
            raise InputError(f"{d} dimensions cannot be cut into {books} chunks of equal width; choose a divisor of {d} for the books")
        if not 1 <= k <= codes:
            raise InputError(f"k={k} codes cannot be chosen from a book of {codes}; choose k between 1 and {codes}")
        self.d_in = self.d_out = d
        self.d_dict, self.books, self.k, self.metric, self.combine = books * codes, books, k, metric, combine
        self.codebook = nn.Parameter(torch.zeros(books, codes, d // books))
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.norm, self.eps = norm, eps
        if norm:
            self.gain, self.shift = nn.Parameter(torch.ones(books, d // books)), nn.Parameter(torch.zeros(books, d // books))

    @property
    def value(self) -> float:
        """What a chosen code counts."""
        return 1 / self.k if self.combine == "mean" else 1.0

    def chunks(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch books d_book"]:
        """h: inputs less b_dec, cut for the books, each chunk normalised where there is a norm."""
        h = (x - self.b_dec).unflatten(-1, (self.books, -1))
        return nn.functional.layer_norm(h, h.shape[-1:], eps=self.eps) * self.gain + self.shift if self.norm else h

    @torch.no_grad()
    def choose(self, h: Float[Tensor, "batch books d_book"]) -> Int[Tensor, "batch chosen"]:
        """The k best codes of each book for its chunk, as latents: book * codes + code."""
        codes = self.codebook.shape[1]
        length = self.codebook.norm(dim=2)
        weight = self.codebook / length[..., None].clamp_min(1e-12) if self.metric == "cosine" else self.codebook
        bias = torch.zeros_like(length) if self.metric == "cosine" else -length.square() / 2
        found = [
            torch.cat([_best(torch.addmm(bias[g], part[:, g], weight[g].t()), self.k) + g * codes for g in range(self.books)], 1)
            for part in h.chunk(1 + len(h) * codes // SLAB)
        ]
        return torch.cat(found)

    def encode_sparse(self, x: Float[Tensor, "*batch d"]) -> Sparse:
        """The chosen codes, each with the same value."""
        return self._code(self.chunks(x))

    def _code(self, h: Float[Tensor, "*batch books d_book"]) -> Sparse:
        indices = self.choose(h.reshape(-1, *h.shape[-2:])).view(*h.shape[:-2], self.books * self.k)
        return Sparse(torch.full(indices.shape, self.value, dtype=h.dtype, device=h.device), indices, self.d_dict)

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d_dict"]:
        """The k-hot code."""
        return self.encode_sparse(x).dense()

    def decode(self, code: Float[Tensor, "*batch d_dict"]) -> Float[Tensor, "*batch d"]:
        """What a code writes, book by book."""
        parts = torch.einsum("...gn,gnd->...gd", code.unflatten(-1, (self.books, -1)), self.codebook)
        return parts.flatten(-2) + self.b_dec

    def decode_sparse(self, code: Sparse) -> Float[Tensor, "*batch d"]:
        """`decode` of the same code: one bag for each token and book."""
        values, indices = (part.reshape(-1, part.shape[-1]) for part in (code.values, code.indices))
        bags = Pairs.of_rows(indices.view(-1, indices.shape[1] // self.books), self.d_dict)
        out = autograd.decode(values.flatten(), bags, self.codebook.flatten(0, 1))
        return out.view(*code.values.shape[:-1], self.d_out) + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The reconstruction, straight-through."""
        return self.passage(x).y

    def passage(self, x: Float[Tensor, "*batch d"]) -> "Passage":
        """The reconstruction and all that a loss asks of the way to it."""
        h = self.chunks(x)
        code = self._code(h.detach())
        y = self.decode_sparse(code)
        # h - stop(h) is 0 and has the gradient 1: added after the codes, which keep theirs.
        return Passage(y + (h - h.detach()).flatten(-2), h, code, (y - self.b_dec).unflatten(-1, (self.books, -1)))

    def reconstruct(self, x: Float[Tensor, "*batch d"], code: Sparse) -> Float[Tensor, "*batch d"]:
        """Decode the code of x."""
        return self.decode_sparse(code)

    def skip(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """No part of the output goes past the code."""
        return torch.zeros_like(x)

    def directions(self) -> Float[Tensor, "d_dict d"]:
        """What each code writes: its chunk, and 0 elsewhere."""
        rows = self.codebook.new_zeros(self.books, self.codebook.shape[1], self.books, self.codebook.shape[2])
        for g in range(self.books):
            rows[g, :, g] = self.codebook[g]
        return rows.flatten(2).flatten(0, 1)

    def reads(self) -> Float[Tensor, "d_dict d"]:
        """A code reads the direction that it writes."""
        return self.directions()

    def settings(self) -> dict[str, Any]:
        """What a file has to say to build the dictionary again, beside its weights."""
        sizes = {"d": self.d_in, "books": self.books, "codes": self.codebook.shape[1]}
        return sizes | {name: getattr(self, name) for name in ("k", "metric", "combine", *(("norm", "eps") if self.norm else ()))}

    @staticmethod
    def of_settings(settings: Mapping[str, Any]) -> "CodebookDictionary":
        """The dictionary that `settings` describe, all codes 0."""
        return CodebookDictionary(**settings)

    @torch.no_grad()
    def folded(self, norm: Normalisation) -> "CodebookDictionary":
        """The same choice on raw activations: C <- C / s, b_dec <- m + b_dec / s, and eps <- eps / s^2 in the norm, in float64.

        Raises InputError for distances from normalised inputs, which know no scale: only the raw scale itself will do.
        """
        folded = copy.deepcopy(self).double()
        scale = norm.scale_x.to(folded.b_dec)
        if self.norm and self.metric == "euclid" and not bool((scale == 1).all()):
            raise InputError("euclid distances after a norm cannot be written for raw activations; choose --metric cosine, or --norm none")
        folded.eps = self.eps / float(scale[0]) ** 2
        folded.codebook.div_(scale.view(self.books, 1, -1))
        folded.b_dec.div_(scale).add_(norm.mean_x.to(scale))
        return folded


@dataclass(frozen=True, eq=False)
class Passage:
    """One way through a codebook."""

    y: Float[Tensor, "*batch d"]
    """What replaces the input, straight-through."""
    h: Float[Tensor, "*batch books d_book"]
    """What was looked up."""
    code: Sparse
    found: Float[Tensor, "*batch books d_book"]
    """What the codes say; its gradient reaches them alone."""


@dataclass(frozen=True)
class Codebook:
    """k codes of each of several books, nearest by cosine or distance (arXiv 2310.17230)."""

    k: int = 32
    """Codes chosen from each book."""
    books: int = 1
    """Books; each reads a chunk of the vector, for example one for each head of z."""
    metric: Literal["cosine", "euclid"] = "cosine"
    """How near a code is."""
    combine: Literal["mean", "sum"] = "mean"
    """How chosen codes are put together."""
    norm: Literal["none", "layer"] = "none"
    """What comes before the lookup. After a LayerNorm codes have its scale, and nothing undoes it."""
    initial: Literal["kmeans", "data", "normal"] = "kmeans"
    """What codes start as: k-means centres of inputs, inputs, or draws from N(0, 1)."""
    dead_coefficient: float = 1 / 32
    """Weight of the term that draws dead codes to random inputs."""

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> CodebookDictionary:
        """New books, the same for the same seed. Raises InputError when k or the sizes do not fit."""
        if transcoder or skip:
            raise InputError("Codebook writes what it reads; leave out --write and --skip, or choose another architecture for a transcoder")
        if d_dict % self.books:
            raise InputError(f"a width of {d_dict} cannot be shared by {self.books} books; choose a multiple of {self.books}")
        options = {"metric": self.metric, "combine": self.combine, "norm": self.norm == "layer"}
        dictionary = CodebookDictionary(d_in, self.books, d_dict // self.books, self.k, **options)
        torch.nn.init.normal_(dictionary.codebook, generator=torch.Generator().manual_seed(seed))
        return dictionary

    @torch.no_grad()
    def start(self, dictionary: CodebookDictionary, x: Float[Tensor, "tokens d"]) -> None:
        """Codes become centres or rows of the sample, drawn by a seed taken from the codes. A sample with fewer rows changes nothing."""
        codes = dictionary.codebook.shape[1]
        if len(x) < codes or self.initial == "normal":
            return
        generator = torch.Generator().manual_seed(int(dictionary.codebook[0, 0, 0].view(torch.int32)) & 0x7FFFFFFF)
        for g, h in enumerate(dictionary.chunks(x).cpu().unbind(1)):
            kmeans = self.initial == "kmeans"
            centres = _drawn(h, codes, generator) if kmeans else h[torch.randperm(len(h), generator=generator)[:codes]]
            for _ in range(ROUNDS if kmeans else 0):
                centres = _means(h, centres)
            dictionary.codebook[g] = centres.to(dictionary.codebook)

    def loss(self, dictionary: CodebookDictionary, batch: Batch) -> Losses:
        """Reconstruction, and the pull on dead codes, on normalised activations."""
        code = dictionary.encode_sparse(batch.x)
        y_hat = dictionary.decode_sparse(code)
        active = torch.zeros(dictionary.d_dict, device=y_hat.device).index_add_(
            0, code.indices.flatten(), torch.ones(code.indices.numel(), device=y_hat.device)
        )
        error, dead = fvu(batch.y, y_hat), batch.dead & (active == 0)
        pull = self._pull(dictionary, batch, dead)
        metrics = {"fvu": error.detach(), "aux_loss": pull.detach(), "l0": active.sum() / len(batch.x)}
        return Losses({"fvu": error, "aux": self.dead_coefficient * pull}, active, metrics)

    def _pull(self, dictionary: CodebookDictionary, batch: Batch, dead: Tensor) -> Tensor:
        if not self.dead_coefficient:
            return batch.x.new_zeros(())
        rows = torch.randint(len(batch.x), (dictionary.d_dict,), generator=batch.generator, device=batch.x.device)
        inputs = dictionary.chunks(batch.x).detach().view(len(batch.x), self.books, -1)
        book = torch.arange(dictionary.d_dict, device=rows.device) // dictionary.codebook.shape[1]
        apart = (dictionary.codebook.flatten(0, 1) - inputs[rows, book]).square().mean(1)
        return (apart * dead).sum() / dead.sum().clamp_min(1)

    def finish(self, dictionary: CodebookDictionary, x: Tensor) -> None:
        """Nothing is left to measure."""


def _best(scores: Float[Tensor, "batch codes"], k: int) -> Int[Tensor, "batch k"]:
    return scores.argmax(1, keepdim=True) if k == 1 else select(scores, k)


def _drawn(h: Float[Tensor, "rows d"], n: int, generator: torch.Generator) -> Float[Tensor, "codes d"]:
    """Rows as first centres, in rounds: each draws rows with a chance that grows with their squared distance from the centres so far."""
    chosen = torch.randperm(len(h), generator=generator)[: max(1, n // DRAWS)]
    distance = _nearest(h, h[chosen])[1]
    while len(chosen) < n:
        weight = distance.double().clamp_min(1e-12).index_fill(0, chosen, 0)
        more = torch.multinomial(weight, min(max(1, n // DRAWS), n - len(chosen)), generator=generator)
        distance = torch.minimum(distance, _nearest(h, h[more])[1])
        chosen = torch.cat([chosen, more])
    return h[chosen].clone()


def _nearest(h: Float[Tensor, "rows d"], centres: Float[Tensor, "codes d"]) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The nearest centre of each row, and its squared distance."""
    best = [(part @ centres.t() - centres.square().sum(1) / 2).max(1) for part in h.split(4096)]
    score, index = torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
    return index, (h.square().sum(1) - 2 * score).clamp_min(0)


def _means(h: Float[Tensor, "rows d"], centres: Float[Tensor, "codes d"]) -> Float[Tensor, "codes d"]:
    """One round of k-means; a centre that nothing is nearest to stays."""
    nearest, _ = _nearest(h, centres)
    sums = torch.zeros_like(centres).index_add_(0, nearest, h)
    n = torch.bincount(nearest, minlength=len(centres)).to(h)[:, None]
    return torch.where(n > 0, sums / n.clamp_min(1), centres)
