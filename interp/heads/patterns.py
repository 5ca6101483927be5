"""Attention patterns of a few short examples, stored so that the app can draw any head without a model.

The examples show what heads are known for: plain prose, an indirect object, repeated names, a list, code, and repeated random tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float16, Int32
from torch import Tensor

from interp.heads.reduce import reduced
from interp.heads.tokens import first_token
from interp.models import Model
from interp.sites import Site
from saes.errors import InputError

MAX_LENGTH = 48
TEXTS = (
    ("Prose", "The lighthouse keeper counted the ships that passed before the storm, and wrote each name into a book with a blue cover."),
    ("Indirect object", "When Laura and Peter went to the station, Peter gave a ticket to Laura"),
    ("Three names", "Anna met Robert and Helen at the lake. Robert brought bread, Helen brought cheese, and Anna brought nothing."),
    ("List", "Monday: soup. Tuesday: rice. Wednesday: soup. Thursday: rice. Friday: soup. Saturday:"),
    ("Code", "def area(width, height):\n    return width * height\n\ndef volume(width, height, depth):\n    return area(width,"),
)
REPEATED = "Repeated random tokens"


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts of at most 48 tokens and the pattern of every head on each; 0 where an example has ended."""

    titles: tuple[str, ...]
    tokens: Int32[Tensor, "example pos"]
    lengths: Int32[Tensor, " example"]
    patterns: Float16[Tensor, "example layer head pos pos"]


def examples(model: Model, repeated: Sequence[int]) -> Examples:
    """Run the example texts, and the given repeated sequence after them; raises InputError when not one has two tokens."""
    found = [(title, tokenised(model, text)) for title, text in TEXTS] + [(REPEATED, list(repeated)[: longest(model)])]
    found = [(title, ids) for title, ids in found if len(ids) > 1]
    if not found:
        raise InputError(f"the tokenizer of {model.name} gives no tokens for the example texts; name a model with a text tokenizer")
    length = max(len(ids) for _, ids in found)
    tokens = torch.zeros(len(found), length, dtype=torch.int32)
    patterns = torch.zeros(len(found), model.n_layers, model.n_heads, length, length, dtype=torch.float16)
    for i, (_, ids) in enumerate(found):
        n = len(ids)
        tokens[i, :n] = torch.tensor(ids)
        patterns[i, :, :, :n, :n] = all_patterns(model, ids)
    lengths = torch.tensor([len(ids) for _, ids in found], dtype=torch.int32)
    return Examples(tuple(title for title, _ in found), tokens, lengths, patterns)


def all_patterns(model: Model, ids: Sequence[int]) -> Float16[Tensor, "layer head pos pos"]:
    """The pattern of every head on one sequence, rounded to float16 layer by layer."""
    sites = [Site(layer, "pattern") for layer in range(model.n_layers)]
    tokens = torch.tensor([list(ids)])
    return torch.stack(reduced(model, sites, lambda pattern: pattern[0].to(torch.float16).cpu(), lambda: model(tokens)))


def tokenised(model: Model, text: str) -> list[int]:
    """BOS, where the model has one, and the text, cut to what is stored."""
    bos = first_token(model)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*([] if bos is None else [bos]), *ids][: longest(model)]


def longest(model: Model) -> int:
    return min(MAX_LENGTH, model.n_ctx)
