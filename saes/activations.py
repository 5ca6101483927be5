"""How a dictionary chooses its active latents: small frozen values that are saved with it, apart from how it was trained."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from saes.kernels.select import select


@dataclass(frozen=True)
class KLargest:
    """The k largest scores of each token."""

    k: int

    def __call__(self, scores: Float[Tensor, "batch d_dict"]) -> Int[Tensor, "batch k"]:
        """Indices of the active latents, a fixed number for each token; a score that is not positive becomes the value 0."""
        return select(scores, self.k)


Activation = KLargest
