"""The copying score against dense float64 matrices read from the weight files, and models whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_llama
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from interp import models
from interp.heads.copying import TOP, copy_hits, copying, embedded, folded_unembedding, in_top, wilson, writes
from interp.heads.tokens import ordinary_ids, sampled
from interp.hooks import record
from interp.sites import Site

GROUP = 2  # query heads that share a key-value head in tiny_llama


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def literal_llama_writes(folder: Path, layer: int, resid: torch.Tensor, head: int) -> torch.Tensor:
    w, resid = weights(folder), resid.double()
    prefix, d_head = f"model.layers.{layer}", 8
    normed = resid / (resid.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{prefix}.input_layernorm.weight"]
    kv = head // GROUP
    value = normed @ w[f"{prefix}.self_attn.v_proj.weight"][kv * d_head : (kv + 1) * d_head].T
    return value @ w[f"{prefix}.self_attn.o_proj.weight"][:, head * d_head : (head + 1) * d_head].T


def literal_gpt2_writes(folder: Path, layer: int, resid: torch.Tensor, head: int) -> torch.Tensor:
    w, resid = weights(folder), resid.double()
    prefix, d_head, d_model = f"transformer.h.{layer}", 8, 32
    centred = resid - resid.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{prefix}.ln_1.weight"] + w[f"{prefix}.ln_1.bias"]
    columns = slice(2 * d_model + head * d_head, 2 * d_model + (head + 1) * d_head)
    value = normed @ w[f"{prefix}.attn.c_attn.weight"][:, columns] + w[f"{prefix}.attn.c_attn.bias"][columns]
    return value @ w[f"{prefix}.attn.c_proj.weight"][head * d_head : (head + 1) * d_head]


@pytest.fixture(scope="module")
def rough_gpt2(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_gpt2 with random gains and biases, which a fresh model has at 1 and 0."""
    folder = tmp_path_factory.mktemp("rough-gpt2")
    for file in tiny_gpt2.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensors[name] = tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_what_a_grouped_query_head_writes_equals_the_dense_circuit_in_float64(tiny_llama: Path):
    model = models.load(str(tiny_llama))
    resid = torch.randn(7, model.d_model, generator=torch.Generator().manual_seed(1))
    for layer in range(model.n_layers):
        found = writes(model, layer, resid)
        for head in range(model.n_heads):
            torch.testing.assert_close(found[:, head].double(), literal_llama_writes(tiny_llama, layer, resid, head), rtol=1e-4, atol=1e-5)
    assert model.hook_count() == 0


def test_what_a_head_writes_includes_the_value_bias_and_the_centred_norm(rough_gpt2: Path):
    model = models.load(str(rough_gpt2))
    resid = torch.randn(7, model.d_model, generator=torch.Generator().manual_seed(1))
    for head in range(model.n_heads):
        expected = literal_gpt2_writes(rough_gpt2, 2, resid, head)
        torch.testing.assert_close(writes(model, 2, resid)[:, head].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_folded_unembedding_is_gain_and_centring_times_w_u_up_to_one_factor(rough_gpt2: Path):
    w = weights(rough_gpt2)
    centring = torch.eye(32, dtype=torch.float64) - 1 / 32
    expected = centring @ (w["transformer.ln_f.weight"][:, None] * w["transformer.wte.weight"].T)
    found = folded_unembedding(models.load(str(rough_gpt2))).double()
    factor = (found * expected).sum() / expected.pow(2).sum()
    assert factor > 0
    torch.testing.assert_close(found / factor, expected, rtol=1e-4, atol=1e-5)


def test_the_hits_of_a_model_equal_the_ranks_by_full_sorting_in_float64(tiny_llama: Path):
    model = models.load(str(tiny_llama))
    tokens = sampled(model, 200, 2)
    w = weights(tiny_llama)
    unembedding = w["model.norm.weight"][:, None] * w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    found = list(copy_hits(model, tokens))
    pairs = torch.stack([torch.full_like(tokens, 0), tokens], 1)
    for layer in (0, 2):
        site = Site(0, "resid_post" if layer else "resid_pre")
        resid = record(model, pairs, [site])[site][:, 1]
        for head in range(model.n_heads):
            order = (literal_llama_writes(tiny_llama, layer, resid, head) @ unembedding).argsort(-1, descending=True)[:, :TOP]
            for row, targets in enumerate((tokens, tokens.roll(1))):
                assert found[layer][row, head].tolist() == (order == targets[:, None]).any(-1).tolist()
    assert torch.stack(found).any(), "a test in which no token is ever hit would say nothing"
    assert model.hook_count() == 0


@given(n=st.integers(2, 20), k=st.integers(1, 5), seed=st.integers(0, 1000))
def test_the_sieves_never_change_what_is_in_the_top(n: int, k: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    unembedding = torch.randn(6, 40, generator=generator)
    targets = torch.randperm(40, generator=generator)[:n]
    written = unembedding[:, targets].T + torch.randn(n, 6, generator=generator)
    expected = [int(t) in row.topk(k).indices.tolist() for t, row in zip(targets, written @ unembedding, strict=True)]
    assert in_top(written, targets, unembedding, [unembedding[:, ::7], unembedding[:, ::2]], k).tolist() == expected


def test_a_head_that_writes_nothing_copies_nothing():
    unembedding = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert not in_top(torch.zeros(8, 6), torch.arange(8), unembedding, [unembedding[:, ::2]], 5).any()


@pytest.mark.parametrize(("sign", "copied"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_head_whose_circuit_is_the_identity_copies_every_token_and_its_negative_none(tmp_path: Path, sign: float, copied: float):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(make_llama(tmp_path / "donor", layers=1))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        max_position_embeddings=16, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    attention = made.model.layers[0].self_attn
    attention.v_proj.weight.data = torch.eye(64)
    attention.o_proj.weight.data = sign * torch.eye(64)
    made.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = models.load(str(tmp_path / "model"))
    estimate = copying(torch.stack(list(copy_hits(model, sampled(model, 100, 0)))))
    assert estimate.value.item() == copied
    assert estimate.baseline.item() < 0.05
    assert estimate.low.item() <= copied <= estimate.high.item()


def test_what_heads_read_is_the_embedding_before_layer_0_and_what_layer_0_made_of_it_after(tiny_llama: Path):
    model = models.load(str(tiny_llama))
    tokens = ordinary_ids(model)[:6]
    assert torch.equal(embedded(model, tokens, "resid_pre"), model.w_e()[tokens])
    with_bos = torch.stack([torch.full_like(tokens, 0), tokens], 1)
    expected = record(model, with_bos, [Site(1, "resid_pre")])[Site(1, "resid_pre")][:, 1]
    assert torch.equal(embedded(model, tokens, "resid_post"), expected)


def test_wilsons_interval_solves_its_defining_equation():
    """The ends are the shares p with |share - p| = z sqrt(p (1 - p) / n)."""
    share = np.array([0.0, 0.1, 0.5, 0.97, 1.0])
    for end in wilson(share, 60):
        inside = (end > 1e-9) & (end < 1 - 1e-9)
        gap = np.abs(share - end) - 1.959964 * np.sqrt(end * (1 - end) / 60)
        assert np.abs(gap[inside]).max() < 1e-9
    low, high = wilson(share, 60)
    assert high[0] > 0.05
    assert low[-1] < 0.95


@pytest.mark.slow
def test_the_name_movers_of_smollm2_copy_and_its_negative_name_mover_does_not():
    """Heads found by attention and direct logit attribution on the indirect object task, independently of this score."""
    model = models.load("smollm2")
    estimate = copying(torch.stack(list(copy_hits(model, sampled(model, 64, 5)))))
    assert {"23.0", "23.1", "23.2"} <= {head for head, _ in estimate.top(6)}
    assert estimate.low[23, 2] > estimate.baseline.max()
    assert estimate.value[24, 4] == 0
