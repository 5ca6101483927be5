"""ReLU with an L1 penalty: `z = relu(pre)`.

    L = fvu + lambda / d * mean_b sum_i z_i n_i + aux_coefficient * aux_k            n_i = |W_dec[i]|

The penalty weighs each latent by the length of what it writes (Anthropic, April 2024), so norms stay free. With `unit` the same sum without
n_i is taken on directions of length 1 (Bricken et al. 2023): z_i is then scaled by n_i where it writes. lambda is held where L0 = k, unless
it is given.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from saes.activations import Positive
from saes.architectures.shared import (
    Aux,
    activity,
    check_k,
    coefficient,
    controlled,
    first_bound,
    losses,
    one_site,
    released,
    shrinkage_limit,
)
from saes.dictionary import Batch, Losses
from saes.losses import fvu, l1
from saes.sparse import SparseDictionary


@dataclass(frozen=True)
class Relu:
    """ReLU with an L1 penalty that is held at the coefficient where L0 = k (Anthropic, April 2024)."""

    k: int = 32
    """Active latents per input, on average: where the penalty's coefficient is held, unless --penalty gives one."""
    penalty: float | None = None
    """Coefficient lambda of the penalty for a squared error summed over dimensions (5 in the source); then k is only a first guess."""
    p: float = 1.0
    """Power of the penalty; below 1 it shrinks large values less."""
    directions: Literal["free", "unit"] = "free"
    """free: directions have any length, which the penalty counts. unit: directions have length 1 (Bricken et al. 2023)."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary, the same for the same seed. Raises InputError when k or the sizes do not fit."""
        check_k(self.k, d_dict)
        one_site("Relu", parts)
        dictionary = SparseDictionary.random(d_in, d_out, d_dict, Positive(), seed=seed, transcoder=transcoder, skip=skip)
        torch.nn.init.constant_(dictionary.b_enc, -first_bound(self.k, d_dict))
        return dictionary if self.penalty is not None else controlled(dictionary, 0.3 * shrinkage_limit(d_out, self.k))

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction, penalty and auxiliary term on normalised activations."""
        support = dictionary.support(batch.x)
        code = dictionary.code(support)
        lengths = dictionary.lengths()
        unit = self.directions == "unit"
        y_hat = dictionary.write(support, code / support.of_latent(lengths) if unit else code, batch.x)
        active = activity(support, code)
        cost = l1(support, code, torch.ones_like(lengths) if unit else lengths, self.p) / dictionary.d_out
        limit = shrinkage_limit(dictionary.d_out, self.k)
        strength = coefficient(self.penalty, dictionary, active, len(batch.x), self.k, limit)
        return losses(self.aux, dictionary, batch, y_hat, fvu(batch.y, y_hat), active, penalty=strength * cost)

    def finish(self, dictionary: SparseDictionary, x: Tensor) -> None:
        """Write with directions of length 1 where they were trained so."""
        if self.directions == "unit":
            dictionary.W_dec.data.div_(dictionary.norms().clamp_min(1e-12)[:, None])
        released(dictionary)
