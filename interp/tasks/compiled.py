"""The task that comes with a compiled model: give the outputs that the program gives.

The right answer is known for every input, so the metric needs no wrong one: it is minus the squared distance between the run's logits and
the program's outputs, 0 for the whole model (up to the leak of attention, 1e-20) and negative for anything else. Prompts are the inputs
of one length, with nothing behind them, so a bidirectional model sees no padding.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.models.compiled import Compiled
from interp.tasks.base import Pairs
from saes.errors import InputError


@dataclass(frozen=True)
class CompiledTask:
    """All inputs of one length, or a draw of them; the corrupt prompt is another input of that length."""

    NAME: ClassVar[str] = "compiled"
    ABOUT: ClassVar[str] = "The outputs of a compiled program."
    METRIC: ClassVar[tuple[str, str]] = ("squared distance to the program's outputs, negated", "squared logits")

    compiled: Compiled
    length: int
    """Tokens behind BOS."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """n different inputs, or all when there are fewer; raises InputError for another model's tokenizer or a prompt without BOS."""
        words = self.compiled.words
        if tokenizer.get_vocab() != {word: i for i, word in enumerate(words)} or bos != words.index("BOS"):
            raise InputError(f"the pairs of {self.compiled.name} need its own tokenizer with BOS in front; pass those of compiled.model()")
        inputs = self.compiled.inputs(self.length)
        if len(inputs) < 2:
            raise InputError(f"{self.compiled.name} has {len(inputs)} input of length {self.length}; choose a length with two or more")
        rng = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(inputs), generator=rng)[:n]
        others = (rows + torch.randint(1, len(inputs), rows.shape, generator=rng)) % len(inputs)
        read = self.compiled.read(self.length).expand(len(rows), -1)
        answer = self._answer(inputs[rows])
        return Pairs(
            clean=inputs[rows],
            corrupt=inputs[others],
            answer=answer,
            wrong=torch.tensor([[i for i in range(len(words)) if i != right] for right in answer.tolist()]),
            read=read,
            group=torch.zeros(len(rows), dtype=torch.long),
            spans={"end": read[:, -1]},
        )

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Minus the squared distance to the program's outputs, mean over the positions read; 0 is best."""
        target = self.compiled.target(pairs.clean.cpu())[torch.arange(len(pairs))[:, None], pairs.read.cpu()]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return -(wide - target.to(wide)).square().sum(-1).mean(-1)

    def _answer(self, tokens: Int[Tensor, "pair pos"]) -> Int[Tensor, " pair"]:
        """The word with the largest output at the last position; of a program with a number as output, that number's word."""
        last = self.compiled.target(tokens)[:, -1]
        number = "number" in self.compiled.words
        return torch.full((len(tokens),), self.compiled.words.index("number")) if number else last.argmax(-1)
