"""What a latent writes, read as logits: its direct effect on the output, past all later layers.

    effect_i = (g * c(W_dec[i])) W_U

where g is the gain of the final norm and c subtracts the mean if that norm does (LayerNorm) and nothing else otherwise (RMSNorm). Gain and
centring are folded; the norm's division, which depends on the token, and its bias are left out: effects are true up to a positive factor
that differs from token to token. Summaries are taken after the mean over the vocabulary is subtracted: what raises all tokens alike raises
none of them. For a site `z` the direction first goes through W_O of its heads. After Bloom and Lin 2024, "Understanding SAE features with
the logit lens"; kurtosis is that of Pearson (3 for a normal distribution).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.features import histogram
from interp.models import Model
from interp.sites import Site

TOP = 20
WRITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
# Norms divide by sqrt(mean square + epsilon): with a mean square of 10^4 the epsilon of every common model is below float32.
_RMS = 100.0
# Logits of one chunk.
_CHUNK = 1 << 24


@dataclass(frozen=True)
class LogitEffects:
    """The effect of every latent on the vocabulary, summarised."""

    top_ids: Int[Tensor, "d_dict top"]
    top: Float[Tensor, "d_dict top"]
    bottom_ids: Int[Tensor, "d_dict top"]
    """Most negative first."""
    bottom: Float[Tensor, "d_dict top"]
    counts: Int[Tensor, "d_dict bins"]
    range: Float[Tensor, "d_dict 2"]
    kurtosis: Float[Tensor, " d_dict"]
    skew: Float[Tensor, " d_dict"]


def to_residual(model: Model, site: Site, directions: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_model"] | None:
    """Directions at the site as directions of the residual stream; None where the site does not write to it (q, k, v, mlp_in)."""
    if site.stream not in WRITES:
        return None
    if site.stream != "z":
        return directions
    w_o = model.w_o(site.layer) if site.head is None else model.w_o(site.layer)[site.head]
    return directions @ w_o.reshape(-1, model.d_model).to(directions)


def direct_effect(model: Model, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
    """The formula of this module through `model.unembed` alone: a norm is linear up to its scale, and what it makes of 0 is its bias."""
    zero, ones = torch.zeros_like(directions[:1]), torch.full_like(directions[:1], _RMS)
    signs = ones * (1 - 2 * (torch.arange(model.d_model, device=directions.device) % 2))
    rows = directions * (_RMS / _rms(directions).clamp_min(1e-30))
    logits = model.unembed(torch.cat([rows, zero, ones, signs]))
    logits -= logits[-3].clone()
    # A norm that subtracts the mean makes nothing of a constant vector, and measures its scale after the subtraction.
    centres = logits[-2].abs().max() < 1e-2 * logits[-1].abs().max()
    return logits[:-3].mul_(_rms(torch.where(centres, directions - directions.mean(1, keepdim=True), directions)))


def summarise(model: Model, directions: Float[Tensor, "d_dict d_model"]) -> LogitEffects:
    """Top, bottom, histogram and moments of the effects of all latents, in chunks; results on the CPU."""
    chunks = list(_chunks(model, directions))
    return LogitEffects(**{name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})


def moments(effects: Float[Tensor, "n vocab"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Kurtosis and skew of each row, zero for a constant one."""
    z = effects - effects.mean(1, keepdim=True)
    z /= _rms(z).clamp_min(1e-30)
    squared = z.square()
    return torch.linalg.vecdot(squared, squared) / z.shape[1], torch.linalg.vecdot(squared, z) / z.shape[1]


def _chunks(model: Model, directions: Float[Tensor, "d_dict d_model"]) -> Iterator[dict[str, Tensor]]:
    rows, n = max(1, _CHUNK // model.d_vocab), min(TOP, model.d_vocab)
    for start in range(0, len(directions), rows):
        effects = direct_effect(model, directions[start : start + rows].to(model.device, model.dtype)).float()
        effects -= effects.mean(1, keepdim=True)
        (top, top_ids), (bottom, bottom_ids) = effects.topk(n), effects.topk(n, largest=False)
        counts, span = histogram.rows(effects)
        kurtosis, skew = moments(effects)
        found = {
            "top_ids": top_ids.int(), "top": top, "bottom_ids": bottom_ids.int(), "bottom": bottom, "counts": counts, "range": span,
            "kurtosis": kurtosis, "skew": skew,
        }  # fmt: skip
        yield {name: value.cpu() for name, value in found.items()}


def _rms(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True) / rows.shape[1] ** 0.5
