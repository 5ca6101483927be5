"""What several architectures do alike: the term that keeps latents alive, a coefficient that holds L0, thresholds measured at the end."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.activations import BatchLargest, Jump
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.losses import aux_k, fvu
from saes.sparse import START, SparseDictionary
from saes.support import Support

# Name of the buffer that a controlled coefficient lives in while a dictionary is trained: its logarithm, and a running mean of log(L0 / k).
CONTROL = "control"
# The coefficient starts low and moves by at most this share a step; L0 is averaged over so many steps, and looked ahead by so many, because
# it follows the coefficient slowly: one that only counts what is active now climbs too high and shrinks every value.
GAIN, MEMORY, AHEAD, LOW = 0.02, 10, 100, 0.05
# L0 at the start, in units of k, and the share by which a penalty may shrink values.
FIRST, SHRINKAGE = 4.0, 0.25
# Largest norm of the gradient where no penalty is at work. It is always exceeded, since losses are means over tokens and dimensions, and so
# every step counts alike in Adam's moments. SmolLM2, TopK, 293 steps: fvu .134 instead of .138. A penalty that is held by its L0 does worse
# with it: Gated ends at 4.1 latents where 3 are asked for, and 3.1 come otherwise. A recipe says so by a class variable CLIP.
STEADY = 1e-3


@dataclass(frozen=True)
class Aux:
    """The auxiliary loss of Gao et al. 2024, in which dead latents explain what the living leave over."""

    aux_coefficient: float = 1 / 8
    """Weight of the auxiliary loss, in which dead latents explain what the living leave over; 0 switches it off. The paper's 1/32 leaves
    ten times as many dead latents in runs of a million tokens, at the same reconstruction."""
    k_aux: int | None = None
    """Dead latents per input in the auxiliary loss. None takes half of d_in, at most 512."""

    def term(self, dictionary: SparseDictionary, x: Tensor, residual: Tensor, dead: Tensor) -> Float[Tensor, ""]:
        """The loss, without its weight."""
        if not self.aux_coefficient:
            return residual.new_zeros(())
        return aux_k(dictionary, x, residual, dead, self.k_aux or max(1, min(512, dictionary.d_in // 2)))


def check_k(k: int, d_dict: int) -> None:
    """Raises InputError when k latents cannot be active among d_dict."""
    if not 1 <= k <= d_dict:
        raise InputError(f"k={k} latents cannot be active in a dictionary of d_dict={d_dict}; choose k between 1 and {d_dict}")


def one_site(name: str, parts: int) -> None:
    """Raises InputError for several sites side by side."""
    if parts != 1:
        raise InputError(f"{name} reads one site, not {parts} joined by +; Crosscoder and CrossLayer read several")


def activity(support: Support, code: Tensor) -> Float[Tensor, " d_dict"]:
    """Tokens on which each latent is active."""
    return support.per_latent((code.detach() > 0).to(torch.float32))


def losses(aux: Aux, dictionary: SparseDictionary, batch: Batch, y_hat: Tensor, error: Tensor, active: Tensor, **terms: Tensor) -> Losses:
    """Reconstruction error, auxiliary loss and the other terms of a loss, with what is reported of each."""
    dead = batch.dead & (active == 0)
    revival = aux.term(dictionary, batch.x, batch.y - y_hat.detach(), dead)
    metrics = {"fvu": error.detach(), "aux_loss": revival.detach(), "l0": active.sum() / len(batch.x)}
    reported = metrics | {f"{name}_loss": term.detach() for name, term in terms.items()}
    return Losses({"fvu": error, "aux": aux.aux_coefficient * revival, **terms}, active, reported)


def plain(aux: Aux, dictionary: SparseDictionary, batch: Batch) -> Losses:
    """Reconstruction and auxiliary loss, for a choice of latents that needs no penalty."""
    support = dictionary.support(batch.x)
    code = dictionary.code(support)
    y_hat = dictionary.write(support, code, batch.x)
    return losses(aux, dictionary, batch, y_hat, fvu(batch.y, y_hat), activity(support, code))


def first_bound(k: int, d_dict: int) -> float:
    """The pre-activation above which FIRST * k latents are at the start.

    Inputs have `E|x|^2 = d_in`, so pre-activations start normal with the deviation START. Were half of the latents active at first,
    whatever makes them fall silent would grow for as long as that takes, and crush what they have learnt.
    """
    return -START * float(torch.special.ndtri(torch.tensor(min(0.5, FIRST * k / d_dict))))


def controlled(dictionary: SparseDictionary, first: float = LOW) -> SparseDictionary:
    """Give the dictionary a coefficient that `hold` moves from `first` on."""
    dictionary.register_buffer(CONTROL, torch.tensor([first, FIRST]).log())
    return dictionary


@torch.no_grad()
def hold(dictionary: SparseDictionary, l0: Float[Tensor, ""], k: int, limit: float = torch.inf) -> Float[Tensor, ""]:
    """The coefficient, at most `limit`, that drives L0 to k: its logarithm follows where log(L0 / k) is heading, so nobody hunts for it."""
    control = dictionary.get_buffer(CONTROL)
    moved = (((l0 + 1e-3) / k).log() - control[1]) / MEMORY
    control[1] += moved
    control[0] += GAIN * (control[1] + AHEAD * moved).clamp(-1, 1)
    control[0].clamp_(max=math.log(limit))
    return control[0].exp()


def coefficient(given: float | None, dictionary: SparseDictionary, active: Tensor, n_tokens: int, k: int, limit: float) -> Tensor | float:
    """The coefficient of a penalty: the given one, or the one that holds L0 at k."""
    return hold(dictionary, active.sum() / n_tokens, k, limit) if given is None else given


def shrinkage_limit(d: int, k: int) -> float:
    """The largest coefficient of an L1 penalty that is still worth its price.

    k active latents that explain inputs of squared length d have values near sqrt(d / k); a coefficient lambda shrinks each by lambda / 2.
    Beyond a quarter a larger one crushes values and silences few latents: better a larger L0 than that.
    """
    return 2 * SHRINKAGE * math.sqrt(d / k)


def released(dictionary: SparseDictionary) -> None:
    """Take the coefficient away again: a finished dictionary has none."""
    if hasattr(dictionary, CONTROL):
        delattr(dictionary, CONTROL)


@torch.no_grad()
def calibrate(dictionary: SparseDictionary, x: Float[Tensor, "tokens d_in"], k: int) -> None:
    """Replace the choice by batch with one threshold on scores, above which k latents a token are, on average over these tokens.

    The code of a token then depends on that token alone. It is stored as a threshold of each latent on its pre-activation.
    """
    most = min(4 * BatchLargest(k).most * k, dictionary.d_dict)
    scores = torch.cat([dictionary.scores(part).largest(most)[0] for part in x.split(4096)]).flatten().sort(descending=True).values
    edge = scores[k * len(x) - 1 : k * len(x) + 1].mean().clamp_min(0)
    norms = dictionary.norms()
    dictionary.use(Jump())
    # A latent that writes nothing has no score to compare.
    dictionary.get_parameter("threshold").copy_(
        torch.where(norms > 0, edge / norms, torch.inf).nan_to_num(posinf=torch.finfo(norms.dtype).max)
    )
