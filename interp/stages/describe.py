"""`interp describe`: what every latent of a dictionary does, in one pass over the cached corpus.

1. Encode the kept tokens once; their sparse codes stay on disk, sorted by latent (`interp.features.codes`). A killed run resumes here.
2. Read them back 64 latents at a time: exact statistics, histograms, examples.
3. From the weights alone: direct effect on logits, nearest decoder directions. The model serves this step only.

The tables hold one row or a few dozen examples a latent. The codes stay beside them as the index that `interp search` reads
(`interp.reading`), with the tokens that count; with `--no-index` they are scratch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from jaxtyping import UInt32
from safetensors.torch import save_file
from torch import Tensor

from interp import runs
from interp.dictionaries import Trained, model_revision
from interp.features import examples, histogram, latents, logits, neighbours, stats, windows
from interp.features.codes import INDEX, KEPT, PIECE, Codes, Latent
from interp.features.corpus import BATCH, Corpus
from interp.features.examples import Occurrences, Quota
from interp.features.latents import Geometry
from interp.models import Model, load
from interp.progress import bar
from interp.runs import Draft, written
from interp.sites import joined
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.tables import canonical
from saes.errors import InputError

# Measured on one core, 12.8 million entries in 18,432 and in 65,536 latents: sorting, statistics and examples.
_SECONDS_PER_LATENT, _SECONDS_PER_ENTRY = 4e-4, 3e-7


@dataclass(frozen=True)
class Describe:
    """Statistics, examples, logit effects and neighbours of every latent of a dictionary."""

    NAME: ClassVar[str] = "describe"
    PARENTS: ClassVar[dict[str, str]] = {"dictionary": "train"}
    FREE: ClassVar[tuple[str, ...]] = ()

    dictionary: tyro.conf.Positional[str]
    """The train run."""
    tokens: int = 0
    """How many tokens of the cached corpus to read, whole sequences from the start; 0 takes all."""
    examples: Quota = field(default_factory=Quota)
    """How many examples of each kind a latent gets."""
    seed: int = 0
    """Seed of the sampled examples."""
    index: bool = True
    """Keep all sparse codes, for `interp search` and the Codes page."""

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise InputError(f"--tokens {self.tokens} is less than none; give a count, or 0 for the whole corpus")

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {"model_revision": model_revision(runs.open_run(ctx.root, self.dictionary, "train"))}

    def plan(self, ctx: Context) -> Plan:
        corpus, model = self._corpus(ctx), self._model(ctx)
        probe = _Probe.of(corpus, model)
        n, d_dict, entries = corpus.n_tokens, corpus.dictionary.d_dict, probe.l0 * corpus.n_tokens
        return Plan(
            {
                "dictionary": f"{self.dictionary}, {d_dict:,} latents on {joined(corpus.trained.reads)}, {probe.l0:.1f} active a token",
                "tokens": f"{n:,} in {corpus.n_seq:,} sequences, each encoded once; {probe.tokens_per_s:,.0f} tokens/s by a probe",
                "codes": f"{12 * entries / 1e6:,.0f} MB, {'kept as an index' if self.index else 'removed at the end'}",
            },
            disk=int(12 * entries + d_dict * (90 * self.examples.total + 1200)),
            memory=4 * model.n_parameters + 12 * max(BATCH, corpus.store.context * d_dict) + 48 * PIECE + 1500 * d_dict,
            seconds=n / probe.tokens_per_s + _SECONDS_PER_ENTRY * entries + (_SECONDS_PER_LATENT + probe.seconds_per_latent) * d_dict,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        corpus = self._corpus(ctx)
        metadata = self._metadata(ctx, corpus)
        folder = draft.path / (INDEX if self.index else "checkpoint")
        codes = corpus.encode(folder)
        if self.index:
            with written(folder / KEPT) as aside:
                save_file({"keep": torch.from_numpy(corpus.keep)}, aside)
        tables, activations = self._describe(draft.path / "examples.parquet", corpus, codes, metadata)
        geometry = Geometry.of(self._model(ctx), corpus.trained)
        table = latents.table(tables, geometry, metadata)
        write_arrow(draft.path / "latents.arrow", table)
        _write_weights(draft.path, geometry, activations, metadata)
        seconds = {"seconds": round(time.monotonic() - started, 1)}
        draft.write_json("summary.json", {**latents.summary(table, corpus.n_tokens), **seconds})

    def _corpus(self, ctx: Context) -> Corpus:
        trained = Trained.open(ctx.root, self.dictionary, ctx.device)
        store = trained.store
        n_seq = min(store.n_seq, -(-self.tokens // store.context)) if self.tokens else store.n_seq
        keep = store.keep[:n_seq].numpy()
        if not keep.any():
            raise InputError(
                f"{store.run.id} has no token to describe {trained.run.id} with: all are BOS, padding or outliers; ask for more --tokens"
            )
        return Corpus(trained, keep)

    def _model(self, ctx: Context) -> Model:
        cache = runs.open_run(ctx.root, self.dictionary, "train").parent("store")
        return load(cache.config["config"]["model"], "float32", ctx.device)

    def _metadata(self, ctx: Context, corpus: Corpus) -> dict[str, str]:
        """What every table says it was computed from."""
        return {
            "model_revision": corpus.store.run.config["config"]["model_revision"],
            "dictionary": runs.open_run(ctx.root, self.dictionary).id,
            "tokens": str(corpus.n_tokens),
            "seed": str(self.seed),
            "definitions": stats.DEFINITIONS,
        }

    def _describe(self, path: Path, corpus: Corpus, codes: Codes, metadata: dict[str, str]) -> tuple[list[pa.Table], Tensor]:
        """Write the examples, a row group for 64 latents; return statistics and activation histograms."""
        occurrences = Occurrences.of(corpus.flat, corpus.keep.ravel(), self.seed)
        tables, counts = [], []
        schema = windows.SCHEMA.with_metadata(metadata)
        with (
            written(path) as aside,
            pq.ParquetWriter(aside, schema, compression="zstd") as writer,
            bar(codes.d_dict, "latents", "describe") as progress,
        ):
            for start in range(0, codes.d_dict, windows.GROUP):
                group = codes.latents(start, min(start + windows.GROUP, codes.d_dict))
                tables.append(pa.Table.from_pylist([stats.row(latent, corpus.flat, corpus.n_tokens) for latent in group], latents.CORPUS))
                counts += [histogram.activations(latent.values) for latent in group]
                rows = self._examples(group, corpus, occurrences, metadata)
                # An empty group is written too, so that row group i always holds latents 64 i to 64 i + 63.
                writer.write_table(rows, row_group_size=max(1, len(rows)))
                progress.update(len(group))
        return tables, torch.from_numpy(np.stack(counts))

    def _examples(self, group: list[Latent], corpus: Corpus, occurrences: Occurrences, metadata: dict[str, str]) -> pa.Table:
        context = corpus.store.context
        parts = [windows.rows(latent, examples.choose(latent, self.examples, occurrences), context) for latent in group]
        return windows.table(parts, corpus.store.tokens, metadata)


@dataclass(frozen=True)
class _Probe:
    """How long the parts take here, measured in a second or two."""

    tokens_per_s: float
    l0: float
    seconds_per_latent: float
    """For logits and neighbours."""

    @staticmethod
    def of(corpus: Corpus, model: Model) -> "_Probe":
        stop = min(corpus.batch, corpus.n_seq, max(1, 2048 // corpus.store.context))
        corpus.entries(0, stop)
        entries, seconds = _timed(lambda: corpus.entries(0, stop))
        some = corpus.dictionary.directions()[:1024]
        _, near = _timed(lambda: neighbours.nearest(some))
        last = corpus.trained.writes[-1]
        residual = logits.to_residual(model, last, some[:64, -corpus.store.width(last) :])
        _, effects = _timed(lambda: residual is not None and logits.summarise(model, residual))
        # Each latent is compared with d_dict others instead of the probe's.
        per_latent = effects / len(some[:64]) + near / len(some) * corpus.dictionary.d_dict / len(some)
        return _Probe(stop * corpus.store.context / seconds, len(entries.values) / max(1, corpus.keep[:stop].sum()), per_latent)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def _write_weights(folder: Path, geometry: latents.Geometry, activations: UInt32[Tensor, "d_dict bins"], metadata: dict[str, str]) -> None:
    """`histograms`, `logits` (only where the site writes to the residual stream) and `neighbours`."""
    near, effects = geometry.neighbours, geometry.effects
    histograms = {"acts": activations}
    if effects is not None:
        histograms |= {"logits": effects.counts.to(torch.uint32), "logit_range": effects.range}
        ids = {"top_ids": effects.top_ids, "bottom_ids": effects.bottom_ids}
        _save(folder / "logits.safetensors", {**ids, "top": effects.top.half(), "bottom": effects.bottom.half()}, metadata)
    _save(folder / "histograms.safetensors", histograms, metadata)
    _save(folder / "neighbours.safetensors", {"ids": near.ids, "cos": near.cos.half()}, metadata)


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with written(path) as aside:
        # One key: safetensors writes several in an order that changes from run to run.
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, {"computed_from": canonical(metadata)})
