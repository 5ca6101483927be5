"""A task from a file of prompts: readers.py says how they are written.

A pair is used when clean and corrupt have one length in tokens and every answer is one token; the others are dropped and counted. An answer
that begins with a letter, after a prompt that ends in a letter, gets the blank between them.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.prompts import Prompt, assembled, encode, last_token
from interp.tasks.readers import SUFFIXES, Answer, RelationRows, Row, read_pairs
from interp.tasks.relation import asked, paired, partners
from saes.errors import InputError

FileCorruption = Literal["file", "hard"]
LENGTH = "clean and corrupt have different lengths in tokens"
ANSWER = "an answer is not one token"
EQUAL = "clean and corrupt are equal"
SAME_ANSWER = "the right answer is also a wrong one"
REPEATED = "the pair was there already"
ALONE = "no other subject has the same length and another answer"


@dataclass(frozen=True)
class TaskFile:
    """Prompts from a file."""

    NAME: ClassVar[str] = "task_file"
    ABOUT: ClassVar[str] = "Prompts of a file."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "file": "the corrupt prompt that the file gives",
        "hard": "the hard corrupt prompt that the file gives",
    }

    path: str
    """A .jsonl, .json or .csv file."""
    corruption: FileCorruption = "file"
    """Which corrupt prompts are taken. file: those of the field corrupt. hard: those of the field corrupted_hard."""

    def __post_init__(self) -> None:
        if Path(self.path).suffix not in SUFFIXES:
            raise InputError(f"{self.path} is no file of prompts; give one that ends in {', '.join(SUFFIXES)}")

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Choose n pairs, of the commonest lengths; raises InputError when the file has fewer that this tokenizer can carry."""
        prompts, dropped = self.usable(tokenizer)
        if len(prompts) < n:
            why = f" ({said(dropped)} dropped)" if dropped else ""
            raise InputError(f"{self.path} has {len(prompts)} pairs for this tokenizer{why} and {n} were asked for; ask for fewer")
        draw = random.Random(seed)
        return assembled(draw.sample(_common(prompts, n), n), bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit of the right answer minus the largest logit of a wrong one."""
        return logit_difference(logits, pairs)

    def dropped(self, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int]:
        """How many pairs of the file are left out, by reason."""
        return self.usable(tokenizer)[1]

    def usable(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Prompt], Counter[str]]:
        """The pairs in the order of the file, and how many were dropped for which reason."""
        rows = read_pairs(Path(self.path), hard=self.corruption == "hard")
        found = _of_relation(tokenizer, rows) if isinstance(rows, RelationRows) else [_prompt(tokenizer, row) for row in rows]
        kept: dict[tuple[object, ...], Prompt] = {}
        dropped: Counter[str] = Counter()
        for one in found:
            key = one if isinstance(one, str) else (one.clean, one.corrupt, one.answer, one.wrong)
            if isinstance(one, str) or key in kept:
                dropped[one if isinstance(one, str) else REPEATED] += 1
            else:
                kept[(one.clean, one.corrupt, one.answer, one.wrong)] = one
        return list(kept.values()), dropped

    def sha256(self) -> str:
        """Of the file's bytes: a run of a changed file is another run."""
        try:
            return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}); give a {', '.join(SUFFIXES)} file") from None


def said(dropped: Mapping[str, int]) -> str:
    """The counts as a text."""
    return ", ".join(f"{count} because {why}" for why, count in dropped.items())


def _common(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    """Pairs of the commonest layouts, as many as n need: a rare length has too few prompts to average over."""
    layouts = Counter(prompt.layout for prompt in prompts)
    kept, total = set(), 0
    for layout, count in layouts.most_common():
        if total < n:
            kept.add(layout)
            total += count
    return [prompt for prompt in prompts if prompt.layout in kept]


def _prompt(tokenizer: PreTrainedTokenizerBase, row: Row) -> Prompt | str:
    """The pair in tokens, or why it is dropped."""
    clean, corrupt = encode(tokenizer, row.clean), encode(tokenizer, row.corrupt)
    answers = [_token(tokenizer, row, clean, answer) for answer in (row.right, *row.wrong)]
    right, *wrong = answers
    if len(clean) != len(corrupt):
        return LENGTH
    if clean == corrupt:
        return EQUAL
    if right is None or None in wrong:
        return ANSWER
    if right in wrong:
        return SAME_ANSWER
    spans = {name: _position(tokenizer, row, clean, where) for name, where in row.spans.items()}
    return Prompt(clean, corrupt, right, tuple(token for token in wrong if token is not None), spans, layout=len(clean))


def _token(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: tuple[int, ...], answer: Answer) -> int | None:
    """The one token of an answer behind its prompt; None when it is several."""
    if isinstance(answer, int):
        if not 0 <= answer < len(tokenizer):
            raise InputError(
                f"{row.place} has the token {answer}, and the vocabulary ends at {len(tokenizer) - 1}; write the answer as text"
            )
        return answer
    blank = " " if row.clean[-1:].isalpha() and answer[:1].isalpha() else ""
    together = encode(tokenizer, row.clean + blank + answer)
    return together[-1] if together[:-1] == prompt else None


def _position(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: tuple[int, ...], where: Answer) -> int:
    """The last token of a piece of the clean prompt, or a position as it is given."""
    if isinstance(where, int):
        if not 0 <= where < len(prompt):
            raise InputError(f"{row.place} has a span at token {where}, and its clean prompt has tokens 0 to {len(prompt) - 1}")
        return where
    before, piece, _ = row.clean.partition(where)
    if not piece:
        raise InputError(
            f"{row.place} has the span {where!r}, which its clean prompt does not hold; write a piece of it as it stands there"
        )
    return last_token(tokenizer, prompt, before + piece)


def _of_relation(tokenizer: PreTrainedTokenizerBase, rows: RelationRows) -> list[Prompt | str]:
    """Every fact in every sentence, corrupted by the next subject that fits."""
    found: list[Prompt | str] = []
    for template in rows.templates:
        questions = asked(tokenizer, template, rows.facts)
        found += [ANSWER] * (len(rows.facts) - len(questions))
        for i, question in enumerate(questions):
            others = partners(question, questions[i + 1 :] + questions[:i])
            found.append(paired(question, others[0]) if others else ALONE)
    return found
