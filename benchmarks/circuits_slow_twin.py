"""Edge attribution patching as peers do it: every input of every head is a tensor of its own with a gradient, every head writes a result.

Plain torch for Llama-shaped models. This is the scheme of EAP-IG (Hanna et al. 2024) on TransformerLens with split query, key and value
inputs, head results and ungrouped keys and values: corrupt forward, clean forward, clean forward with gradients, backward, and one product
of all earlier sources with the gradients of each layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of one layer, by head."""

    before: Float[Tensor, " d_model"]
    w_q: Float[Tensor, "head d_model d_head"]
    w_k: Float[Tensor, "head d_model d_head"]
    w_v: Float[Tensor, "head d_model d_head"]
    w_o: Float[Tensor, "head d_head d_model"]
    after: Float[Tensor, " d_model"]
    gate: Float[Tensor, "d_mlp d_model"]
    up: Float[Tensor, "d_mlp d_model"]
    down: Float[Tensor, "d_model d_mlp"]


@dataclass(frozen=True, eq=False)
class Weights:
    """A Llama with keys and values copied for each query head."""

    embed: Float[Tensor, "vocab d_model"]
    layers: tuple[Layer, ...]
    last: Float[Tensor, " d_model"]
    w_u: Float[Tensor, "vocab d_model"]
    frequencies: Float[Tensor, " half"]
    eps: float

    @staticmethod
    def of(model: Any) -> "Weights":
        """From a transformers `LlamaForCausalLM`."""
        config, body = model.config, model.model
        heads, groups = config.num_attention_heads, config.num_key_value_heads

        def split(projection: Any, n: int) -> Tensor:
            return projection.weight.detach().unflatten(0, (n, -1)).transpose(1, 2).repeat_interleave(heads // n, 0).contiguous()

        def layer(block: Any) -> Layer:
            attention, mlp = block.self_attn, block.mlp
            return Layer(
                block.input_layernorm.weight.detach(),
                split(attention.q_proj, heads),
                split(attention.k_proj, groups),
                split(attention.v_proj, groups),
                attention.o_proj.weight.detach().unflatten(1, (heads, -1)).permute(1, 2, 0).contiguous(),
                block.post_attention_layernorm.weight.detach(),
                *(part.weight.detach() for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
            )

        return Weights(
            body.embed_tokens.weight.detach(),
            tuple(map(layer, body.layers)),
            body.norm.weight.detach(),
            model.lm_head.weight.detach(),
            body.rotary_emb.inv_freq.detach().clone(),
            config.rms_norm_eps,
        )


@dataclass(eq=False)
class Trace:
    """What sources wrote and destinations read, each destination from a copy of the stream."""

    written: list[Float[Tensor, "pair pos source d_model"]]
    read: list[tuple[int, Float[Tensor, "pair pos destination d_model"]]]
    """The number of earlier sources, and the inputs."""
    logits: Float[Tensor, "pair read vocab"]


def forward(w: Weights, tokens: Int[Tensor, "pair pos"], read: Int[Tensor, "pair read"], gradients: bool) -> Trace:
    """A forward with split inputs."""
    x = w.embed[tokens]
    x = x.requires_grad_() if gradients else x
    trace, n = Trace([x[:, :, None]], [], torch.empty(0)), 1
    for layer in w.layers:
        x_q, x_k, x_v = (x[:, :, None].repeat(1, 1, len(layer.w_q), 1) for _ in range(3))
        trace.read += [(n, x_q), (n, x_k), (n, x_v)]
        q = _turned(torch.einsum("bphe,hed->bphd", _norm(x_q, layer.before, w.eps), layer.w_q), w.frequencies)
        k = _turned(torch.einsum("bphe,hed->bphd", _norm(x_k, layer.before, w.eps), layer.w_k), w.frequencies)
        v = torch.einsum("bphe,hed->bphd", _norm(x_v, layer.before, w.eps), layer.w_v)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        z = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(future, -torch.inf).softmax(-1), v)
        result = torch.einsum("bphd,hde->bphe", z, layer.w_o)
        trace.written.append(result)
        x, n = x + result.sum(2), n + result.shape[2]
        x_m = x[:, :, None].clone()
        trace.read.append((n, x_m))
        hidden = _norm(x_m[:, :, 0], layer.after, w.eps)
        out = (torch.nn.functional.silu(hidden @ layer.gate.T) * (hidden @ layer.up.T)) @ layer.down.T
        trace.written.append(out[:, :, None])
        x, n = x + out, n + 1
    x_l = x[:, :, None].clone()
    trace.read.append((n, x_l))
    trace.logits = _norm(x_l[:, :, 0], w.last, w.eps)[torch.arange(len(tokens))[:, None], read] @ w.w_u.T
    return trace


def scores(
    w: Weights, clean: Int[Tensor, "pair pos"], corrupt: Int[Tensor, "pair pos"], read: Int[Tensor, "pair read"],
    metric: Callable[[Tensor], Tensor],
) -> Float[Tensor, "source destination"]:  # fmt: skip
    """EAP, mean over the pairs; destinations in each layer q, k, v of the heads and the MLP, then the logits."""
    with torch.no_grad():
        difference = torch.cat(forward(w, corrupt, read, False).written, 2)
        difference -= torch.cat(forward(w, clean, read, False).written, 2)
    trace = forward(w, clean, read, True)
    gradients = torch.autograd.grad(metric(trace.logits).sum(), [inputs for _, inputs in trace.read])
    columns = []
    for (n, _), gradient in zip(trace.read, gradients, strict=True):
        column = torch.einsum("bpse,bpte->st", difference[:, :, :n], gradient)
        columns.append(torch.nn.functional.pad(column, (0, 0, 0, difference.shape[2] - n)))
    return torch.cat(columns, 1) / len(clean)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def _turned(x: Float[Tensor, "pair pos head d_head"], frequencies: Float[Tensor, " half"]) -> Float[Tensor, "pair pos head d_head"]:
    angles = torch.outer(torch.arange(x.shape[1], dtype=frequencies.dtype), frequencies).repeat(1, 2)[:, None]
    first, second = x.chunk(2, -1)
    return x * angles.cos().to(x) + torch.cat((-second, first), -1) * angles.sin().to(x)
