"""TopK: the k largest latents of each input, and an auxiliary loss that keeps latents alive (Gao et al. 2024, arXiv 2406.04093).

    L = fvu + aux_coefficient * aux_k (+ multi * fvu of the 4 k largest)

There is no sparsity penalty: L0 is set, not tuned.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from saes.activations import KLargest
from saes.architectures.shared import STEADY, Aux, activity, check_k, losses, one_site
from saes.dictionary import Batch, Losses
from saes.losses import fvu
from saes.sparse import SparseDictionary


@dataclass(frozen=True)
class TopK:
    """Keep the k largest latents of each input (Gao et al. 2024)."""

    CLIP: ClassVar[float] = STEADY
    k: int = 32
    """Active latents per input."""
    multi: float = 0.0
    """Weight of a second reconstruction from the 4 k largest (Multi-TopK, 1/8 in the paper), which keeps larger k usable; 0: none."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary, the same for the same seed. Raises InputError when k or the sizes do not fit."""
        check_k(self.k, d_dict)
        one_site("TopK", parts)
        return SparseDictionary.random(d_in, d_out, d_dict, KLargest(self.k), seed=seed, transcoder=transcoder, skip=skip)

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction and auxiliary terms on normalised activations."""
        support = dictionary.support(batch.x)
        code = dictionary.code(support)
        y_hat = dictionary.write(support, code, batch.x)
        more = {"multi": self.multi * fvu(batch.y, self._wide(dictionary, batch.x))} if self.multi else {}
        return losses(self.aux, dictionary, batch, y_hat, fvu(batch.y, y_hat), activity(support, code), **more)

    def _wide(self, dictionary: SparseDictionary, x: Tensor) -> Tensor:
        support = dictionary.support(x, activation=KLargest(min(4 * self.k, dictionary.d_dict)))
        return dictionary.write(support, dictionary.code(support), x)

    def finish(self, dictionary: SparseDictionary, x: Tensor) -> None:
        """Nothing is left to measure."""
