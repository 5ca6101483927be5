"""Subject-verb agreement, as in Marks et al. 2024 (arXiv:2403.19647): "The boys near the car" -> " are". Own nouns, openings and verbs.

simple      opening noun                                     agrees with the noun
nounpp      opening noun, preposition, "the", attractor      agrees with the noun, whatever the number of the attractor
within_rc   opening noun, "that the", inner noun             agrees with the inner noun, whatever the number of the first
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.prompts import ENGLISH, Prompt, assembled, distinct, filled, single
from interp.tasks.words import PEOPLE, THINGS, VERBS
from saes.errors import InputError

Structure = Literal["simple", "nounpp", "within_rc"]
NumberCorruption = Literal["number"]
OPENINGS = ("The", "Today the", "We heard that the", "It is said that the", "In this town the", "Everyone knows that the")
PREPOSITIONS = ("near", "behind", "beside")
TEMPLATES: dict[Structure, str] = {
    "simple": "{OPENING} {NOUN}",
    "nounpp": "{OPENING} {NOUN} {PREPOSITION} the {ATTRACTOR}",
    "within_rc": "{OPENING} {NOUN} that the {INNER}",
}
AGREES: dict[Structure, str] = {"simple": "NOUN", "nounpp": "NOUN", "within_rc": "INNER"}
MIN_NOUNS = 5
Forms = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Agreement:
    """Whether the verb is singular or plural."""

    NAME: ClassVar[str] = "agreement"
    ABOUT: ClassVar[str] = "Subject-verb agreement: is or are, by the number of the subject (as in Marks et al. 2024)."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "number": "the subject changes between singular and plural",
    }

    corruption: NumberCorruption = "number"
    """What the corrupt prompt changes. number: the noun that the verb agrees with changes from singular to plural or back."""
    structure: Structure = "nounpp"
    """The sentence. simple: a noun. nounpp: a noun with another one behind a preposition. within_rc: a noun in a relative clause."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs over openings and both numbers in turn."""
        people, things, verbs = (_both(tokenizer, forms) for forms in (PEOPLE, THINGS, VERBS))
        if len(people) < MIN_NOUNS or len(things) < MIN_NOUNS or not verbs:
            raise InputError(
                f"the tokenizer has {len(people)} people, {len(things)} things and {len(verbs)} verbs as single tokens in both numbers and "
                f"task agreement needs {MIN_NOUNS}, {MIN_NOUNS} and 1; {ENGLISH}"
            )
        draws = self._draws(tokenizer, people, things, verbs, random.Random(seed))
        return assembled(distinct(draws, n, f"{self.NAME} ({self.structure})"), bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit of the verb in the number of its noun minus that of the same verb in the other number."""
        return logit_difference(logits, pairs)

    def _draws(
        self, tokenizer: PreTrainedTokenizerBase, people: Forms, things: Forms, verbs: Forms, draw: random.Random
    ) -> Iterator[Prompt]:
        template, agrees = TEMPLATES[self.structure], AGREES[self.structure]
        index = 0
        while True:
            opening, number = index % len(OPENINGS), index // len(OPENINGS) % 2
            index += 1
            noun, inner = draw.sample(people, 2)
            forms = {"NOUN": noun, "INNER": inner, "ATTRACTOR": draw.choice(things)}
            numbers = {slot: draw.randrange(2) for slot in forms} | {agrees: number}
            words = {"OPENING": OPENINGS[opening], "PREPOSITION": draw.choice(PREPOSITIONS)}
            words |= {slot: form[numbers[slot]] for slot, form in forms.items()}
            clean, spans = filled(tokenizer, template, words)
            corrupt, _ = filled(tokenizer, template, words | {agrees: forms[agrees][1 - number]})
            verb = single(tokenizer, draw.choice(verbs))
            answer, wrong = (list(verb.values())[i] for i in (number, 1 - number))
            places = {slot: spans[slot] for slot in forms if slot in spans} | {"VERB'S NOUN": spans[agrees]}
            yield Prompt(clean, corrupt, answer, (wrong,), places, layout=(opening, len(clean)))


def _both(tokenizer: PreTrainedTokenizerBase, forms: Forms) -> Forms:
    """Words that are one token in singular and plural."""
    return tuple(pair for pair in forms if len(single(tokenizer, pair)) == 2)
