"""One code for each output of a head: an encoder that is fitted on a few outputs and answers which latent, cluster or signs a vector has.

trained    the discrete sparse autoencoder of arXiv 2405.12522 (`saes.architectures.Discrete`)
random     the same before its first step: what training adds
kmeans     the nearest of as many centres
pca        the signs along the first ceil(log2 n) principal components

The last three are controls. Codes are numbers from 0; -1 says that no latent is active, which centres and signs never do.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from saes.architectures.discrete import Discrete
from saes.architectures.shared import Aux
from saes.errors import InputError
from saes.schedule import FitConfig
from saes.sparse import SparseDictionary
from saes.train import fit

Encoder = Literal["trained", "random", "kmeans", "pca"]
Coder = Callable[[Tensor], Tensor]
"""Rows [row, d] to codes [row]."""
# Adam's published learning rate.
LR = 1e-3
# Rows that are encoded at once.
ROWS = 16_384


def encoder(kind: Encoder, rows: Float[Tensor, "row d"], n: int, penalty: float, epochs: int, seed: int) -> Coder:
    """An encoder of n codes fitted on these rows. Raises InputError for fewer rows than centres."""
    if kind == "kmeans":
        return centres(rows, n, seed)
    if kind == "pca":
        return signs(rows, n)
    dictionary = autoencoder(rows, n, penalty, epochs if kind == "trained" else 0, seed)
    return lambda x: winners(dictionary, x)


def n_codes(kind: Encoder, n: int) -> int:
    """How many codes there can be where n are asked for: signs come in powers of two."""
    return 2 ** math.ceil(math.log2(n)) if kind == "pca" else n


def autoencoder(rows: Float[Tensor, "row d"], n: int, penalty: float, epochs: int, seed: int) -> SparseDictionary:
    """A discrete autoencoder of n latents and "none", trained on all rows at once, so many times; the last step makes its code one-hot.

        L = mean over rows and dimensions of |x - x_hat|^2 + penalty * mean over rows of sum_i a_i

    Encoder and decoder start random, independent, of length 1 per latent, b at 0, b_enc uniform in +-1 / sqrt(d).
    """
    recipe = Discrete(k=1, penalty=penalty, aux=Aux(aux_coefficient=0.0))
    dictionary = recipe.build(rows.shape[1], rows.shape[1], n + 1, seed=seed).to(rows.device)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for side in (dictionary.W_enc.t(), dictionary.W_dec):
            side[:-1] = F.normalize(torch.randn(n, rows.shape[1], generator=rng), dim=1).to(side)
        dictionary.b_enc[:-1] = ((2 * torch.rand(n, generator=rng) - 1) / rows.shape[1] ** 0.5).to(dictionary.b_enc)
    if epochs:
        cfg = FitConfig(
            epochs, len(rows), LR, warmup=0, decay=0.0, clip=math.inf, betas=(0.9, 0.999), precision="float32", log_every=epochs, seed=seed
        )  # fmt: skip
        for _ in fit(dictionary, itertools.repeat((rows, rows)), recipe.loss, cfg):
            pass
    recipe.finish(dictionary, rows)
    return dictionary


@torch.no_grad()
def winners(dictionary: SparseDictionary, x: Float[Tensor, "row d"]) -> Int[Tensor, " row"]:
    """The latent of each row, -1 where none is active."""
    found = torch.cat([dictionary.encode_sparse(part).indices[:, 0] for part in x.split(ROWS)])
    return torch.where(found == dictionary.d_dict - 1, -1, found)


def centres(rows: Float[Tensor, "row d"], n: int, seed: int) -> Coder:
    """k-means of the rows (Lloyd, one k-means++ start)."""
    if len(rows) < n:
        raise InputError(f"{len(rows)} rows cannot have {n} centres; give fewer latents or more training examples")
    means = torch.from_numpy(KMeans(n, n_init="auto", random_state=seed).fit(rows.double().cpu().numpy()).cluster_centers_).to(rows)
    return lambda x: torch.cat([torch.cdist(part, means).argmin(1) for part in x.split(ROWS)])


def signs(rows: Float[Tensor, "row d"], n: int) -> Coder:
    """The signs of the first principal components of the rows, read as a binary number."""
    bits = math.ceil(math.log2(n))
    mean = rows.mean(0)
    axes = torch.linalg.svd((rows - mean).double(), full_matrices=False).Vh[:bits].to(rows)
    powers = 2 ** torch.arange(len(axes), device=rows.device)
    return lambda x: (((x - mean) @ axes.T > 0) * powers).sum(1)
