"""Crosscoder: one code for several sites (Anthropic, October 2024; norms and selection as in arXiv 2504.02922).

    pre = sum_l x_l W_enc[l] + b_enc        y_hat_l = z W_dec[:, l] + b_dec[l]        n_i = sum_l |W_dec[i, l]|
    L = mean_l fvu(x_l, y_hat_l) + aux_coefficient * aux_k

It is a dictionary on the concatenation of the sites, each with a scale of its own. Chosen as in BatchTopK by `pre_i n_i`, which avoids most
of the latents that a per-site L1 penalty makes look exclusive to one site.
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from saes.activations import BatchLargest
from saes.architectures.shared import Aux, calibrate, check_k, plain
from saes.dictionary import Batch, Losses
from saes.sparse import SparseDictionary


@dataclass(frozen=True)
class Crosscoder:
    """One code for several sites, chosen as in BatchTopK (Anthropic, October 2024)."""

    k: int = 32
    """Active latents per input, on average."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary, the same for the same seed; `parts` sites side by side. Raises InputError when k or the sizes do not fit."""
        check_k(self.k, d_dict)
        choose = BatchLargest(self.k)
        return SparseDictionary.random(d_in, d_out, d_dict, choose, seed=seed, transcoder=transcoder, skip=skip, parts=parts)

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction, summed over sites, and auxiliary term on normalised activations."""
        return plain(self.aux, dictionary, batch)

    def finish(self, dictionary: SparseDictionary, x: Float[Tensor, "tokens d_in"]) -> None:
        """Measure the threshold above which k latents a token are active on these tokens."""
        calibrate(dictionary, x, self.k)
