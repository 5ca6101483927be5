"""Greater-than (Hanna et al. 2023, arXiv:2305.00586): "The war began in the year 1732 and ended in the year 17" -> a number above 32.

A tokenizer carries the task in one of two forms:

    two digits   " 1732" is " 17", "32" (GPT-2).       M = p(y > YY) - p(y <= YY) after "17", p over the whole vocabulary
    one digit    "1732" is "1", "7", "3", "2" (Llama).  The prompt goes on with the true first digit a of YY = ab and M reads two positions:
                 p(first > a) + p(first = a) p(second > b) - p(first < a) - p(first = a) p(second <= b)

so that both say by how much a year after the given one is likelier than one before it. The corrupt prompt says 01 for YY.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs
from interp.tasks.prompts import ENGLISH, Prompt, assembled, distinct, encode, filled, required
from interp.tasks.words import EVENTS
from saes.errors import InputError

TEMPLATE = "The {NOUN} began in the year {YEAR} and ended in the year {CENTURY}"
CENTURIES = range(11, 18)
MIN_NOUNS, MIN_YEARS = 5, 20
YearCorruption = Literal["year01"]


@dataclass(frozen=True)
class GreaterThan:
    """Which year can come next: one after the year that was mentioned."""

    NAME: ClassVar[str] = "greater_than"
    ABOUT: ClassVar[str] = "Greater-than: a war that began in a year ends in a later one (Hanna et al. 2023)."
    METRIC: ClassVar[tuple[str, str]] = ("probability difference", "probability")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "year01": "the last two digits of the first year become 01, so that any later year fits",
    }

    corruption: YearCorruption = "year01"
    """What the corrupt prompt changes. year01: the last two digits of the year become 01, after which every year may follow."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs, over centuries and years alike, with the numbers 00 to 99 or the digits 0 to 9."""
        nouns = list(required(tokenizer, EVENTS, MIN_NOUNS, "nouns", self.NAME))
        numbers, draws = _form(tokenizer, nouns, random.Random(seed))
        return replace(assembled(distinct(draws, n, self.NAME), bos), numbers=torch.tensor([numbers] * n))

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Probability of the years after the one mentioned minus that of the others; float32 at least."""
        assert pairs.numbers is not None, "greater_than compares pairs that it drew itself"
        p = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1)
        pair = torch.arange(len(pairs), device=logits.device)
        # [*runs, pair, number] after each position that is read
        *before, last = (p[..., pair[:, None], read, pairs.numbers] for read in range(p.shape[-2]))
        if not before:
            return (last * _sides(pairs, "YY", equal=-1)).sum(-1)
        same = before[0][..., pair, _value(pairs, "Y1")]
        return (before[0] * _sides(pairs, "Y1", equal=0)).sum(-1) + same * (last * _sides(pairs, "Y2", equal=-1)).sum(-1)


def _value(pairs: Pairs, span: str) -> Int[Tensor, " pair"]:
    """The number that the clean prompt has at a span."""
    assert pairs.numbers is not None
    token = pairs.clean.gather(1, pairs.spans[span][:, None])
    return (pairs.numbers == token).int().argmax(1)


def _sides(pairs: Pairs, span: str, equal: int) -> Int[Tensor, "pair number"]:
    """1 for the numbers above that of the span, -1 for those below, `equal` for itself."""
    assert pairs.numbers is not None
    above = torch.arange(pairs.numbers.shape[1], device=pairs.numbers.device) - _value(pairs, span)[:, None]
    return torch.where(above == 0, equal, above.sign())


def _form(tokenizer: PreTrainedTokenizerBase, nouns: list[str], draw: random.Random) -> tuple[list[int], Iterator[Prompt]]:
    """Tokens of the numbers, and prompts without end, in the form that the tokenizer carries; raises InputError when it carries neither."""
    digits = [encode(tokenizer, f" 1{digit}")[-1] for digit in range(10)]
    one_digit = len(set(digits)) == 10 and encode(tokenizer, " 1732")[-4:] == tuple(digits[d] for d in (1, 7, 3, 2))
    if one_digit:
        return digits, _of_digits(tokenizer, nouns, digits, draw)
    numbers = [encode(tokenizer, f"{number:02}") for number in range(100)]
    years = _split_years(tokenizer, numbers) if all(len(ids) == 1 for ids in numbers) else []
    if len(years) < MIN_YEARS:
        raise InputError(
            f"the tokenizer writes 1732 as {' '.join(tokenizer.convert_ids_to_tokens(list(encode(tokenizer, ' 1732'))))}, and task "
            f"greater_than needs years as two tokens of two digits or four of one; {ENGLISH}"
        )
    return [ids[0] for ids in numbers], _of_pairs(tokenizer, nouns, [ids[0] for ids in numbers], years, draw)


def _split_years(tokenizer: PreTrainedTokenizerBase, numbers: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Years of two tokens, XX and YY, without the first and the last of each century, as Hanna et al. choose them."""
    kept = []
    for century in CENTURIES:
        whole = [y for y in range(2, 99) if encode(tokenizer, f" {century}{y:02}") == (*encode(tokenizer, f" {century}"), *numbers[y])]
        kept += [(century, y) for y in whole[1:-1] if len(encode(tokenizer, f" {century}")) == 1]
    return kept


def _of_pairs(
    tokenizer: PreTrainedTokenizerBase, nouns: list[str], numbers: list[int], years: list[tuple[int, int]], draw: random.Random
) -> Iterator[Prompt]:
    while True:
        noun, (century, year) = draw.choice(nouns), draw.choice(years)
        clean, spans = filled(tokenizer, TEMPLATE, {"NOUN": noun, "YEAR": f"{century}{year:02}", "CENTURY": str(century)})
        at = spans["YEAR"]
        corrupt = (*clean[:at], numbers[1], *clean[at + 1 :])
        places = {"NOUN": spans["NOUN"], "XX": at - 1, "YY": at}
        yield Prompt(clean, corrupt, numbers[year + 1], tuple(numbers[: year + 1]), places, layout=tuple(places.values()))


def _of_digits(tokenizer: PreTrainedTokenizerBase, nouns: list[str], digits: list[int], draw: random.Random) -> Iterator[Prompt]:
    """Without years that end in 9: after their first digit no digit is right."""
    while True:
        noun, century = draw.choice(nouns), draw.choice(CENTURIES)
        a, b = divmod(draw.choice([year for year in range(2, 99) if year % 10 < 9]), 10)
        clean, spans = filled(tokenizer, TEMPLATE, {"NOUN": noun, "YEAR": f"{century}{a}{b}", "CENTURY": f"{century}{a}"})
        at = spans["YEAR"]
        corrupt = (*clean[: at - 1], digits[0], digits[1], *clean[at + 1 :])
        places = {"NOUN": spans["NOUN"], "XX": at - 2, "Y1": at - 1, "Y2": at}
        yield Prompt(clean, corrupt, digits[b + 1], tuple(digits[: b + 1]), places, layout=tuple(places.values()), n_read=2)
