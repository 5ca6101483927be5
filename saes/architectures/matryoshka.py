"""Matryoshka: every prefix of the latents reconstructs on its own (Bussmann et al. 2025, arXiv 2503.17547). A loss, not a class.

    y_hat_j = b_dec + sum_{i < m_j} z_i W_dec[i]        L = mean_j fvu(y, y_hat_j) + aux_coefficient * aux_k

The early latents learn what is general and cannot leave it to later, narrower ones. Latents are chosen as in BatchTopK. The gradient of
block j is the sum over the prefixes that hold it, so the backward pass costs no more than a plain one.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from saes.activations import BatchLargest
from saes.architectures.shared import STEADY, Aux, activity, calibrate, check_k, losses, one_site
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.losses import nested_fvu
from saes.sparse import SparseDictionary


@dataclass(frozen=True)
class Matryoshka:
    """Nested dictionaries, each the first half of the next, chosen as in BatchTopK (Bussmann et al. 2025)."""

    CLIP: ClassVar[float] = STEADY
    k: int = 32
    """Active latents per input, on average."""
    prefixes: int = 5
    """Nested dictionaries: with 5 they have 1/16, 1/8, 1/4, 1/2 and all of the latents."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary, the same for the same seed. Raises InputError when k, the prefixes or the sizes do not fit."""
        check_k(self.k, d_dict)
        one_site("Matryoshka", parts)
        if not 1 <= self.prefixes <= d_dict.bit_length():
            raise InputError(f"prefixes={self.prefixes} do not halve {d_dict} latents; choose 1 to {d_dict.bit_length()}")
        return SparseDictionary.random(d_in, d_out, d_dict, BatchLargest(self.k), seed=seed, transcoder=transcoder, skip=skip)

    def ends(self, d_dict: int) -> tuple[int, ...]:
        """How many latents each prefix has."""
        return tuple(max(1, d_dict >> j) for j in reversed(range(self.prefixes)))

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction from every prefix and the auxiliary term on normalised activations; `fvu` reports the whole dictionary."""
        support = dictionary.support(batch.x)
        code = dictionary.code(support)
        y_hats = support.nested(code, dictionary.W_dec, self.ends(dictionary.d_dict)) + dictionary.b_dec
        if dictionary.W_skip is not None:
            y_hats = y_hats + dictionary.skip(batch.x)[:, None]
        errors = nested_fvu(batch.y, y_hats)
        found = losses(self.aux, dictionary, batch, y_hats[:, -1], errors.mean(), activity(support, code))
        return Losses(found.terms, found.active, {**found.metrics, "fvu": errors[-1].detach(), "fvu_first": errors[0].detach()})

    def finish(self, dictionary: SparseDictionary, x: Float[Tensor, "tokens d_in"]) -> None:
        """Measure the threshold above which k latents a token are active on these tokens."""
        calibrate(dictionary, x, self.k)
