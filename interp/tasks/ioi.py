"""Indirect object identification (Wang et al. 2022, arXiv:2211.00593): "When A and B went to the shop, B gave a ring to" -> A.

The indirect object (IO) is named once, the subject (S) twice. A prompt has a template, one of the two orders of the first clause (ABBA: IO
first, BABA: S first), a place and an object. The sentences, names, places and objects below are this project's own, of the published form.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.prompts import Prompt, assembled, encode, required

# {A} and {B} are the names of the first clause in either order, {S} is the second mention. No sentence begins with a name, because
# a name has its usual token only after a blank.
TEMPLATES = (
    "When {A} and {B} went to the {PLACE}, {S} gave a {OBJECT} to",
    "After {A} and {B} got to the {PLACE}, {S} handed a {OBJECT} to",
    "While {A} and {B} were at the {PLACE}, {S} passed a {OBJECT} to",
    "Because {A} and {B} liked the {PLACE}, {S} sent a {OBJECT} to",
    "Since {A} and {B} lived near the {PLACE}, {S} showed a {OBJECT} to",
    "As {A} and {B} walked through the {PLACE}, {S} offered a {OBJECT} to",
    "Before {A} and {B} left the {PLACE}, {S} brought a {OBJECT} to",
    "Once {A} and {B} had reached the {PLACE}, {S} lent a {OBJECT} to",
)
LONG = (
    "On a cold and rainy evening in the autumn, when {A} and {B} came to the {PLACE}, {S} gave a {OBJECT} to",
    "Not long after the end of the holidays, while {A} and {B} were at the {PLACE}, {S} handed a {OBJECT} to",
    "Without having told any of their friends, {A} and {B} drove to the {PLACE}, where {S} passed a {OBJECT} to",
    "Because of the bad weather in the mountains, {A} and {B} stayed near the {PLACE}, and {S} lent a {OBJECT} to",
    "In the first week of the new year, after {A} and {B} had found the {PLACE}, {S} sent a {OBJECT} to",
    "To the surprise of all who were there, {A} and {B} walked out of the {PLACE}, and {S} offered a {OBJECT} to",
    "Every day of that long and quiet summer, {A} and {B} met by the {PLACE}, until {S} brought a {OBJECT} to",
    "With the help of their old teacher, {A} and {B} came back from the {PLACE}, and {S} showed a {OBJECT} to",
)
LATE = (
    "Yesterday, {A} and {B} went to the {PLACE}. {S} gave a {OBJECT} to",
    "Sometimes, {A} and {B} came by the {PLACE}. {S} handed a {OBJECT} to",
    "Today, {A} and {B} worked at the {PLACE}. {S} passed a {OBJECT} to",
    "Again, {A} and {B} looked around the {PLACE}. {S} lent a {OBJECT} to",
    "Finally, {A} and {B} got to the {PLACE}. {S} offered a {OBJECT} to",
    "Suddenly, {A} and {B} ran from the {PLACE}. {S} showed a {OBJECT} to",
    "Meanwhile, {A} and {B} waited near the {PLACE}. {S} brought a {OBJECT} to",
    "Usually, {A} and {B} talked at the {PLACE}. {S} sent a {OBJECT} to",
)
EARLY = (
    "Yesterday {A} and {B} went to the {PLACE}, and {S} gave a {OBJECT} to",
    "Sometimes {A} and {B} came by the {PLACE}, and {S} handed a {OBJECT} to",
    "Today {A} and {B} worked at the {PLACE}, and {S} passed a {OBJECT} to",
    "Again {A} and {B} looked around the {PLACE}, and {S} lent a {OBJECT} to",
    "Finally {A} and {B} got to the {PLACE}, and {S} offered a {OBJECT} to",
    "Suddenly {A} and {B} ran from the {PLACE}, and {S} showed a {OBJECT} to",
    "Meanwhile {A} and {B} waited near the {PLACE}, and {S} brought a {OBJECT} to",
    "Usually {A} and {B} talked at the {PLACE}, and {S} sent a {OBJECT} to",
)
Family = Literal["short", "long", "late", "early"]
FAMILIES: dict[Family, tuple[str, ...]] = {"short": TEMPLATES, "long": LONG, "late": LATE, "early": EARLY}
PLACES = ("park", "bank", "library", "market", "station", "beach", "museum", "church", "farm", "hotel")
OBJECTS = ("book", "letter", "map", "phone", "ticket", "ball", "watch", "camera", "lamp", "cup")
NAMES = (
    "Mary", "John", "Peter", "Paul", "Anna", "Laura", "Simon", "Martin", "Emma", "Alice", "Henry", "George", "Robert", "James", "David",
    "Thomas", "Daniel", "Sarah", "Rachel", "Helen", "Jane", "Kate", "Lucy", "Julia", "Maria", "Susan", "Linda", "Karen", "Nancy", "Lisa",
    "Michael", "Andrew", "Mark", "Luke", "Adam", "Eric", "Frank", "Jack", "Kevin", "Brian", "Steven", "Richard", "Edward", "Charles",
    "William", "Joseph", "Samuel", "Benjamin", "Victoria", "Elizabeth", "Margaret", "Catherine", "Jennifer", "Jessica", "Amanda", "Nicole",
)  # fmt: skip
MIN_NAMES = 10
Corruption = Literal["s2", "abc", "flip"]


@dataclass(frozen=True)
class Ioi:
    """Which name comes next: the one that was mentioned once."""

    NAME: ClassVar[str] = "ioi"
    ABOUT: ClassVar[str] = "Indirect object identification: of two names, the one that was said once comes next (Wang et al. 2022)."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "s2": "the second mention of the subject becomes a third name",
        "abc": "three fresh names take the places of the two",
        "flip": "the second mention of the subject becomes the other name",
    }

    corruption: Corruption = "s2"
    """What the corrupt prompt changes. s2: the second mention of S becomes a third name. abc: IO, S and the second mention become three
    fresh names. flip: the second mention of S becomes IO, so that S is the right answer."""
    family: Family = "short"
    """The sentences. short: two clauses. long: the same behind several words. early: names from the second word on, the clauses joined by
    "and". late: names from the third token on, the second mention begins a sentence."""

    def names(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The names that are one token after a blank, with that token; raises InputError when fewer than ten are left."""
        return required(tokenizer, NAMES, MIN_NAMES, "names", self.NAME)

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs over templates and orders in turn, so that any 16 in a row hold each once."""
        names = self.names(tokenizer)
        drawn = _distinct(random.Random(seed), n, self, list(names))
        return assembled([_tokens(tokenizer, names, prompt) for prompt in drawn], bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit difference of IO and S."""
        return logit_difference(logits, pairs)


@dataclass(frozen=True)
class _Prompt:
    template: str
    subject_first: bool
    place: str
    object: str
    clean: tuple[str, str, str]
    """IO, S of the first clause, second mention of S."""
    corrupt: tuple[str, str, str]

    def text(self, io: str, s1: str, s2: str) -> str:
        a, b = (s1, io) if self.subject_first else (io, s1)
        return self.template.format(A=a, B=b, S=s2, PLACE=self.place, OBJECT=self.object)


def _distinct(draw: random.Random, n: int, task: Ioi, names: Sequence[str]) -> list[_Prompt]:
    """n prompts of different clean text: with ten names there are 144,000."""
    found: dict[str, _Prompt] = {}
    while len(found) < n:
        prompt = _prompt(draw, len(found), task, names)
        found.setdefault(prompt.text(*prompt.clean), prompt)
    return list(found.values())


def _prompt(draw: random.Random, index: int, task: Ioi, names: Sequence[str]) -> _Prompt:
    templates = FAMILIES[task.family]
    io, s, x, y, z = draw.sample(names, 5)
    corrupt: Mapping[Corruption, tuple[str, str, str]] = {"s2": (io, s, x), "abc": (x, y, z), "flip": (io, s, io)}
    return _Prompt(
        template=templates[index % len(templates)],
        subject_first=index // len(templates) % 2 == 1,
        place=draw.choice(PLACES),
        object=draw.choice(OBJECTS),
        clean=(io, s, s),
        corrupt=corrupt[task.corruption],
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, int], prompt: _Prompt) -> Prompt:
    clean, corrupt = (encode(tokenizer, prompt.text(*three)) for three in (prompt.clean, prompt.corrupt))
    io, s = names[prompt.clean[0]], names[prompt.clean[1]]
    spans = _spans(clean, io, s)
    return Prompt(clean, corrupt, io, (s,), spans, layout=(prompt.template, prompt.subject_first, *spans.values()))


def _spans(clean: Sequence[int], io: int, s: int) -> dict[str, int]:
    """Positions in a clean prompt, where IO occurs once and S twice."""
    (at_io,) = (i for i, token in enumerate(clean) if token == io)
    at_s1, at_s2 = (i for i, token in enumerate(clean) if token == s)
    return {"IO": at_io, "S1": at_s1, "S1+1": at_s1 + 1, "S2": at_s2}
