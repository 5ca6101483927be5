"""Docstring (Heimersheim and Janiak 2023): a docstring describes the arguments of a function in their order; which one is next?

The definition has two arguments, then three of which the docstring describes the first two, then one more; the third is the answer. Names
are drawn without replacement over clean and corrupt prompt together, so that no name of one is right in the other by chance.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.prompts import Prompt, assembled, distinct, filled, required
from interp.tasks.words import ARGUMENTS, NOUNS

TEMPLATE = '''
def {METHOD}(self, {P1}, {P2}, {A}, {B}, {C}, {S1}):
    """Set the {N1} {N2} {N3}

    :param {A_doc}: {N4} {N5}
    :param {B_doc}: {N6} {N7}
    :param'''
DEFINED = ("P1", "P2", "A", "B", "C", "S1")
DESCRIBED = ("A", "B")
# The method and both sets of arguments.
MIN_NAMES = 1 + 2 * len(DEFINED) + len(DESCRIBED)
DocstringCorruption = Literal["random_random", "random_def", "random_answer"]


@dataclass(frozen=True)
class Docstring:
    """Which argument is described next."""

    NAME: ClassVar[str] = "docstring"
    ABOUT: ClassVar[str] = "Docstring: which argument of a function is described next (Heimersheim and Janiak 2023)."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "random_random": "all arguments get other names, in the definition and in the docstring",
        "random_def": "the arguments of the definition get other names",
        "random_answer": "the argument that is the answer gets another name",
    }

    corruption: DocstringCorruption = "random_random"
    """What the corrupt prompt changes. random_random: all arguments, of the definition and of the docstring, become names of their own.
    random_def: those of the definition. random_answer: only the answer in the definition. Each shows other heads (second-hand: random_def
    five of six in attn-only-4l, the two others three)."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs of one template."""
        names = required(tokenizer, ARGUMENTS, MIN_NAMES, "argument names", self.NAME)
        nouns = list(required(tokenizer, NOUNS, 7, "nouns", self.NAME))
        return assembled(distinct(self._draws(tokenizer, names, nouns, random.Random(seed)), n, self.NAME), bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit of the argument whose turn it is minus the largest logit of another argument of the definition."""
        return logit_difference(logits, pairs)

    def _draws(
        self, tokenizer: PreTrainedTokenizerBase, names: Mapping[str, int], nouns: Sequence[str], draw: random.Random
    ) -> Iterator[Prompt]:
        while True:
            method, *drawn = draw.sample(list(names), MIN_NAMES)
            words = {"METHOD": method} | {f"N{i}": noun for i, noun in enumerate(draw.sample(nouns, 7), start=1)}
            own = dict(zip(DEFINED, drawn, strict=False))
            own |= {f"{slot}_doc": own[slot] for slot in DESCRIBED}
            clean, spans = filled(tokenizer, TEMPLATE, words | own)
            corrupt, _ = filled(tokenizer, TEMPLATE, words | self._corrupt(own, drawn[len(DEFINED) :]))
            wrong = tuple(names[own[slot]] for slot in DEFINED if slot != "C")
            places = {slot: spans[slot] for slot in (*DEFINED, *(f"{slot}_doc" for slot in DESCRIBED))}
            yield Prompt(clean, corrupt, names[own["C"]], wrong, places, layout=(len(clean), *places.values()))

    def _corrupt(self, own: Mapping[str, str], fresh: Sequence[str]) -> dict[str, str]:
        """The arguments of the corrupt prompt."""
        described = [f"{slot}_doc" for slot in DESCRIBED]
        changed = {"random_random": [*DEFINED, *described], "random_def": list(DEFINED), "random_answer": ["C"]}[self.corruption]
        return dict(own) | dict(zip(changed, fresh, strict=False))
