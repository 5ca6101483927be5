"""Divergence from the whole model as the metric of a circuit: minus KL(model || circuit), in nats, mean over the positions read.

Its slope at the clean prompts is zero, so first-order scores there are zero too (`interp.circuits.pullback` says so).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.models.bridge import Model
from interp.tasks.base import Pairs, Task

# Prompts of one forward.
ROWS = 64


@dataclass(frozen=True)
class Kl:
    """Minus the divergence of a circuit's output from `pairs.target`."""

    NAME: ClassVar[str] = "kl"
    ABOUT: ClassVar[str] = "What the whole model says on the prompts of another task."
    METRIC: ClassVar[tuple[str, str]] = ("− KL divergence from the model", "nats")

    task: Task
    """Whose prompts they are."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Those of the task; `targeted` gives them what the model says."""
        return self.task.pairs(tokenizer, n, seed, bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """-sum p (log p - log q), p the whole model."""
        assert pairs.target is not None, "pairs without targets: call Kl.targeted"
        wide = logits if logits.dtype == torch.float64 else logits.float()
        target = pairs.target.to(wide)
        return -(target.exp() * (target - wide.log_softmax(-1))).sum(-1).mean(-1)

    @staticmethod
    def targeted(model: Model, pairs: Pairs) -> Pairs:
        """The pairs with the log-probabilities of the whole model at the positions that are read."""
        found = []
        for first in range(0, len(pairs), ROWS):
            some = pairs.rows(slice(first, first + ROWS))
            with torch.no_grad():
                logits = model(some.clean)[torch.arange(len(some), device=some.read.device)[:, None], some.read]
            found.append((logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1))
        return replace(pairs, target=torch.cat(found))
