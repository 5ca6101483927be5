"""What tasks build their pairs from: words that are one token, templates with named slots, prompts that are drawn once."""

import string
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs
from saes.errors import InputError

ENGLISH = "choose a model trained on English text, for example --model smollm2"


@dataclass(frozen=True)
class Prompt:
    """One pair of prompts as tokens, without BOS."""

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answer: int
    wrong: tuple[int, ...]
    spans: Mapping[str, int]
    """Positions by name; `end` is added to them."""
    layout: Hashable
    """Prompts of one layout have the same words at the same positions."""
    n_read: int = 1
    """How many of the last positions the metric reads."""


def assembled(prompts: Sequence[Prompt], bos: int | None) -> Pairs:
    """Prompts in one tensor, `bos` in front when there is one, the last clean token repeated behind the shorter ones.

    Spans that not every prompt has are left out.
    """
    front = () if bos is None else (bos,)
    clean = [(*front, *prompt.clean) for prompt in prompts]
    corrupt = [(*front, *prompt.corrupt) for prompt in prompts]
    ends = torch.tensor([len(ids) - 1 for ids in clean])
    n_read = prompts[0].n_read
    named = [name for name in prompts[0].spans if all(name in prompt.spans for prompt in prompts)]
    number = {layout: i for i, layout in enumerate(dict.fromkeys(prompt.layout for prompt in prompts))}
    others = max(len(prompt.wrong) for prompt in prompts)
    return Pairs(
        clean=_padded(clean, clean),
        corrupt=_padded(corrupt, clean),
        answer=torch.tensor([prompt.answer for prompt in prompts]),
        wrong=torch.tensor([[*p.wrong, *[p.wrong[-1]] * (others - len(p.wrong))] for p in prompts]),
        read=ends[:, None] + torch.arange(1 - n_read, 1),
        group=torch.tensor([number[prompt.layout] for prompt in prompts]),
        spans={name: torch.tensor([p.spans[name] + len(front) for p in prompts]) for name in named} | {"end": ends},
    )


def _padded(prompts: Sequence[Sequence[int]], clean: Sequence[Sequence[int]]) -> Int[Tensor, "pair pos"]:
    """Prompts in one tensor, the last token of the clean ones repeated behind them."""
    width = max(map(len, prompts))
    return torch.tensor([[*ids, *[own[-1]] * (width - len(ids))] for ids, own in zip(prompts, clean, strict=True)])


def distinct(draws: Iterator[Prompt], n: int, task: str) -> list[Prompt]:
    """The first n draws with different clean prompts; raises InputError when there are not that many."""
    found: dict[tuple[int, ...], Prompt] = {}
    misses = 0
    while len(found) < n:
        prompt = next(draws)
        misses = misses + 1 if prompt.clean in found else 0
        found.setdefault(prompt.clean, prompt)
        # With one of m prompts unseen, missing it 50 m times in a row has a chance of exp(-50).
        if misses > 50 * (len(found) + 1):
            raise InputError(f"task {task} has {len(found)} different prompts under this tokenizer and {n} were asked for; ask for fewer")
    return list(found.values())


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Tokens of a text, none added."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def after_word(tokenizer: PreTrainedTokenizerBase, word: str) -> tuple[int, ...]:
    """Tokens of a word behind another: a tokenizer may treat the beginning of a text in its own way."""
    return encode(tokenizer, f"and {word}")[len(encode(tokenizer, "and")) :]


def single(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> dict[str, int]:
    """The words that are one token after a blank, with that token."""
    tokens = {word: after_word(tokenizer, word) for word in words}
    return {word: ids[0] for word, ids in tokens.items() if len(ids) == 1}


def required(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], least: int, what: str, task: str) -> dict[str, int]:
    """`single`; raises InputError when fewer than `least` are left."""
    kept = single(tokenizer, words)
    if len(kept) < least:
        raise InputError(f"the tokenizer has {len(kept)} of {len(words)} {what} as single tokens and task {task} needs {least}; {ENGLISH}")
    return kept


def filled(tokenizer: PreTrainedTokenizerBase, template: str, words: Mapping[str, str]) -> tuple[tuple[int, ...], dict[str, int]]:
    """Tokens of a template with words in its slots, and the position of the last token of each slot."""
    ids, spans, text = encode(tokenizer, template.format(**words)), {}, ""
    for before, slot, _, _ in string.Formatter().parse(template):
        text += before
        if slot is not None:
            text += words[slot]
            spans[slot] = last_token(tokenizer, ids, text)
    return ids, spans


def last_token(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], beginning: str) -> int:
    """Position of the last token of the beginning of a text; raises InputError when the tokenizer joins it with what follows."""
    part = encode(tokenizer, beginning)
    if not part or ids[: len(part)] != part:
        raise InputError(f"the tokenizer has no token that ends where {beginning[-30:]!r} does, so no span can point at it; {ENGLISH}")
    return len(part) - 1
