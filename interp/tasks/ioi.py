"""Indirect object identification (Wang et al. 2022, arXiv:2211.00593): "When A and B went to the shop, B gave a ring to" -> A.

The indirect object (IO) is named once, the subject (S) twice. A prompt has a template, one of the two orders of the first clause (ABBA: IO
first, BABA: S first), a place and an object. The sentences, names, places and objects below are this project's own, of the published form.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from saes.errors import InputError

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

    corruption: Corruption = "s2"
    """What the corrupt prompt changes. s2: the second mention of S becomes a third name. abc: IO, S and the second mention become three
    fresh names. flip: the second mention of S becomes IO, so that S is the right answer."""

    def names(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The names that are one token after a blank, with that token; raises InputError when fewer than ten are left."""
        tokens = {name: _after_word(tokenizer, name) for name in NAMES}
        kept = {name: ids[0] for name, ids in tokens.items() if len(ids) == 1}
        if len(kept) < MIN_NAMES:
            raise InputError(
                f"the tokenizer has {len(kept)} of {len(NAMES)} names as single tokens and task ioi needs {MIN_NAMES}; "
                "choose a model trained on English text, for example --model smollm2"
            )
        return kept

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs over templates and orders in turn, so that any 16 in a row hold each once."""
        names = self.names(tokenizer)
        prompts = _distinct(random.Random(seed), n, self.corruption, list(names))
        clean = [_encode(tokenizer, p.text(*p.clean), bos) for p in prompts]
        corrupt = [_encode(tokenizer, p.text(*p.corrupt), bos) for p in prompts]
        spans = [_spans(ids, names[p.clean[0]], names[p.clean[1]]) for ids, p in zip(clean, prompts, strict=True)]
        layouts = [(p.template, p.subject_first, *span.values()) for p, span in zip(prompts, spans, strict=True)]
        number = {layout: i for i, layout in enumerate(dict.fromkeys(layouts))}
        return Pairs(
            clean=_padded(clean),
            corrupt=_padded(corrupt),
            answer=torch.tensor([names[p.clean[0]] for p in prompts]),
            wrong=torch.tensor([[names[p.clean[1]]] for p in prompts]),
            read=torch.tensor([[len(ids) - 1] for ids in clean]),
            group=torch.tensor([number[layout] for layout in layouts]),
            spans={name: torch.tensor([span[name] for span in spans]) for name in spans[0]},
        )

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


def _distinct(draw: random.Random, n: int, corruption: Corruption, names: Sequence[str]) -> list[_Prompt]:
    """n prompts of different clean text: with ten names there are 144,000."""
    found: dict[str, _Prompt] = {}
    while len(found) < n:
        prompt = _prompt(draw, len(found), corruption, names)
        found.setdefault(prompt.text(*prompt.clean), prompt)
    return list(found.values())


def _prompt(draw: random.Random, index: int, corruption: Corruption, names: Sequence[str]) -> _Prompt:
    io, s, x, y, z = draw.sample(names, 5)
    corrupt: Mapping[Corruption, tuple[str, str, str]] = {"s2": (io, s, x), "abc": (x, y, z), "flip": (io, s, io)}
    return _Prompt(
        template=TEMPLATES[index % len(TEMPLATES)],
        subject_first=index // len(TEMPLATES) % 2 == 1,
        place=draw.choice(PLACES),
        object=draw.choice(OBJECTS),
        clean=(io, s, s),
        corrupt=corrupt[corruption],
    )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, bos: int | None) -> list[int]:
    return [*([] if bos is None else [bos]), *tokenizer.encode(text, add_special_tokens=False)]


def _after_word(tokenizer: PreTrainedTokenizerBase, name: str) -> list[int]:
    """Tokens of the name behind a word: a tokenizer may treat the beginning of a text in its own way."""
    return tokenizer.encode(f"and {name}", add_special_tokens=False)[len(tokenizer.encode("and", add_special_tokens=False)) :]


def _spans(clean: Sequence[int], io: int, s: int) -> dict[str, int]:
    """Positions in a clean prompt, where IO occurs once and S twice."""
    (at_io,) = (i for i, token in enumerate(clean) if token == io)
    at_s1, at_s2 = (i for i, token in enumerate(clean) if token == s)
    return {"IO": at_io, "S1": at_s1, "S1+1": at_s1 + 1, "S2": at_s2, "end": len(clean) - 1}


def _padded(prompts: Sequence[Sequence[int]]) -> Int[Tensor, "pair pos"]:
    """Prompts in one tensor, their last token repeated behind them."""
    width = max(map(len, prompts))
    return torch.tensor([[*ids, *[ids[-1]] * (width - len(ids))] for ids in prompts])
