"""The discrete sparse autoencoder of arXiv 2405.12522: a ReLU autoencoder with an L1 penalty, read out as one code for each input.

    a = relu(W_enc (x - b) + b_enc)        L = fvu + lambda * mean_b sum_i a_i / E|x|^2 (+ aux)        code(x) = argmax_i a_i

Directions have length 1, per latent. The code is one-hot; its last entry says that no latent is active, where the published argmax silently
answers 0. `decode` writes the mean of what a latent has when it wins.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from saes.activations import OneHot, Positive
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
from saes.errors import InputError
from saes.losses import fvu, l1
from saes.sparse import SparseDictionary


@dataclass(frozen=True)
class Discrete:
    """Trained like ReLU with L1, read as the index of the strongest latent (arXiv 2405.12522)."""

    k: int = 4
    """Active latents per input while it is trained, on average: where the penalty's coefficient is held, unless --penalty gives one."""
    penalty: float | None = None
    """Coefficient lambda for a squared error averaged over dimensions, as published (.02 for IOI and greater-than, .05 for docstring)."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary of d_dict - 1 latents and "none", the same for the same seed. Raises InputError when the sizes do not fit."""
        check_k(self.k, d_dict - 1)
        one_site("Discrete", parts)
        if transcoder:
            raise InputError("Discrete writes what it reads; leave out --write, or choose another architecture for a transcoder")
        dictionary = SparseDictionary.random(d_in, d_out, d_dict, Positive(), seed=seed)
        torch.nn.init.constant_(dictionary.b_enc, -first_bound(self.k, d_dict))
        if self.penalty is None:
            controlled(dictionary, 0.3 * shrinkage_limit(d_out, self.k))
        with torch.no_grad():
            for tensor in (dictionary.W_enc.t(), dictionary.b_enc, dictionary.W_dec):
                tensor[-1] = 0
        return dictionary

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction from all active latents, penalty and auxiliary term on normalised activations."""
        support = dictionary.support(batch.x)
        code = dictionary.code(support)
        # Length 1 where it writes; "none" is 0 and stays so: it is never active, and no gradient reaches it.
        unit = code / support.of_latent(dictionary.lengths()).clamp_min(1e-12)
        y_hat = dictionary.write(support, unit, batch.x)
        active = activity(support, code)
        cost = l1(support, code, torch.ones_like(dictionary.b_enc)) / dictionary.d_out
        given = None if self.penalty is None else self.penalty * dictionary.d_out
        limit = shrinkage_limit(dictionary.d_out, self.k)
        penalty = coefficient(given, dictionary, active, len(batch.x), self.k, limit) * cost
        living = Batch(batch.x, batch.y, batch.dead & (torch.arange(dictionary.d_dict, device=batch.dead.device) < dictionary.d_dict - 1))
        return losses(self.aux, dictionary, living, y_hat, fvu(batch.y, y_hat), active, penalty=penalty)

    @torch.no_grad()
    def finish(self, dictionary: SparseDictionary, x: Float[Tensor, "tokens d_in"]) -> None:
        """Make the code one-hot, and each direction as long as its latent is strong when it wins."""
        dictionary.W_dec.div_(dictionary.norms().clamp_min(1e-12)[:, None])
        scores = dictionary.scores(x)
        values, winners = (part[:, 0] for part in scores.largest(1))
        strength = scores.pre(values, winners).relu()
        wins = torch.zeros_like(dictionary.b_enc).index_add_(0, winners, (strength > 0).to(strength))
        total = torch.zeros_like(dictionary.b_enc).index_add_(0, winners, strength)
        level = torch.where(wins > 0, total / wins.clamp_min(1), 1)
        # What the decoder gains the encoder loses, so that the winner by score stays the winner by strength.
        dictionary.W_dec.mul_(level[:, None])
        dictionary.W_enc.div_(level)
        dictionary.b_enc.div_(level)
        released(dictionary)
        dictionary.use(OneHot())
