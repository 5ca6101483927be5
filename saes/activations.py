"""How a dictionary chooses its active latents: small frozen values that are saved with it, apart from how it was trained."""

from dataclasses import dataclass
from typing import get_args

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
ACTIVATIONS: dict[str, type[Activation]] = {kind.__name__: kind for kind in get_args(Activation) or (Activation,)}
"""Name to class, derived from the union: the name is what a saved dictionary says."""
