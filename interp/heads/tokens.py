"""Which tokens the head scores are measured on: random ordinary tokens, each sequence repeated once."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.models import Model
from interp.text.synthetic import repeated_tokens
from saes.errors import InputError


def first_token(model: Model) -> int | None:
    """The model's BOS where it has an embedding: some tokenizers know one that the model was never given."""
    return None if model.bos is None or model.bos >= model.d_vocab else model.bos


def ordinary_ids(model: Model) -> Int[Tensor, " n"]:
    """Ids that stand for text: in the vocabulary and in the tokenizer, neither special nor added."""
    special = {*model.tokenizer.all_special_ids, *model.tokenizer.added_tokens_decoder}
    return torch.tensor([i for i in range(min(model.d_vocab, len(model.tokenizer))) if i not in special], dtype=torch.long)


def repeated(model: Model, n_seq: int, half: int, seed: int) -> Int[Tensor, "n_seq pos"]:
    """BOS if the model has one, `half` random tokens, the same again; raises InputError when that is more than the model takes.

    Tokens are drawn with replacement. In a vocabulary of 49,152 one half of 50 in forty holds a token twice; in a small one more do,
    and the scores that ask for *the* earlier copy are then a lower bound.
    """
    bos = first_token(model)
    length = 2 * half + (bos is not None)
    if length > model.n_ctx:
        raise InputError(f"--half {half} makes sequences of {length} tokens and {model.name} takes {model.n_ctx}; choose a smaller --half")
    return torch.from_numpy(repeated_tokens(n_seq, half, ordinary_ids(model).numpy().astype(np.int32), seed, bos)).long()


def sampled(model: Model, n: int, seed: int) -> Int[Tensor, " n"]:
    """`n` distinct ordinary ids, all of them where the vocabulary has fewer."""
    ids = ordinary_ids(model)
    return ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:n]]
