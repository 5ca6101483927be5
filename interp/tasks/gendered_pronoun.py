"""Gendered pronoun (after Mathwin et al. 2023): "I heard that Mary sings very well, doesn't" -> " she". Own sentences of that form."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.ioi import NAMES
from interp.tasks.prompts import Prompt, assembled, distinct, filled, required, single

TEMPLATES = (
    "I heard that {NAME} sings very well, doesn't",
    "We all agree that {NAME} can swim fast, can't",
    "You told me that {NAME} was at home yesterday, wasn't",
    "It seems that {NAME} is a careful driver, isn't",
    "My neighbor says that {NAME} has a new bicycle, hasn't",
    "Of course {NAME} will come to the party, won't",
    "Last year {NAME} won the first prize, didn't",
    "Everybody thinks that {NAME} is very clever, isn't",
)
FEMALE = (
    "Mary", "Anna", "Laura", "Emma", "Alice", "Sarah", "Rachel", "Helen", "Jane", "Kate", "Lucy", "Julia", "Maria", "Susan", "Linda",
    "Karen", "Nancy", "Lisa", "Victoria", "Elizabeth", "Margaret", "Catherine", "Jennifer", "Jessica", "Amanda", "Nicole",
)  # fmt: skip
MALE = tuple(name for name in NAMES if name not in FEMALE)
PRONOUNS = ("he", "she")
GenderCorruption = Literal["gender"]


@dataclass(frozen=True)
class GenderedPronoun:
    """Which pronoun stands for the name."""

    NAME: ClassVar[str] = "gendered_pronoun"
    ABOUT: ClassVar[str] = "Gendered pronoun: he or she, by the name that was said (after Mathwin et al. 2023)."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "gender": "the name becomes one of the other gender",
    }

    corruption: GenderCorruption = "gender"
    """What the corrupt prompt changes. gender: the name becomes one of the other gender, so that the other pronoun is right."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs over templates and genders in turn."""
        pronouns = required(tokenizer, PRONOUNS, 2, "pronouns", self.NAME)
        required(tokenizer, FEMALE, 5, "female names", self.NAME)
        required(tokenizer, MALE, 5, "male names", self.NAME)
        genders = (list(single(tokenizer, MALE)), list(single(tokenizer, FEMALE)))
        draws = _draws(tokenizer, [pronouns[word] for word in PRONOUNS], genders, random.Random(seed))
        return assembled(distinct(draws, n, self.NAME), bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit difference of the two pronouns."""
        return logit_difference(logits, pairs)


def _draws(
    tokenizer: PreTrainedTokenizerBase, pronouns: Sequence[int], genders: Sequence[Sequence[str]], draw: random.Random
) -> Iterator[Prompt]:
    index = 0
    while True:
        template, gender = index % len(TEMPLATES), index // len(TEMPLATES) % 2
        index += 1
        clean, spans = filled(tokenizer, TEMPLATES[template], {"NAME": draw.choice(genders[gender])})
        corrupt, _ = filled(tokenizer, TEMPLATES[template], {"NAME": draw.choice(genders[1 - gender])})
        yield Prompt(clean, corrupt, pronouns[gender], (pronouns[1 - gender],), spans, layout=template)
