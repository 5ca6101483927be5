"""Shared fixtures: third-party models beside the checkout, and tiny random models of two architectures with a real tokenizer."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXT = [
    "The keeper of the lighthouse counted the ships that passed before the storm.",
    "When the river rose, the farmers carried their grain to the hill above the town.",
    "A small fox ran over the frozen lake; nobody saw it but the old dog.",
    "Numbers such as 12, 345 and 6789 are split into digits, and names like Mary or John are not.",
] * 8


def shared(path: str) -> Path:
    """A path below ../shared; the test is skipped by name without it."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs {SHARED / path}")
    return SHARED / path


def _tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|bos|>", "<|eos|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>").save_pretrained(folder)
    return tokenizer.get_vocab_size()


def make_llama(folder: Path, layers: int = 3) -> Path:
    """A random Llama with grouped queries (4 query heads, 2 key-value heads) in a local folder, as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab = _tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_gpt2(folder: Path, layers: int = 3) -> Path:
    """A random GPT-2 in a local folder, as transformers saves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab = _tokenizer(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab, n_embd=32, n_layer=layers, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1, initializer_range=0.2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def make_neox(folder: Path, layers: int = 3) -> Path:
    """A random GPT-NeoX: attention and MLP read the same stream, and a quarter of each head rotates."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    vocab = _tokenizer(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neox(tmp_path_factory.mktemp("tiny-neox"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gpt2(tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of four documents, repeated with numbers so that no two are equal."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(f"{i}. {text}" for i, text in enumerate(TEXT * 8)))
    return path
