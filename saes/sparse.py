"""`SparseDictionary`: linear encoder, activation, linear decoder, optional skip. Autoencoder, transcoder and crosscoder are the same class.

pre = h W_enc + b_enc            h = x - b_dec (autoencoder: centred) or x (transcoder)
z = activation(pre)              which chooses by the scores pre_i n_i, n_i = |W_dec[i]|
y_hat = z W_dec + b_dec (+ x W_skip^T)

A crosscoder reads and writes several sites side by side (`parts`): x and y are the concatenations, and n_i is the sum of the norms of its
parts, so that a latent that writes to two sites counts for both.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saes.activations import ACTIVATIONS, Activation, Choice
from saes.errors import InputError
from saes.kernels import autograd
from saes.kernels.pairs import Pairs
from saes.kernels.scores import Scores
from saes.normalise import Normalisation
from saes.support import Full, Listed, Support

# Residual stream of SmolLM2 (d 576), TopK, 4,608 latents, 1,172 steps: held-out fvu 0.1133 at length 0.25, 0.1152 at 0.5, and 0.9 and 1.2 %
# silent latents. Long vectors turn slowly under Adam; very short ones (0.1) turn so fast that many latents lose their place too soon.
START = 0.25
# Share of the mean variance that steadies the least-squares map of `tie`.
RIDGE = 1e-3


@dataclass(frozen=True)
class Sparse:
    """A code by its active latents alone. A latent that was chosen with a score below 0 is listed with the value 0."""

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]
    d_dict: int

    def dense(self) -> Float[Tensor, "*batch d_dict"]:
        """The same code with its zeros."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.d_dict)
        return zeros.scatter_add(-1, self.indices, self.values)


@final
class SparseDictionary(nn.Module):
    """The weights of a dictionary and what it computes with them."""

    def __init__(
        self, d_in: int, d_out: int, d_dict: int, activation: Activation, *, centred: bool, skip: bool = False, parts: int = 1
    ) -> None:
        """All weights start at 0: `random` or a file fills them. Raises InputError for sizes that cannot be."""
        super().__init__()
        _check(d_in, d_out, d_dict, centred, skip)
        self.d_in, self.d_out, self.d_dict, self.centred, self.parts = d_in, d_out, d_dict, centred, parts
        # A latent's encoder weights lie together in memory, as its decoder row does: both gradients are then sums of rows.
        self.W_enc = nn.Parameter(torch.zeros(d_dict, d_in).t())
        self.b_enc = nn.Parameter(torch.zeros(d_dict))
        self.W_dec = nn.Parameter(torch.zeros(d_dict, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in)) if skip else None
        self.use(activation)

    @staticmethod
    def random(
        d_in: int,
        d_out: int,
        d_dict: int,
        activation: Activation,
        *,
        seed: int,
        transcoder: bool = False,
        skip: bool = False,
        parts: int = 1,
    ) -> "SparseDictionary":
        """A new dictionary, the same for the same seed.

        Directions start random with length START. An autoencoder's encoder starts as their transpose (tied): each latent then reads what it
        writes, and few are dead at the start. A transcoder reads and writes different spaces, so its two sides start independent.
        """
        dictionary = SparseDictionary(d_in, d_out, d_dict, activation, centred=not transcoder, skip=skip, parts=parts)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for side in (dictionary.W_dec, dictionary.W_enc.t())[: 2 if transcoder else 1]:
                side.copy_(START * F.normalize(torch.randn(side.shape, generator=generator), dim=1))
            if not transcoder:
                dictionary.W_enc.copy_(dictionary.W_dec.t())
        return dictionary

    @torch.no_grad()
    def tie(self, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> None:
        """Let each latent of a transcoder write what its reading predicts: directions are the least-squares images of encoder directions.

        What the transpose is to an autoencoder. With directions drawn on their own half of a transcoder's latents may never fire again.
        """
        gram = x.T @ x / len(x)
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(self.d_in, dtype=x.dtype, device=x.device)
        linear = torch.linalg.solve((gram + ridge).double(), (x.T @ y / len(x)).double()).to(self.W_dec)
        self.W_dec.copy_(START * F.normalize(self.W_enc.t() @ linear, dim=1))

    def use(self, activation: Activation) -> None:
        """Make codes by another activation; its own tensors start at 0."""
        for name in getattr(self, "activation", activation).TENSORS:
            self.register_parameter(name, None)
        self.activation = activation
        for name in activation.TENSORS:
            self.register_parameter(name, nn.Parameter(torch.zeros_like(self.b_enc)))

    def own(self) -> dict[str, Tensor]:
        """What the activation knows of each latent."""
        return {name: getattr(self, name) for name in ("b_enc", *self.activation.TENSORS)}

    def support(
        self, x: Float[Tensor, "batch d_in"], *, activation: Choice | None = None, among: Bool[Tensor, " d_dict"] | None = None
    ) -> Support:
        """Where the code of x may differ from 0, differentiable; `among` some latents or by another activation where given."""
        with torch.no_grad():
            scores = self.scores(x, among)
            found = (activation or self.activation).find(scores, {name: t.detach() for name, t in self.own().items()})
            pre, pairs = (None, None) if found is None else (scores.pre(found[0], found[1].latents), found[1])
        if pre is None or pairs is None:
            return Full(F.linear(self.encoder_input(x), self.W_enc.t(), self.b_enc).to(x.dtype))
        if torch.is_grad_enabled():
            pre = autograd.encode(pre, pairs, x, self.W_enc, self.b_enc, self.b_dec if self.centred else None)
        return Listed(pre, pairs)

    def scores(self, x: Float[Tensor, "batch d_in"], among: Bool[Tensor, " d_dict"] | None = None) -> Scores:
        """What latents are chosen by."""
        return Scores(self.encoder_input(x), self.W_enc, self.b_enc, self.norms(), among)

    def code(self, support: Support) -> Tensor:
        """The code at its support."""
        return self.activation.values(support, self.own())

    def write(self, support: Support, code: Tensor, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"]:
        """The output for a code at its support, b_dec and skip connection included."""
        y_hat = support.decode(code, self.W_dec) + self.b_dec
        return y_hat if self.W_skip is None else y_hat + self.skip(x)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_dict"]:
        """The dense code."""
        flat = x.reshape(-1, self.d_in)
        support = self.support(flat)
        code = self.code(support)
        dense = code if isinstance(support, Full) else _rows(code, support.pairs).dense()
        return dense.view(*x.shape[:-1], self.d_dict)

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> Sparse:
        """The code by its active latents, differentiable: as many places for each token as the busiest needs, empty ones with value 0."""
        support = self.support(x.reshape(-1, self.d_in))
        code = self.code(support)
        found = _active(code) if isinstance(support, Full) else _rows(code, support.pairs)
        shape = (*x.shape[:-1], found.values.shape[-1])
        return Sparse(found.values.view(shape), found.indices.view(shape), self.d_dict)

    def decode(self, code: Float[Tensor, "*batch d_dict"]) -> Float[Tensor, "*batch d_out"]:
        """What the code writes, b_dec included and a skip connection not: that one reads x, see `skip`."""
        return code @ self.W_dec + self.b_dec

    def decode_sparse(self, code: Sparse) -> Float[Tensor, "*batch d_out"]:
        """`decode` of the same code, at a cost of k rows a token."""
        # Not -1: a code may have no place at all.
        indices = code.indices.reshape(code.indices.shape[:-1].numel(), code.indices.shape[-1])
        out = autograd.decode(code.values.reshape(-1), Pairs.of_rows(indices, self.d_dict), self.W_dec)
        return out.view(*code.values.shape[:-1], self.d_out) + self.b_dec

    def skip(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The skip connection's part of the output, 0 without one."""
        return x.new_zeros(*x.shape[:-1], self.d_out) if self.W_skip is None else (x @ self.W_skip.T).to(x.dtype)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of x, or the prediction of y."""
        flat = x.reshape(-1, self.d_in)
        support = self.support(flat)
        return self.write(support, self.code(support), flat).view(*x.shape[:-1], self.d_out)

    def reconstruct(self, x: Float[Tensor, "*batch d_in"], code: Sparse) -> Float[Tensor, "*batch d_out"]:
        """Decode the code of x and add the skip connection."""
        y_hat = self.decode_sparse(code)
        return y_hat if self.W_skip is None else y_hat + self.skip(x)

    def directions(self) -> Float[Tensor, "d_dict d_out"]:
        """What each latent writes when its value is 1."""
        return self.W_dec

    def reads(self) -> Float[Tensor, "d_dict d_in"]:
        """What each latent reads."""
        return self.W_enc.t()

    def norms(self) -> Float[Tensor, " d_dict"]:
        """Length of each direction; in a crosscoder the sum over its parts."""
        return self.W_dec.detach().unflatten(1, (self.parts, -1)).norm(dim=2).sum(1)

    def lengths(self) -> Float[Tensor, " d_dict"]:
        """`norms`, differentiable."""
        return self.W_dec.unflatten(1, (self.parts, -1)).norm(dim=2).sum(1)

    def encoder_input(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """h: x less b_dec in an autoencoder, x itself in a transcoder."""
        return x - self.b_dec if self.centred else x

    def settings(self) -> dict[str, Any]:
        """What a file has to say to build the dictionary again, beside its weights."""
        sizes = {"d_in": self.d_in, "d_out": self.d_out, "d_dict": self.d_dict}
        kind = {"kind": type(self.activation).__name__, **vars(self.activation)}
        return {**sizes, "centred": self.centred, "skip": self.W_skip is not None, "parts": self.parts, "activation": kind}

    @staticmethod
    def of_settings(settings: Mapping[str, Any]) -> "SparseDictionary":
        """The dictionary that `settings` describe, all weights 0."""
        options = {**settings["activation"]}
        kind = options.pop("kind")
        if kind not in ACTIVATIONS:
            raise InputError(f"the dictionary uses the activation {kind!r}; this version knows {', '.join(ACTIVATIONS)}")
        sizes = {name: settings[name] for name in ("d_in", "d_out", "d_dict", "centred", "skip", "parts")}
        return SparseDictionary(activation=ACTIVATIONS[kind](**options), **sizes)

    @torch.no_grad()
    def folded(self, norm: Normalisation) -> "SparseDictionary":
        """The same function on raw activations, with the same latents and values, in float64.

        Autoencoder (h = x - b_dec, one map for both sides):
            W_enc <- s W_enc        W_dec <- W_dec / s        b_dec <- m + b_dec / s
        Transcoder:
            W_enc <- s_x W_enc      b_enc <- b_enc - s_x m_x W_enc(old)      W_dec <- W_dec / s_y
            W_skip <- (s_x / s_y) W_skip        b_dec <- m_y + (b_dec - s_x W_skip(old) m_x) / s_y
        Gated, whose b_gate is b_enc: also b_mag <- b_mag - s_x (m_x W_enc) exp(r_mag) where b_enc moves.
        """
        folded = copy.deepcopy(self).double()
        m_x, s_x, m_y, s_y = (t.to(folded.b_dec) for t in (norm.mean_x, norm.scale_x, norm.mean_y, norm.scale_y))
        if folded.centred:
            if not torch.equal(s_x, s_y) or not torch.equal(m_x, m_y):
                raise InputError("an autoencoder has one normalisation, but x and y were measured apart; call measure(x, x)")
        else:
            moved = (s_x * m_x) @ folded.W_enc
            folded.b_enc.sub_(moved)
            if "b_mag" in self.activation.TENSORS:
                folded.get_parameter("b_mag").sub_(moved * folded.get_parameter("r_mag").exp())
        if folded.W_skip is not None:
            folded.b_dec.sub_(folded.W_skip @ (s_x * m_x))
            folded.W_skip.mul_(s_x).div_(s_y[:, None])
        folded.W_enc.mul_(s_x[:, None])
        folded.W_dec.div_(s_y)
        folded.b_dec.div_(s_y).add_(m_y)
        return folded


def _rows(code: Tensor, pairs: Pairs) -> Sparse:
    """A rectangular code: each token's latents, then places with value 0."""
    counts = pairs.starts.diff()
    width = len(code) // len(counts) if len(counts) else 0
    if width * len(counts) == len(code) and bool((counts == width).all()):
        return Sparse(code.view(len(counts), width), pairs.latents.view(len(counts), width), pairs.d_dict)
    width = int(counts.max())
    place = torch.arange(len(code), device=code.device) - pairs.starts[:-1][pairs.tokens] + pairs.tokens * width
    values = code.new_zeros(len(counts) * width).index_copy(0, place, code)
    indices = pairs.latents.new_zeros(len(counts) * width).index_copy(0, place, pairs.latents)
    return Sparse(values.view(-1, width), indices.view(-1, width), pairs.d_dict)


def _active(code: Float[Tensor, "batch d_dict"]) -> Sparse:
    """The active latents of a dense code."""
    token, latent = (code > 0).nonzero(as_tuple=True)
    starts = torch.searchsorted(token, torch.arange(len(code) + 1, device=code.device))
    return _rows(code[token, latent], Pairs(latent, starts, code.shape[1]))


def _check(d_in: int, d_out: int, d_dict: int, centred: bool, skip: bool) -> None:
    if min(d_in, d_out, d_dict) < 1:
        raise InputError(f"a dictionary of d_in={d_in}, d_out={d_out}, d_dict={d_dict} cannot be; every size is at least 1")
    if centred and d_in != d_out:
        raise InputError(f"an autoencoder writes what it reads, but d_in={d_in} and d_out={d_out}; build it with transcoder=True")
    if centred and skip:
        raise InputError("an autoencoder with a skip connection would copy its input; use skip=True with transcoder=True only")
