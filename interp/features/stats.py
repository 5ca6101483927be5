"""Statistics of one latent over the corpus, one function each. Nothing is sketched: all are exact over the active tokens.

`DEFINITIONS` names what the columns mean; tables carry it, so that figures of two versions are never compared by accident.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.features.codes import Latent

DEFINITIONS = "1"
# A latent active on more than a tenth of the tokens is called dense.
DENSE = 0.1
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class TokenUse:
    """On which tokens of the vocabulary a latent is active."""

    top: int
    """The token with most activations, the smaller id if two are equal; -1 for a dead latent."""
    share: float
    """Share of the active positions that are on it."""
    entropy: float
    """Entropy in nats of the distribution of active positions over the vocabulary: 0 for a detector of one token."""


def density(n_active: int, n_tokens: int) -> float:
    """Share of the counted tokens on which the latent is active."""
    return n_active / n_tokens if n_tokens else 0.0


def mean(values: Float[np.ndarray, " n"]) -> float:
    """Mean of the active values, zero for a dead latent."""
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def quantiles(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Median, 90th and 99th percentile of the active values, interpolated linearly; zeros for a dead latent."""
    if not len(values):
        return 0.0, 0.0, 0.0
    p50, p90, p99 = np.quantile(values, QUANTILES)
    return float(p50), float(p90), float(p99)


def token_use(tokens: Int[np.ndarray, " n"]) -> TokenUse:
    """Most frequent token, its share, and the entropy, given the token under each activation."""
    if not len(tokens):
        return TokenUse(-1, 0.0, 0.0)
    ids, counts = np.unique(tokens, return_counts=True)
    share = counts / len(tokens)
    # + 0.0: a single token would otherwise have the entropy -0.0
    return TokenUse(int(ids[counts.argmax()]), float(share.max()), float(-(share * np.log(share)).sum()) + 0.0)


def row(latent: Latent, tokens: Int[np.ndarray, " positions"], n_tokens: int) -> dict[str, float | int | bool]:
    """All columns of `latents.arrow` that need the corpus, given the token at each flat position and how many tokens count."""
    values, n_active = latent.values, len(latent.values)
    p50, p90, p99 = quantiles(values)
    use = token_use(tokens[latent.positions])
    return {
        "latent": latent.index, "n_active": n_active, "density": density(n_active, n_tokens),
        "max_act": float(values.max(initial=0.0)), "mean_act": mean(values),
        "p50": p50, "p90": p90, "p99": p99, "top_token": use.top, "top_token_share": use.share, "token_entropy": use.entropy,
        "dead": n_active == 0,
    }  # fmt: skip
