"""The task that comes with a trained model: answer as its program does.

The metric is the margin, the logit of the answer minus the largest other logit, the same that a certificate measures.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.models.trained import Program
from interp.tasks.base import Pairs, logit_difference
from saes.errors import InputError


@dataclass(frozen=True)
class TrainedTask:
    """Prompts of a program; the corrupt prompt is another one, with another answer."""

    NAME: ClassVar[str] = "trained"
    ABOUT: ClassVar[str] = "The answers of a program that a small model was trained to be."
    METRIC: ClassVar[tuple[str, str]] = ("margin of the answer", "logits")

    program: Program

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n pairs; raises InputError for another model's tokenizer or a prompt without BOS."""
        words = self.program.words
        if tokenizer.get_vocab() != {word: i for i, word in enumerate(words)} or bos != words.index("BOS"):
            raise InputError(
                f"prompts of trained/{self.program.name} need its own tokenizer with BOS in front; pass those of trained(...).model()"
            )
        rng = torch.Generator().manual_seed(seed)
        clean, corrupt = self.program.draw(n, rng), self.program.draw(n, rng)
        answers = self.program.answers(clean)
        while bool((same := answers == self.program.answers(corrupt)).any()):
            corrupt[same] = self.program.draw(int(same.sum()), rng)
        read = torch.full((n, 1), clean.shape[1] - 1)
        return Pairs(
            clean=clean,
            corrupt=corrupt,
            answer=answers,
            wrong=torch.tensor([[i for i in range(len(words)) if i != answer] for answer in answers.tolist()]),
            read=read,
            group=torch.zeros(n, dtype=torch.long),
            spans={"end": read[:, 0]},
        )

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """The margin."""
        return logit_difference(logits, pairs)
