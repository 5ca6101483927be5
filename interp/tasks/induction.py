"""Induction (Elhage et al. 2021; Olsson et al. 2022): random words, repeated up to the last but one; the last is next.

The corrupt prompt has other words in the first half, so nothing says what comes next.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.prompts import ENGLISH, Prompt, assembled, distinct
from saes.errors import InputError

InductionCorruption = Literal["first_half"]


@dataclass(frozen=True)
class Induction:
    """Which word comes next in a sequence that is repeated."""

    NAME: ClassVar[str] = "induction"
    ABOUT: ClassVar[str] = "Induction: random words are repeated, and the next word is the one that followed before (Olsson et al. 2022)."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "first_half": "the first half has other words, so that nothing says what comes next",
    }

    corruption: InductionCorruption = "first_half"
    """What the corrupt prompt changes. first_half: the words before the repetition become others."""
    length: int = 20
    """Words before the repetition."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise InputError(f"a sequence of {self.length} words has nothing to repeat; give a length from 2 on, for example 20")

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs from all tokens that are a blank and a word of two letters or more."""
        words = _words(tokenizer)
        if len(words) < 2 * self.length:
            raise InputError(
                f"the tokenizer has {len(words)} words as single tokens and task induction needs {2 * self.length}; "
                f"give a smaller length, or {ENGLISH}"
            )
        return assembled(distinct(self._draws(words, random.Random(seed)), n, self.NAME), bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit of the word that came next the last time minus the largest logit of another word of the sequence."""
        return logit_difference(logits, pairs)

    def _draws(self, words: Sequence[int], draw: random.Random) -> Iterator[Prompt]:
        # The earlier copy of the prompt's last token, what came after it, and where the repetition begins.
        spans = {"copy": self.length - 2, "copy+1": self.length - 1, "repeat": self.length}
        while True:
            drawn = draw.sample(words, 2 * self.length)
            first, other = tuple(drawn[: self.length]), tuple(drawn[self.length :])
            yield Prompt((*first, *first[:-1]), (*other, *first[:-1]), first[-1], first[:-1], spans, layout=self.length)


def _words(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that stand for a blank, which byte-level vocabularies write Ġ and SentencePiece ▁, and two letters or more."""
    texts = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [i for i, text in enumerate(texts) if text and text[0] in "Ġ▁" and text[2:] and text[1:].isascii() and text[1:].isalpha()]
