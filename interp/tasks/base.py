"""What a task offers: pairs of prompts that differ in one respect, and a metric that prefers the clean one.

Prompts of several lengths lie in one tensor, padded on the right. In a causal model no position sees what comes after it, so nothing up
to `end` can tell the padding is there, and pairs of different templates share one batch; grouping by length would need a batch each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean and corrupt prompts, token by token of one length, with the answer after the clean one and a wrong answer."""

    clean: Int[Tensor, "pair pos"]
    corrupt: Int[Tensor, "pair pos"]
    answer: Int[Tensor, " pair"]
    wrong: Int[Tensor, "pair other"]
    """Wrong answers; where one pair has fewer than another it repeats its last."""
    read: Int[Tensor, "pair read"]
    """Positions whose logits the metric is given; the last one is the prompt's last token."""
    group: Int[Tensor, " pair"]
    """Pairs of one group have the same words at the same positions, so their activations may be averaged position by position."""
    spans: Mapping[str, Int[Tensor, " pair"]]
    """Positions by name."""
    target: Float[Tensor, "pair read vocab"] | None = None
    """What the whole model says at `read`, for a metric that holds a circuit against the model."""
    numbers: Int[Tensor, "pair number"] | None = None
    """Tokens of numbers in their order, for a metric that compares them; the same for all pairs."""

    def __post_init__(self) -> None:
        assert self.clean.shape == self.corrupt.shape, f"clean {self.clean.shape} and corrupt {self.corrupt.shape} differ in shape"
        assert bool((self.first_difference() <= self.end).all()), "a corrupt prompt equals its clean one"
        assert bool((self.answer[:, None] != self.wrong).all()), "an answer is also the wrong answer"

    def __len__(self) -> int:
        return self.clean.shape[0]

    @property
    def end(self) -> Int[Tensor, " pair"]:
        """The last token of each prompt."""
        return self.read[:, -1]

    def real(self) -> Bool[Tensor, "pair pos"]:
        """True up to `end`, False on the padding."""
        return torch.arange(self.clean.shape[1], device=self.end.device) <= self.end[:, None]

    def first_difference(self) -> Int[Tensor, " pair"]:
        """The first position where clean and corrupt differ; the width of the tensor when they do not."""
        differs = (self.clean != self.corrupt) & self.real()
        return torch.where(differs.any(1), differs.int().argmax(1), self.clean.shape[1])

    def rows(self, which: slice | Sequence[int]) -> "Pairs":
        """Some of the pairs."""
        return self._each(lambda tensor: tensor[which])

    def to(self, device: torch.device) -> "Pairs":
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Pairs":
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "spans"}
        changed = {name: None if tensor is None else change(tensor) for name, tensor in tensors.items()}
        return replace(self, **changed, spans={name: change(positions) for name, positions in self.spans.items()})


@runtime_checkable
class Task(Protocol):
    """A behaviour of a model that a metric measures; a frozen dataclass with its options as fields."""

    NAME: ClassVar[str]
    ABOUT: ClassVar[str]
    """A sentence for a reader who meets the task for the first time."""
    METRIC: ClassVar[tuple[str, str]]
    """Name and unit of the metric."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n pairs, `bos` in front when there is one; raises InputError when the tokenizer does not suit the task."""
        ...

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """A number per example from the logits at `pairs.read`; larger when the model answers as the clean prompt asks."""
        ...


def logit_difference(logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
    """Logit of the answer minus the largest logit of a wrong answer, after the last token; float32 at least."""
    pair = torch.arange(len(pairs), device=logits.device)
    right, wrong = logits[..., pair, -1, pairs.answer], logits[..., pair[:, None], -1, pairs.wrong].amax(-1)
    return (right - wrong) if logits.dtype == torch.float64 else right.float() - wrong.float()
