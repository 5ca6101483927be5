"""`interp heads`: what every attention head attends to, whether it copies, and its patterns on a few short texts."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor

from interp import models
from interp.heads.copying import copy_hits, copying
from interp.heads.patterns import MAX_LENGTH, TEXTS, Examples, examples
from interp.heads.scores import Estimate, estimates, score_batches, score_table
from interp.heads.tokens import repeated, sampled
from interp.progress import bar
from interp.runs import Draft, written
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.text.vocab import vocabulary
from saes.errors import InputError

BATCH = 8  # sequences a pass; no result depends on it
SHOWN = 5  # heads of each metric in the summary
SIEVED = 0.022  # share of the vocabulary that a head's output meets on average behind the sieves of `copying`; on SmolLM2
EXAMPLE_HALF = 12  # length of a half of the stored repeated example: every cell can still be seen


@dataclass(frozen=True)
class Heads:
    """Score every attention head: previous token, duplicate token, induction, attention to BOS, entropy, copying."""

    NAME: ClassVar[str] = "heads"
    PARENTS: ClassVar[dict[str, str]] = {}

    model: str = "smollm2"
    """smollm2, a local folder or a Hub id."""
    sequences: int = 64
    """Sequences of repeated random tokens; the intervals are over these."""
    half: int = 50
    """Random tokens in a sequence, before they are repeated."""
    copy_tokens: int = 256
    """Tokens for the copying score; all tokens where the vocabulary has fewer."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model."""
    seed: int = 0
    """Which random tokens."""

    def __post_init__(self) -> None:
        if self.sequences < 2:
            raise InputError(f"--sequences {self.sequences} gives no interval; ask for 2 or more")
        if self.half < 2:
            raise InputError(f"--half {self.half} leaves no token after an earlier copy; ask for 2 or more")
        if self.copy_tokens < 2:
            raise InputError(f"--copy-tokens {self.copy_tokens} is too few to compare; ask for 2 or more")

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {"model_revision": models.source(self.model).revision()}

    def plan(self, ctx: Context) -> Plan:
        """Load the model and time two sequences."""
        model = models.load(self.model, self.dtype, ctx.device)
        tokens = repeated(model, self.sequences, self.half, self.seed)
        n_tokens, n_heads = tokens.numel(), model.n_layers * model.n_heads
        n_examples = (len(TEXTS) + 1) * MAX_LENGTH
        copied = len(sampled(model, self.copy_tokens, self.seed))
        # In units of a token's forward pass; twice, because the baseline costs the same.
        copy_cost = 2 * copied * n_heads * model.d_model * model.d_vocab * SIEVED / model.n_parameters
        seconds = seconds_per_token(model, tokens) * (n_tokens + n_examples + copy_cost)
        lines = {
            "model": f"{self.model}, {n_heads} heads, {self.dtype} on {model.device}",
            "tokens": f"{n_tokens} in {tokens.shape[0]} sequences of {tokens.shape[1]}, {-(-tokens.shape[0] // BATCH)} passes",
            "copying": f"{copied} tokens for each head",
        }
        disk = n_heads * (2 * n_examples * MAX_LENGTH + 6 * 40) + 40 * model.d_vocab
        memory = model.n_parameters * model.dtype.itemsize + 12 * model.d_model * model.d_vocab
        return Plan(lines, disk, memory, seconds)

    def work(self, draft: Draft, ctx: Context) -> None:
        start = time.perf_counter()
        model = models.load(self.model, self.dtype, ctx.device)
        tokens = repeated(model, self.sequences, self.half, self.seed)
        metrics = {**self._attention(model, tokens), "copying": self._copying(model)}
        write_parquet(draft, "scores.parquet", score_table(metrics))
        write_examples(draft, examples(model, repeated(model, 1, min(self.half, EXAMPLE_HALF), self.seed)[0].tolist()))
        write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
        draft.write_json("summary.json", summary(metrics, tokens.numel(), time.perf_counter() - start))

    def _attention(self, model: models.Model, tokens: Int[Tensor, "n_seq pos"]) -> dict[str, Estimate]:
        parts = []
        with bar(tokens.numel(), "tokens", "attention") as progress:
            for part in score_batches(model, tokens, self.half, BATCH):
                parts.append(part)
                progress.update(part.shape[0] * tokens.shape[1])
        return estimates(torch.cat(parts), self.half, tokens.shape[1])

    def _copying(self, model: models.Model) -> Estimate:
        parts = []
        with bar(model.n_layers, "layers", "copying") as progress:
            for part in copy_hits(model, sampled(model, self.copy_tokens, self.seed)):
                parts.append(part)
                progress.update(1)
        return copying(torch.stack(parts))


def seconds_per_token(model: models.Model, tokens: Int[Tensor, "n_seq pos"]) -> float:
    """The faster of two passes of two sequences, after one that warms up: a busy machine disturbs a single one."""
    times = []
    with torch.no_grad():
        model(tokens[:1])
        for _ in range(2):
            start = time.perf_counter()
            model(tokens[:2])
            times.append(time.perf_counter() - start)
    return min(times) / tokens[:2].numel()


def summary(metrics: dict[str, Estimate], n_tokens: int, seconds: float) -> dict[str, Any]:
    """Flat figures: the highest heads of each metric as `layer.head value`, and the mean of the baseline."""
    figures: dict[str, Any] = {"n_heads": next(iter(metrics.values())).value.size, "n_tokens": n_tokens, "seconds": round(seconds, 1)}
    for name, estimate in metrics.items():
        figures[f"top_{name}"] = ", ".join(f"{head} {value:.2f}" for head, value in estimate.top(SHOWN))
        figures[f"null_{name}"] = round(float(estimate.baseline.mean()), 4)
    return figures


def write_examples(draft: Draft, stored: Examples) -> None:
    tensors = {"patterns": stored.patterns, "tokens": stored.tokens, "lengths": stored.lengths}
    with written(draft.path / "patterns.safetensors") as aside:
        save_file(tensors, aside)
    rows = {"example": pa.array(range(len(stored.titles)), pa.int32()), "title": pa.array(stored.titles, pa.utf8())}
    write_parquet(draft, "examples.parquet", pa.table(rows))


def write_parquet(draft: Draft, name: str, table: pa.Table) -> None:
    with written(draft.path / name) as aside:
        pq.write_table(table, aside)
