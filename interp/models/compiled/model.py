"""A compiled program or gate: exact weights, vocabulary and answers, and the ordinary `Model` made of them."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.models.bridge import Model, boot_native
from interp.models.compiled.compiler import lower
from interp.models.compiled.gates import LENGTH, Gate
from interp.models.compiled.rasp import Program, Value
from interp.models.compiled.units import BOS, ONE, PAD, Direction, Weights, assemble


@dataclass(frozen=True, eq=False)
class Compiled:
    """A transformer whose algorithm is known."""

    source: Program | Gate
    weights: Weights
    words: tuple[str, ...]
    """Vocabulary by token id: BOS, pad and the input tokens in the order of the alphabet, then words that are only outputs."""
    directions: tuple[Direction, ...]
    """What each residual coordinate means; empty after a rotation."""
    suffix: str = ""

    @property
    def name(self) -> str:
        return f"compiled/{self.source.name}{self.suffix}"

    def inputs(self, length: int) -> Int[Tensor, "input pos"]:
        """All inputs of that length, BOS in front; raises InputError for a length that the program does not take."""
        return self.encode(self.source.inputs(length))

    def encode(self, inputs: Sequence[Sequence[Value]]) -> Int[Tensor, "input pos"]:
        """Token ids, BOS in front."""
        return torch.tensor([[self._id("BOS"), *(self._id(str(value)) for value in row)] for row in inputs])

    def read(self, length: int) -> Int[Tensor, " read"]:
        """Positions whose output counts."""
        return torch.tensor(self.source.read(length))

    def target(self, tokens: Int[Tensor, "input pos"]) -> Float[Tensor, "input pos vocab"]:
        """The logits that the program asks for, by running it and not the weights; 0 at BOS."""
        return torch.stack([self._target(tuple(row)) for row in tokens.tolist()])

    def rotated(self, seed: int) -> "Compiled":
        """The same function in a residual space without named coordinates."""
        return dataclasses.replace(self, weights=self.weights.rotated(seed), directions=(), suffix=f"{self.suffix}-rotated{seed}")

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One token per word between blanks."""
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(self.words)}, unk_token="pad"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="BOS", pad_token="pad", unk_token="pad")

    def model(self, dtype: torch.dtype = torch.float32) -> Model:
        """The weights as an ordinary model."""
        w = self.weights
        config = {
            "d_model": w.d_model, "d_head": w.d_head, "n_layers": w.n_layers, "n_heads": w.n_heads, "d_mlp": w.d_mlp,
            "d_vocab": len(self.words), "n_ctx": len(w.w_pos), "act_fn": "relu", "normalization_type": None,
            "attention_dir": "causal" if w.causal else "bidirectional",
        }  # fmt: skip
        return boot_native(self.name, self.revision(), config, _state(w), self.tokenizer(), dtype)

    def revision(self) -> str:
        """A hash of the weights."""
        digest = hashlib.sha256(str(self.weights.causal).encode())
        for f in fields(self.weights)[1:]:
            digest.update(getattr(self.weights, f.name).numpy().tobytes())
        return digest.hexdigest()[:12]

    def _id(self, word: str) -> int:
        return self.words.index(word)

    @functools.cached_property
    def _values(self) -> dict[str, Value]:
        """Input values by word."""
        values = self.source.vocabulary if isinstance(self.source, Program) else (0, 1, "=")
        return {str(value): value for value in values}

    # A metric asks for the same inputs again and again.
    @functools.lru_cache(maxsize=1 << 14)  # noqa: B019
    def _target(self, tokens: tuple[int, ...]) -> Tensor:
        logits = torch.zeros(len(tokens), len(self.words), dtype=torch.float64)
        for position, answer in enumerate(self.source.answers([self._values[self.words[t]] for t in tokens[1:]]), start=1):
            for word, value in answer.items():
                logits[position, self._id(word)] = value
        return logits


def compile(source: Program | Gate) -> Compiled:
    """Weights of a program or gate in float64; raises InputError for a program that has no exact form."""
    return _compile_program(source) if isinstance(source, Program) else _compile_gate(source)


def _compile_program(program: Program) -> Compiled:
    lowered = lower(program)
    positions = [None, *(("indices", i) for i in range(program.max_len))]
    out = lowered.directions(program.output).items()
    outputs = {"number" if program.output.numerical else str(value): direction for value, direction in out}
    return _compiled(program, program.vocabulary, positions, outputs, lowered.layers(), lowered.basis())


def _compile_gate(gate: Gate) -> Compiled:
    positions: list[Direction | None] = [("indices", i) for i in range(LENGTH + 1)]
    units = [unit for layer in gate.layers for unit in (*layer.heads, *layer.neurons)]
    written = [d for unit in units for d in (unit.written() if hasattr(unit, "written") else unit.writes)]  # pyright: ignore
    used = dict.fromkeys([ONE, BOS, PAD, *(("tokens", v) for v in (0, 1, "=")), *filter(None, positions), *written])
    return _compiled(gate, (0, 1, "="), positions, dict(gate.outputs), gate.layers, list(used))


def _compiled(
    source: Program | Gate,
    vocabulary: Sequence[Value],
    positions: Sequence[Direction | None],
    outputs: dict[str, Direction],
    layers: Sequence,
    directions: Sequence[Direction],
) -> Compiled:
    tokens: dict[str, Direction | None] = {str(v): ("tokens", v) for v in (*vocabulary, "BOS", "pad")}
    words = (*sorted(tokens), *(word for word in outputs if word not in tokens))
    rows, columns = [tokens.get(word) for word in words], [outputs.get(word) for word in words]
    return Compiled(source, assemble(layers, rows, positions, columns, directions, source.causal), words, tuple(directions))


def _state(w: Weights) -> dict[str, Tensor]:
    """Weights under the names of TransformerLens' native model, as its linear layers hold them: [out, in]."""
    state = {"tok_embed.weight": w.w_e, "pos.weight": w.w_pos, "head.weight": w.w_u.T}
    for i in range(w.n_layers):
        for name, matrix in (("q", w.w_q[i]), ("k", w.w_k[i]), ("v", w.w_v[i])):
            state[f"layers.{i}.attn.{name}.weight"] = matrix.transpose(1, 2).flatten(0, 1)
        state[f"layers.{i}.attn.o.weight"] = w.w_o[i].flatten(0, 1).T
        state[f"layers.{i}.mlp.fc_in.weight"] = w.w_in[i].T
        state[f"layers.{i}.mlp.fc_out.weight"] = w.w_out[i].T
    return state
