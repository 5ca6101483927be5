"""Heads and neurons written over named directions of the residual space, and their assembly into weight matrices.

The construction is tracr's (Lindner et al. 2023, arXiv:2301.05062): every value has its own direction, heads are a bilinear form and a
linear map over directions, and there is neither bias nor norm. What needs a constant reads `ONE`, which every token writes.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.compiled.rasp import Value

Direction = tuple[str, Value]
Vector = Mapping[Direction, float]
ONE: Direction = ("one", None)
BOS: Direction = ("tokens", "BOS")
PAD: Direction = ("tokens", "pad")


@dataclass(frozen=True)
class Head:
    """Attention scores are `form[query, key]` summed over the directions present; values move along `moves`."""

    form: Mapping[tuple[Direction, Direction], float]
    moves: Mapping[Direction, Vector]
    size: int = 1
    """The least d_head; larger than the form needs where published sizes are to be met."""

    def keys(self) -> list[Direction]:
        return list(dict.fromkeys(key for _, key in self.form))

    def written(self) -> list[Direction]:
        return list(dict.fromkeys(out for vector in self.moves.values() for out in vector))

    def d_head(self) -> int:
        return max(self.size, len(self.keys()), len(self.written()))


@dataclass(frozen=True)
class Neuron:
    """relu of a sum of directions, written to directions."""

    reads: Vector
    writes: Vector


@dataclass(frozen=True)
class Layer:
    """What runs in one transformer layer: the heads, then the neurons."""

    heads: Sequence[Head]
    neurons: Sequence[Neuron]


@dataclass(frozen=True, eq=False)
class Weights:
    """A transformer without norms and biases, ReLU; everything float64."""

    causal: bool
    w_e: Float[Tensor, "vocab d_model"]
    w_pos: Float[Tensor, "ctx d_model"]
    w_q: Float[Tensor, "layer head d_model d_head"]
    w_k: Float[Tensor, "layer head d_model d_head"]
    w_v: Float[Tensor, "layer head d_model d_head"]
    w_o: Float[Tensor, "layer head d_head d_model"]
    w_in: Float[Tensor, "layer d_model d_mlp"]
    w_out: Float[Tensor, "layer d_mlp d_model"]
    w_u: Float[Tensor, "d_model vocab"]

    @property
    def n_layers(self) -> int:
        return self.w_q.shape[0]

    @property
    def n_heads(self) -> int:
        return self.w_q.shape[1]

    @property
    def d_model(self) -> int:
        return self.w_q.shape[2]

    @property
    def d_head(self) -> int:
        return self.w_q.shape[3]

    @property
    def d_mlp(self) -> int:
        return self.w_in.shape[2]

    @property
    def n_parameters(self) -> int:
        return sum(getattr(self, f.name).numel() for f in fields(self) if f.name != "causal")

    def rotated(self, seed: int) -> "Weights":
        """The same function with the residual space turned by a random orthogonal matrix, so that no coordinate means anything."""
        gaussian = torch.randn(self.d_model, self.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        q, r = torch.linalg.qr(gaussian)
        turn = q * r.diagonal().sign()  # uniform over rotations and reflections (Mezzadri 2007, arXiv:math-ph/0609050)
        written = {name: getattr(self, name) @ turn for name in ("w_e", "w_pos", "w_o", "w_out")}
        read = {name: turn.T @ getattr(self, name) for name in ("w_q", "w_k", "w_v", "w_in", "w_u")}
        return dataclasses.replace(self, **written, **read)


def assemble(
    layers: Sequence[Layer],
    tokens: Sequence[Direction | None],
    positions: Sequence[Direction | None],
    outputs: Sequence[Direction | None],
    directions: Sequence[Direction],
    causal: bool,
) -> Weights:
    """Weights over the given directions; row i of the embedding is `tokens[i]`, column i of the unembedding reads `outputs[i]`."""
    at = {direction: i for i, direction in enumerate(directions)}
    n_heads = max([1, *(len(layer.heads) for layer in layers)])
    d_head = max([1, *(head.d_head() for layer in layers for head in layer.heads)])
    d_mlp = max([1, *(len(layer.neurons) for layer in layers)])
    shape = len(layers), n_heads, len(at), d_head
    w_q, w_k, w_v = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    w_o = torch.zeros(*shape[:2], d_head, len(at), dtype=torch.float64)
    w_in = torch.zeros(len(layers), len(at), d_mlp, dtype=torch.float64)
    w_out = torch.zeros(len(layers), d_mlp, len(at), dtype=torch.float64)
    for i, layer in enumerate(layers):
        for h, head in enumerate(layer.heads):
            _place_head(head, at, w_q[i, h], w_k[i, h], w_v[i, h], w_o[i, h])
        for n, neuron in enumerate(layer.neurons):
            for direction, weight in neuron.reads.items():
                w_in[i, at[direction], n] += weight
            for direction, weight in neuron.writes.items():
                w_out[i, n, at[direction]] += weight
    w_e, w_pos, w_u = (_rows(rows, at) for rows in (tokens, positions, outputs))
    w_e[:, at[ONE]] = 1.0
    return Weights(causal, w_e, w_pos, w_q, w_k, w_v, w_o, w_in, w_out, w_u.T.contiguous())


def _place_head(head: Head, at: Mapping[Direction, int], w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor) -> None:
    key_at = {key: j for j, key in enumerate(head.keys())}
    for (query, key), score in head.form.items():
        # attention divides by sqrt(d_head); scores are meant as they are written
        w_q[at[query], key_at[key]] += score * math.sqrt(w_q.shape[-1])
    for key, j in key_at.items():
        w_k[at[key], j] = 1.0
    out_at = {out: j for j, out in enumerate(head.written())}
    for value, vector in head.moves.items():
        for out, weight in vector.items():
            w_v[at[value], out_at[out]] += weight
    for out, j in out_at.items():
        w_o[j, at[out]] = 1.0


def _rows(rows: Sequence[Direction | None], at: Mapping[Direction, int]) -> Tensor:
    matrix = torch.zeros(len(rows), len(at), dtype=torch.float64)
    for i, direction in enumerate(rows):
        if direction is not None:
            matrix[i, at[direction]] = 1.0
    return matrix
