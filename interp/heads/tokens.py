"""Which tokens the head scores are measured on: random ordinary tokens, each sequence repeated once."""

import torch
from jaxtyping import Int
from torch import Tensor

from interp.models import Model
from saes.errors import InputError


def ordinary_ids(model: Model) -> Int[Tensor, " n"]:
    """Ids that stand for text: in the vocabulary and in the tokenizer, neither special nor added."""
    special = {*model.tokenizer.all_special_ids, *model.tokenizer.added_tokens_decoder}
    return torch.tensor([i for i in range(min(model.d_vocab, len(model.tokenizer))) if i not in special])


def repeated_sequences(n_seq: int, half: int, ids: Int[Tensor, " n"], seed: int, bos: int | None) -> Int[Tensor, "n_seq pos"]:
    """BOS if there is one, `half` distinct random tokens, the same again: every token has exactly one copy."""
    if half > len(ids):
        raise InputError(f"{half} distinct tokens were asked for and the vocabulary has {len(ids)} ordinary ones; choose a smaller --half")
    generator = torch.Generator().manual_seed(seed)
    halves = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:half]] for _ in range(n_seq)])
    start = torch.full((n_seq, 0 if bos is None else 1), bos or 0)
    return torch.cat([start, halves, halves], dim=1)
