"""JumpReLU: a threshold for each latent, learnt with pseudo-derivatives (Rajamanoharan et al. 2024, arXiv 2407.14435).

    z = pre H(pre - theta)        L = fvu + sparsity + aux_coefficient * aux_k

    target   sparsity = coefficient * (mean_b L0_b / k - 1)^2                with L0 counted by H and its pseudo-derivative in theta
    tanh     sparsity = lambda / d * mean_b sum_i tanh(4 z_i n_i)            lambda held where L0 = k (Anthropic, January 2025)

theta is learnt as SPEED |t|, in float32: Adam moves every parameter by the learning rate, which is little for a threshold, and less for its
logarithm.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from saes.activations import Found, Jump, Own
from saes.architectures.shared import Aux, check_k, controlled, first_bound, hold, losses, one_site, released
from saes.dictionary import Batch, Losses
from saes.kernels.scores import Scores
from saes.losses import fvu, jump, step, tanh_l0, target_l0
from saes.sparse import SparseDictionary
from saes.support import Support

STEEPNESS = 4.0
# Residual stream of SmolLM2, 4,608 latents, k 32: at speed 1 L0 was still 500 after 100 steps.
SPEED = 10.0


@dataclass(frozen=True)
class JumpRelu:
    """A learnt threshold for each latent, with L0 driven to k (Rajamanoharan et al. 2024)."""

    k: int = 32
    """Active latents per input, on average."""
    sparsity: Literal["target", "tanh"] = "target"
    """target: a quadratic penalty on the distance of L0 from k. tanh: a smooth count of latents whose coefficient is held where L0 = k."""
    coefficient: float = 1.0
    """Weight of the target penalty."""
    bandwidth: float = 0.5
    """Width of the window around the threshold in which a pre-activation moves it, in units where |x|^2 = d_in."""
    threshold: float | None = None
    """Where thresholds start; without one where a few times k latents are active."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> SparseDictionary:
        """A new dictionary, the same for the same seed. Raises InputError when k or the sizes do not fit."""
        check_k(self.k, d_dict)
        one_site("JumpRelu", parts)
        dictionary = SparseDictionary.random(d_in, d_out, d_dict, Jump(), seed=seed, transcoder=transcoder, skip=skip)
        first = first_bound(self.k, d_dict) if self.threshold is None else self.threshold
        torch.nn.init.constant_(dictionary.get_parameter("threshold"), first / SPEED)
        return controlled(dictionary) if self.sparsity == "tanh" else dictionary

    def loss(self, dictionary: SparseDictionary, batch: Batch) -> Losses:
        """Reconstruction, sparsity and auxiliary term on normalised activations."""
        support = dictionary.support(batch.x, activation=_Window(self.bandwidth))
        theta = support.of_latent(SPEED * dictionary.get_parameter("threshold").abs())
        code = jump(support.pre, theta, self.bandwidth)
        y_hat = dictionary.write(support, code, batch.x)
        on = step(support.pre, theta, self.bandwidth)
        count = on.sum() / len(batch.x)
        sparsity = self._sparsity(dictionary, support, code, count)
        return losses(self.aux, dictionary, batch, y_hat, fvu(batch.y, y_hat), support.per_latent(on.detach()), sparsity=sparsity)

    def _sparsity(self, dictionary: SparseDictionary, support: Support, code: Tensor, count: Tensor) -> Tensor:
        if self.sparsity == "target":
            return self.coefficient * target_l0(count, self.k)
        strength = hold(dictionary, count.detach(), self.k)
        return strength / dictionary.d_out * tanh_l0(support, code, dictionary.lengths(), STEEPNESS)

    def finish(self, dictionary: SparseDictionary, x: Tensor) -> None:
        """Thresholds become what they stand for."""
        dictionary.get_parameter("threshold").data.abs_().mul_(SPEED)
        released(dictionary)


@dataclass(frozen=True)
class _Window:
    """Everything that may be active, or near enough to its threshold to move it."""

    bandwidth: float

    def find(self, scores: Scores, own: Own) -> Found:
        return scores.above((SPEED * own["threshold"].abs() - self.bandwidth / 2) * scores.norms)
