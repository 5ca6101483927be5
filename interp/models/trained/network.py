"""The transformer that is trained: a decoder in plain torch whose every edge can be cut in every example, differentiable in its weights.

Sources write to the residual stream (`embed` is token and position together, heads, MLPs), destinations read it, before their norm. With
the edge from u to t cut, t reads what u wrote on another input, a_u, in place of y_u, what it writes in this very run:

    x_t = sum_u y_u + sum_u cut_ut (a_u - y_u)

`interp.circuits.forward` computes the same for any `Model` and is fast where few edges are cut; a training step cuts others in every row.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.models.trained.programs import Edge

EPS = 1e-5


@dataclass(frozen=True)
class Sizes:
    """Shape of the network; names of edges are those of `interp.circuits`."""

    n_layers: int
    d_vocab: int
    n_pos: int
    n_heads: int = 4
    d_model: int = 48
    d_mlp: int = 96

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """In the order of the model."""
        return ("embed", *(name for i in range(self.n_layers) for name in (*self._heads(i), f"m{i}")))

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """In the order of the model: in each layer queries, keys, values, the MLP."""
        layers = range(self.n_layers)
        return (*(name for i in layers for name in (*(f"{h}.{side}" for side in "qkv" for h in self._heads(i)), f"m{i}")), "logits")

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """From every source to every destination after it."""
        found: list[Edge] = []
        for column, to in enumerate(self.destinations):
            layer, within = divmod(column, 3 * self.n_heads + 1)
            n = 1 + layer * (self.n_heads + 1) + (self.n_heads if within == 3 * self.n_heads else 0)
            found += [(source, to) for source in self.sources[:n]]
        return tuple(found)

    def place(self, edge: Edge) -> tuple[int, int]:
        """Row and column of an edge in a mask."""
        return self.sources.index(edge[0]), self.destinations.index(edge[1])

    def _heads(self, layer: int) -> list[str]:
        return [f"{layer}.{head}" for head in range(self.n_heads)]


class Network(nn.Module):
    """Pre-norm decoder with LayerNorm, learned positions and GELU."""

    d_dict = 1
    """`fit` keeps dead counters for latents; a transformer has none, and one that always fires stands in."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        super().__init__()
        self.sizes = sizes
        n, h, d, k, m = sizes.n_layers, sizes.n_heads, sizes.d_model, sizes.d_head, sizes.d_mlp
        rng = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, fan_in: int = d) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=rng) / fan_in**0.5)

        self.w_e, self.w_pos, self.w_u = drawn(sizes.d_vocab, d), drawn(sizes.n_pos, d), drawn(d, sizes.d_vocab)
        # [layer, q k v, head, ...]
        self.w_qkv, self.b_qkv = drawn(n, 3, h, d, k), nn.Parameter(torch.zeros(n, 3, h, k))
        self.w_o = drawn(n, h, k, d, fan_in=2 * n * d)
        self.w_in, self.b_in = drawn(n, d, m), nn.Parameter(torch.zeros(n, m))
        self.w_out, self.b_out = drawn(n, m, d, fan_in=2 * n * m), nn.Parameter(torch.zeros(n, d))
        # Norms before attention and before the MLP of each layer, then the last one.
        self.gain, self.shift = nn.Parameter(torch.ones(2 * n + 1, d)), nn.Parameter(torch.zeros(2 * n + 1, d))

    def forward(
        self,
        tokens: Int[Tensor, "row pos"],
        cut: Float[Tensor, "row source destination"] | None = None,
        away: Float[Tensor, "row source pos d_model"] | None = None,
    ) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row source pos d_model"]]:
        """Logits after the last token, and what every source wrote. `cut` is 1 where an edge carries `away`."""
        heads, columns = self.sizes.n_heads, 3 * self.sizes.n_heads + 1
        written = (self.w_e[tokens] + self.w_pos[: tokens.shape[1]])[:, None]
        for layer in range(self.sizes.n_layers):
            first = layer * columns
            inputs = self._read(written, cut, away, slice(first, first + 3 * heads), 2 * layer)
            written = torch.cat((written, self._attend(layer, inputs)), 1)
            x = self._read(written, cut, away, slice(first + columns - 1, first + columns), 2 * layer + 1)
            hidden = nn.functional.gelu(x @ self.w_in[layer] + self.b_in[layer])
            written = torch.cat((written, hidden @ self.w_out[layer] + self.b_out[layer]), 1)
        last = None if away is None else away[:, :, -1:]
        x = self._read(written[:, :, -1:], cut, last, slice(-1, None), 2 * self.sizes.n_layers)
        return x[:, 0, 0] @ self.w_u, written

    def _read(
        self, written: Tensor, cut: Tensor | None, away: Tensor | None, columns: slice, norm: int
    ) -> Float[Tensor, "row destination pos d_model"]:
        """What these destinations read, after their norm; one for all where nothing is cut."""
        x = written.sum(1, keepdim=True)
        if cut is not None and away is not None:
            n = written.shape[1]
            moved = cut[:, :n, columns].transpose(1, 2).contiguous() @ (away[:, :n] - written).flatten(2)
            x = x + moved.unflatten(2, written.shape[2:])
        return nn.functional.layer_norm(x, x.shape[-1:], self.gain[norm], self.shift[norm], EPS)

    def _attend(self, layer: int, inputs: Float[Tensor, "row destination pos d_model"]) -> Float[Tensor, "row head pos d_model"]:
        x = inputs.unflatten(1, (3, -1)) if inputs.shape[1] > 1 else inputs[:, :, None]
        each = x.expand(-1, -1, self.sizes.n_heads, -1, -1).expand(-1, 3, -1, -1, -1)
        # [row, q k v, head, pos, d_head]; as einsum, because `@` would copy the weights for every row
        made = torch.einsum("rchpd,chdk->rchpk", each, self.w_qkv[layer])
        q, k, v = (made + self.b_qkv[layer][:, :, None]).unbind(1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.sizes.d_head)
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        z = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return torch.einsum("rhpk,hkd->rhpd", z, self.w_o[layer])

    def native(self) -> dict[str, Tensor]:
        """Weights under the names of TransformerLens' native model, as its linear layers hold them: [out, in]."""
        state = {"tok_embed.weight": self.w_e, "pos.weight": self.w_pos, "head.weight": self.w_u.T}
        state |= {"ln_out.weight": self.gain[-1], "ln_out.bias": self.shift[-1]}
        for i in range(self.sizes.n_layers):
            for j, name in enumerate("qkv"):
                state[f"layers.{i}.attn.{name}.weight"] = self.w_qkv[i, j].transpose(1, 2).flatten(0, 1)
                state[f"layers.{i}.attn.{name}.bias"] = self.b_qkv[i, j].flatten()
            state[f"layers.{i}.attn.o.weight"] = self.w_o[i].flatten(0, 1).T
            state |= {f"layers.{i}.mlp.fc_in.weight": self.w_in[i].T, f"layers.{i}.mlp.fc_in.bias": self.b_in[i]}
            state |= {f"layers.{i}.mlp.fc_out.weight": self.w_out[i].T, f"layers.{i}.mlp.fc_out.bias": self.b_out[i]}
            for j, norm in enumerate(("ln1", "ln2")):
                state |= {f"layers.{i}.{norm}.weight": self.gain[2 * i + j], f"layers.{i}.{norm}.bias": self.shift[2 * i + j]}
        return {name: value.detach().contiguous() for name, value in state.items()}
