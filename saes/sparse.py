"""`SparseDictionary`: linear encoder, activation, linear decoder, optional skip. Autoencoder and transcoder are the same class.

pre = h W_enc + b_enc            h = x - b_dec (autoencoder: centred) or x (transcoder)
z_i = relu(pre_i) for the latents that the activation chooses by the scores pre_i |W_dec[i]|, else 0
y_hat = z W_dec + b_dec (+ x W_skip^T)
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saes.activations import Activation
from saes.errors import InputError
from saes.kernels import autograd
from saes.kernels.winners import winners


@dataclass(frozen=True)
class Sparse:
    """A code by its active latents alone. A latent that was chosen with a score below 0 is listed with the value 0."""

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]
    d_dict: int

    def dense(self) -> Float[Tensor, "*batch d_dict"]:
        """The same code with its zeros."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.d_dict)
        return zeros.scatter(-1, self.indices, self.values)


@final
class SparseDictionary(nn.Module):
    """The weights of a dictionary and what it computes with them."""

    def __init__(self, d_in: int, d_out: int, d_dict: int, activation: Activation, *, centred: bool, skip: bool = False) -> None:
        """All weights start at 0: an architecture's `build` or a file fills them. Raises InputError for sizes that cannot be."""
        super().__init__()
        _check(d_in, d_out, d_dict, centred, skip)
        self.d_in, self.d_out, self.d_dict, self.centred = d_in, d_out, d_dict, centred
        self.activation = activation
        # A latent's encoder weights lie together in memory, as its decoder row does: both gradients are then sums of rows.
        self.W_enc = nn.Parameter(torch.zeros(d_dict, d_in).t())
        self.b_enc = nn.Parameter(torch.zeros(d_dict))
        self.W_dec = nn.Parameter(torch.zeros(d_dict, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in)) if skip else None

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_dict"]:
        """The dense code."""
        return self.encode_sparse(x).dense()

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"], *, among: Bool[Tensor, " d_dict"] | None = None, activation: Activation | None = None
    ) -> Sparse:
        """The code by its active latents, differentiable; chosen `among` some latents or by another activation where given."""
        flat = x.reshape(-1, self.d_in)
        choose = activation or self.activation
        values, indices = winners(self.encoder_input(flat), self.W_enc, self.b_enc, self.norms(), choose, among)
        if torch.is_grad_enabled():
            values = autograd.encode(values, indices, flat, self.W_enc, self.b_enc, self.b_dec if self.centred else None)
        return Sparse(values.unflatten(0, x.shape[:-1]), indices.unflatten(0, x.shape[:-1]), self.d_dict)

    def decode(self, code: Float[Tensor, "*batch d_dict"]) -> Float[Tensor, "*batch d_out"]:
        """What the code writes, b_dec included and a skip connection not: that one reads x, see `skip`."""
        return code @ self.W_dec + self.b_dec

    def decode_sparse(self, code: Sparse) -> Float[Tensor, "*batch d_out"]:
        """`decode` of the same code, at a cost of k rows a token."""
        k = code.indices.shape[-1]
        out = autograd.decode(code.values.reshape(-1, k), code.indices.reshape(-1, k), self.W_dec)
        return out.unflatten(0, code.values.shape[:-1]) + self.b_dec

    def skip(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The skip connection's part of the output, 0 without one."""
        return x.new_zeros(*x.shape[:-1], self.d_out) if self.W_skip is None else x @ self.W_skip.T

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of x, or the prediction of y."""
        return self.reconstruct(x, self.encode_sparse(x))

    def reconstruct(self, x: Float[Tensor, "*batch d_in"], code: Sparse) -> Float[Tensor, "*batch d_out"]:
        """Decode the code of x and add the skip connection."""
        y_hat = self.decode_sparse(code)
        return y_hat if self.W_skip is None else y_hat + self.skip(x)

    def directions(self) -> Float[Tensor, "d_dict d_out"]:
        """What each latent writes when its value is 1."""
        return self.W_dec

    def norms(self) -> Float[Tensor, " d_dict"]:
        """Length of each direction."""
        return self.W_dec.detach().norm(dim=1)

    def encoder_input(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """h: x less b_dec in an autoencoder, x itself in a transcoder."""
        return x - self.b_dec if self.centred else x


def _check(d_in: int, d_out: int, d_dict: int, centred: bool, skip: bool) -> None:
    if min(d_in, d_out, d_dict) < 1:
        raise InputError(f"a dictionary of d_in={d_in}, d_out={d_out}, d_dict={d_dict} cannot be; every size is at least 1")
    if centred and d_in != d_out:
        raise InputError(f"an autoencoder writes what it reads, but d_in={d_in} and d_out={d_out}; build it with transcoder=True")
    if centred and skip:
        raise InputError("an autoencoder with a skip connection would copy its input; use skip=True with transcoder=True only")
