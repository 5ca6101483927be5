"""BatchTopK: the k B largest latents of a batch of B inputs, so that inputs may differ in how many they need (arXiv 2412.06410).

    L = fvu + aux_coefficient * aux_k

A batch is a choice made in training only. `finish` measures the threshold with the same L0, and the saved dictionary is a JumpReLU whose
code of a token does not depend on its neighbours.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from saes.activations import BatchLargest
from saes.architectures.shared import STEADY, Aux, calibrate, check_k, one_site, plain
from saes.dictionary import Batch, Losses
from saes.sparse import SparseDictionary


@dataclass(frozen=True)
class BatchTopK:
    """Keep the k largest latents per input on average over a batch (Bussmann et al. 2024)."""

    CLIP: ClassVar[float] = STEADY
    k: int = 32
    """Active latents per input, on average."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary, the same for the same seed. Raises InputError when k or the sizes do not fit."""
        check_k(self.k, d_dict)
        one_site("BatchTopK", parts)
        return SparseDictionary.random(d_in, d_out, d_dict, BatchLargest(self.k), seed=seed, transcoder=transcoder, skip=skip)

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction and auxiliary term on normalised activations."""
        return plain(self.aux, dictionary, batch)

    def finish(self, dictionary: SparseDictionary, x: Float[Tensor, "tokens d_in"]) -> None:
        """Measure the threshold above which k latents a token are active on these tokens."""
        calibrate(dictionary, x, self.k)
