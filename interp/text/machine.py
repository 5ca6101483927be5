"""TokFSM: walks through a random finite state machine, written in digits (codebook features, arXiv 2310.17230, section 3).

Each of N states leads to its out-neighbours with equal chance; state i is written as two digits; a sequence is BOS and the states of one
walk. Everything about it is known: which transitions exist, where the walk is, and the least loss that a model can have.

It makes token ids and no text, so it stands beside the corpora and is no member of `Corpus`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from saes.errors import InputError

BOS = 10


@dataclass(frozen=True)
class Machine:
    """A machine whose states are numbers of two digits."""

    n_states: int = 100
    out: int = 10
    """Out-neighbours of each state, entered with equal chance."""
    length: int = 16
    """States of a walk."""
    seed: int = 0
    """Seed of the graph."""

    def __post_init__(self) -> None:
        if not 2 <= self.n_states <= 100 or not 1 <= self.out <= self.n_states or self.length < 2:
            raise InputError(
                f"a machine has 2 to 100 states, 1 to as many out-neighbours, and walks of 2 states or more; "
                f"given {self.n_states}, {self.out} and {self.length}"
            )

    @property
    def n_tokens(self) -> int:
        """Tokens of a sequence: BOS and two digits a state."""
        return 1 + 2 * self.length

    @cached_property
    def edges(self) -> Int[Tensor, "state out"]:
        """The out-neighbours of each state."""
        rng = torch.Generator().manual_seed(self.seed)
        return torch.stack([torch.randperm(self.n_states, generator=rng)[: self.out] for _ in range(self.n_states)])

    @cached_property
    def allowed(self) -> Bool[Tensor, "state state"]:
        """Which state may follow which."""
        return torch.zeros(self.n_states, self.n_states, dtype=torch.bool).scatter_(1, self.edges, True)

    @property
    def floor(self) -> float:
        """The least mean loss a predicted token, in nats: the first state is uniform, each of the others one of `out`.

        Entropy of a walk = ln N + (length - 1) ln out, over 2 length predicted digits.
        """
        return (math.log(self.n_states) + (self.length - 1) * math.log(self.out)) / (2 * self.length)

    def walks(self, n: int, seed: int) -> Int[Tensor, "walk length"]:
        """The states of n walks."""
        rng = torch.Generator().manual_seed(seed)
        states = [torch.randint(self.n_states, (n,), generator=rng)]
        for _ in range(self.length - 1):
            states.append(self.edges[states[-1], torch.randint(self.out, (n,), generator=rng)])
        return torch.stack(states, 1)

    def tokens(self, walks: Int[Tensor, "walk length"]) -> Int[Tensor, "walk pos"]:
        """BOS and the digits of the states: state i of a walk ends at position 2 i + 2."""
        digits = torch.stack([walks // 10, walks % 10], 2).flatten(1)
        return torch.cat([torch.full((len(walks), 1), BOS), digits], 1)

    def first_digit(self) -> Float[Tensor, "state digit"]:
        """The distribution of the digit that follows each state."""
        share = torch.zeros(self.n_states, 10)
        return share.scatter_add_(1, self.edges // 10, torch.full(self.edges.shape, 1 / self.out))

    @staticmethod
    def tokenizer() -> PreTrainedTokenizerFast:
        """One token for each digit, and BOS."""
        tokenizer = Tokenizer(models.WordLevel({**{str(i): i for i in range(10)}, "BOS": BOS}, unk_token="BOS"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="BOS", unk_token="BOS")
