"""Small language models with random weights, written as transformers writes them and booted like every other model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.models import Model, load_anew
from saes.errors import InputError


@dataclass(frozen=True)
class Sizes:
    """A GPT-Neo with global attention: learned positions, LayerNorm, GELU, and query, key and value weights of their own."""

    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 64
    d_mlp: int = 256

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.d_mlp) < 1 or self.d_model % self.n_heads:
            raise InputError(f"{self} is no model: sizes are positive, and heads divide d_model")


def write_random(folder: Path, sizes: Sizes, tokenizer: Any, n_ctx: int, seed: int) -> None:
    """A folder with random weights and the tokenizer, the same for the same seed."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    bos = tokenizer.bos_token_id
    config = GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=sizes.d_model, num_layers=sizes.n_layers, num_heads=sizes.n_heads,
        attention_types=[[["global"], sizes.n_layers]], intermediate_size=sizes.d_mlp, max_position_embeddings=n_ctx,
        bos_token_id=bos, eos_token_id=bos,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GPTNeoForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_model(folder: Path, sizes: Sizes, tokenizer: Any, n_ctx: int, seed: int) -> Model:
    """Write the folder and load it, to be trained."""
    write_random(folder, sizes, tokenizer, n_ctx, seed)
    return load_anew(str(folder))


def rerandomised(model: Model, folder: Path, seed: int) -> Model:
    """A model of the same form and tokenizer with random weights, written to the folder."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(model.bridge.original_model.config).save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return load_anew(str(folder), str(model.device))
