"""A plain forward pass in which every edge can be removed: the definition that faster code is compared with.

Sources write to the residual stream: `embed` and `pos` apart, heads `l.h`, MLPs `ml`. Destinations read it: `l.h.q`, `l.h.k`, `l.h.v`,
`ml`, `logits`. With the edge from u to t removed, t reads the replacement a_u where it would read the output y_u of the same run:

    x_t = sum_u y_u + sum_(u removed for t) (a_u - y_u)
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.compiled.units import Weights

Edge = tuple[str, str]
# One for all rows, or one for each.
Outputs = Mapping[str, Float[Tensor, "*rows input pos d_model"]]


def sources(w: Weights) -> list[str]:
    """In the order of the model."""
    layers = range(w.n_layers)
    return ["embed", "pos", *(u for i in layers for u in (*(f"{i}.{h}" for h in range(w.n_heads)), f"m{i}"))]


def edges(w: Weights) -> list[Edge]:
    """All edges, destinations in the order of the model: a head feeds the MLP of its own layer too."""
    before, found = ["embed", "pos"], []
    for i in range(w.n_layers):
        heads = [f"{i}.{h}" for h in range(w.n_heads)]
        found += [(u, f"{head}.{side}") for head in heads for side in "qkv" for u in before]
        before = before + heads
        found += [(u, f"m{i}") for u in before]
        before = [*before, f"m{i}"]
    return found + [(u, "logits") for u in before]


def run(
    w: Weights,
    tokens: Int[Tensor, "input pos"],
    kept: Mapping[Edge, Bool[Tensor, " row"]] | None = None,
    replacement: Outputs | None = None,
) -> tuple[Float[Tensor, "row input pos vocab"], dict[str, Float[Tensor, "#row input pos d_model"]]]:
    """Logits and outputs of all sources, in a row for each circuit; edges that `kept` does not name are kept in all rows."""
    kept, replacement = kept or {}, replacement or {}
    outputs = {"embed": w.w_e[tokens][None], "pos": w.w_pos[: tokens.shape[1]].expand(1, *tokens.shape, -1)}

    def read(t: str) -> Tensor:
        x = torch.zeros_like(outputs["embed"])
        for u, y in outputs.items():
            x = x + y
            if (u, t) in kept:
                x = x + torch.where(kept[u, t][:, None, None, None], 0.0, replacement[u] - y)
        return x

    for i in range(w.n_layers):
        heads = {f"{i}.{h}": _head(w, i, h, read) for h in range(w.n_heads)}
        outputs.update(heads)
        outputs[f"m{i}"] = torch.relu(read(f"m{i}") @ w.w_in[i]) @ w.w_out[i]
    return read("logits") @ w.w_u, outputs


def _head(w: Weights, i: int, h: int, read: Callable[[str], Tensor]) -> Tensor:
    q, k, v = (read(f"{i}.{h}.{side}") @ matrix[i, h] for side, matrix in (("q", w.w_q), ("k", w.w_k), ("v", w.w_v)))
    scores = q @ k.transpose(-1, -2) / math.sqrt(w.d_head)
    if w.causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(-1) @ v @ w.w_o[i, h]


def logits(w: Weights, tokens: Int[Tensor, "input pos"]) -> Float[Tensor, "input pos vocab"]:
    """Of the whole model."""
    return run(w, tokens)[0][0]


def circuits(w: Weights, rows: Sequence[frozenset[Edge]]) -> dict[Edge, Bool[Tensor, " row"]]:
    """What `run` is given for these circuits, each a set of kept edges."""
    return {edge: torch.tensor([edge in circuit for circuit in rows]) for edge in edges(w) if any(edge not in c for c in rows)}
