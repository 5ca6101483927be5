"""Which tokens of the vocabulary a code is active on, by count and by lift."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.features.codes import Latent

# The lift of a token seen once under a code is noise: tokens are ranked by lift from this count on.
LEAST = 3


@dataclass(frozen=True)
class Words:
    """The tokens under one code: those that occur there at all, by their ids."""

    ids: Int[np.ndarray, " word"]
    count: Int[np.ndarray, " word"]
    """Active positions on the token."""
    share: Float[np.ndarray, " word"]
    """Share of the active positions, P(token | code)."""
    lift: Float[np.ndarray, " word"]
    """P(token | code) / P(token): how many times more often than in the whole text."""
    recall: Float[np.ndarray, " word"]
    """P(code | token)."""

    def by_count(self, n: int) -> Int[np.ndarray, " some"]:
        """Places of the n most frequent tokens; of equal ones the smaller id first."""
        return np.lexsort((self.ids, -self.count))[:n]

    def by_lift(self, n: int, least: int = LEAST) -> Int[np.ndarray, " some"]:
        """Places of the n tokens with the highest lift among those with `least` positions; of equal ones the more frequent first."""
        order = np.lexsort((self.ids, -self.count, -self.lift))
        return order[self.count[order] >= least][:n]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """How often each token of the vocabulary occurs among those that count."""

    tokens: Int[np.ndarray, " position"]
    """The token at each flat position."""
    keep: Bool[np.ndarray, " position"]

    @cached_property
    def counts(self) -> Int[np.ndarray, " vocab"]:
        return np.bincount(self.tokens[self.keep])

    def under(self, latent: Latent) -> Words:
        """The tokens on which a code is active."""
        ids, count = np.unique(self.tokens[latent.positions], return_counts=True)
        share, all_of_them = count / max(1, len(latent.positions)), self.counts[ids]
        return Words(ids, count, share, share * self.counts.sum() / all_of_them, count / all_of_them)
