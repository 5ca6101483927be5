"""`interp train`: dictionaries on activations, many at once, each resumable to the bit.

Options with several values ask for a grid: every combination is a run of its own, the same run as its own command line would make, and
all of them are trained together on one reading of the activations.
"""

import contextlib
import dataclasses
import itertools
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
import tyro
from torch import Tensor

from interp import runs
from interp.evals.diagnostics import Diagnosis, diagnose
from interp.feed import CHUNK, Feed, Rows, Streamed, feed
from interp.models import device_of, faster
from interp.progress import bar
from interp.runs import Draft, read_json, written
from interp.sites import Site, joined
from interp.stages.base import Context, Plan, duration, size
from interp.stages.health import Log, span, thresholds, warnings
from interp.store import Store
from saes import checkpoint, files
from saes.architectures import Architecture, CodebookDictionary, Module, TopK
from saes.dictionary import Batch, Recipe, StartsFromData
from saes.errors import InputError
from saes.normalise import Normalisation, measure
from saes.schedule import FitConfig, clip_of
from saes.train import Member, Row, fit_together

# Tokens that centring, scale and thresholds are measured on.
_SAMPLE = 32_768
# Bytes a second that a disk gives at the least: what streaming is held against.
DISK = 5e8
# What the progress bar shows.
_SHOWN = ("loss", "fvu", "l0", "dead_share")


@dataclass(frozen=True)
class Train:
    """Train dictionaries on the activations of a cache run.

    `--architecture NAME` chooses what is trained. Options with several values, `--k 16 32 64`, train every combination together.
    """

    NAME: ClassVar[str] = "train"
    PARENTS: ClassVar[dict[str, str]] = {"store": "cache"}
    FREE: ClassVar[tuple[str, ...]] = ("checkpoint_seconds",)

    store: tyro.conf.Positional[str]
    """The cache run."""
    architecture: Architecture = dataclasses.field(default_factory=TopK)
    """What is trained."""
    site: Annotated[str, tyro.conf.arg(name="sites")] = ""
    """What is read: a site of the cache run, or several side by side, 5.resid_post+10.resid_post; the first one without it."""
    write: str = ""
    """What is written, for transcoders: a site, or a stream such as mlp_out of the layers that are read. The same without it."""
    skip: bool = False
    """Give a transcoder a linear skip connection."""
    width: int = 0
    """Latents; 0 takes eight for each input dimension."""
    epochs: float = 3.0
    """Passes over the training tokens."""
    batch_size: int = 2048
    """Tokens of a step."""
    lr: float | None = None
    """Peak learning rate; without one 1.5e-3 / sqrt(width / 16384), less from 600 steps on, a fifth of it from 15,000 on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the encoder's product; auto takes bfloat16 where the hardware multiplies it faster. Weights are float32 always."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    seed: int = 0
    """Seed of the initial weights."""
    shuffle: int = 0
    """Seed of the order of tokens."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints: what a killed run loses at most."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size} is no batch; give 1 or more")

    def identity(self, ctx: Context) -> dict[str, Any]:
        store = runs.open_run(ctx.root, self.store, "cache")
        available = store.config["config"]["sites"]
        reads = Site.parse_joined(self.site or available[0])
        writes = self._writes(reads)
        for site in reads + writes:
            if str(site) not in available:
                raise InputError(f"{store.id} holds no {site}; it holds {', '.join(available)}")
        if self.skip and reads == writes:
            raise InputError("--skip is for transcoders: an autoencoder with a skip connection would copy its input; add --write")
        width = self.width or 8 * sum(Store(store, ctx.device).width(site) for site in reads)
        precision = faster(self.precision, ctx.device)
        return {"site": joined(reads), "write": joined(writes), "width": width, "precision": precision}

    def _writes(self, reads: tuple[Site, ...]) -> tuple[Site, ...]:
        if not self.write:
            return reads
        if "." in self.write:
            return Site.parse_joined(self.write)
        return tuple(Site.parse(f"{site.layer}.{self.write}") for site in reads)

    def plan(self, ctx: Context) -> Plan:
        return self.plan_all([self], ctx)

    def work(self, draft: Draft, ctx: Context) -> None:
        self.work_all([self], [draft], ctx, lambda draft: None)

    @staticmethod
    def plan_all(stages: "Sequence[Train]", ctx: Context) -> Plan:
        """The cost of all of them on one reading."""
        group = _Group.of(stages, ctx)
        rate, model_rate = group.probe()
        steps, parameters = max(t.fit.steps for t in group.trainings), sum(t.parameters for t in group.trainings)
        tokens, widest = steps * group.batch_size, max(t.fit.batch_size * t.dictionary.d_dict for t in group.trainings)
        lines = {f"{i + 1}" if len(stages) > 1 else "dictionary": t.describe() for i, t in enumerate(group.trainings)}
        lines["tokens"] = f"{group.feed.n_tokens:,} to train on, {steps:,} steps of {group.batch_size:,}; {rate:,.0f} tokens/s by a probe"
        lines["left out"] = ", ".join(f"{count:,} {reason}" for reason, count in group.left_out.items())
        lines["mixing"] = f"a batch mixes {group.feed.documents_per_batch():,.0f} documents"
        lines["source"] = group.source(tokens, model_rate)
        for site, found in group.diagnoses.items():
            about = (f"|mean| / spread {found.mean_to_spread:.2f}", f"first component {found.top_component:.0%} of the variance")
            lines[f"at {site}"] = ", ".join((*about, f"{found.effective_dimensions:.0f} effective dimensions", *found.advice()))
        return Plan(
            lines,
            disk=parameters * 4 * 5,
            # Weights, gradient and two moments, one checkpoint copy; scores of a batch; the rows of a batch, or of a chunk of the stream.
            memory=parameters * 4 * 7 + widest * 12 + group.feed_bytes,
            seconds=tokens / rate,
            shrink="--width, --batch-size, or the number of trainings at once",
        )

    @staticmethod
    def work_all(stages: "Sequence[Train]", drafts: Sequence[Draft], ctx: Context, done: Callable[[Draft], object]) -> None:
        """Train all of them together; `done` is told of each when its files are written."""
        group = _Group.of(stages, ctx)
        todo = [_Work.begin(t, draft, stage) for t, draft, stage in zip(group.trainings, drafts, stages, strict=True)]
        total = sum(work.training.fit.steps * group.batch_size for work in todo)
        with _stop_requested() as stopped, bar(total, "tok", "train", sum(work.first for work in todo)) as progress:
            for number, row in fit_together([work.member() for work in todo]):
                work = todo[number]
                sentences = work.take(row, bool(stopped))
                progress.set_postfix_str(" ".join(f"{n} {span(w.last[n] for w in todo if w.last)}" for n in _SHOWN), refresh=False)
                progress.update(sum(w.tokens for w in todo) - progress.n)
                for sentence in sentences:
                    progress.write(f"{work.draft.id}: {sentence}", file=sys.stderr)
                if row.step == work.training.fit.steps:
                    work.finish(group)
                    done(work.draft)
                # A member that was resumed further on has not moved: there is nothing of it to save.
                elif stopped and all(w.stopped or w.done or w.first >= row.tokens for w in todo):
                    raise KeyboardInterrupt


@dataclass(frozen=True, eq=False)
class _Training:
    """What one member of a group is made of, the same whenever it is prepared."""

    architecture: Recipe
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    norm: Normalisation
    dictionary: Module
    fit: FitConfig
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.dictionary.parameters())

    def describe(self) -> str:
        """One line of the plan."""
        where = joined(self.reads) + ("" if self.reads == self.writes else f" → {joined(self.writes)}")
        k, d = self.architecture.k, self.dictionary
        name = f"{type(self.architecture).__name__} k {k} on {where}, {d.d_in} → {d.d_dict:,} latents"
        return f"{name}, {self.parameters / 1e6:.1f} M parameters, products in {self.fit.precision}"

    def step(self) -> None:
        """A forward and backward pass from which nothing is learnt, for the probe."""
        x, y = next(self.batches(0))
        dead = torch.zeros(self.dictionary.d_dict, dtype=torch.bool, device=x.device)
        generator = torch.Generator(x.device).manual_seed(0)
        buffers = {name: buffer.clone() for name, buffer in self.dictionary.named_buffers()}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.fit.precision == "bfloat16"):
            self.architecture.loss(self.dictionary, Batch(x, y, dead, generator)).total.backward()
        self.dictionary.zero_grad(set_to_none=True)
        for name, buffer in self.dictionary.named_buffers():
            buffer.copy_(buffers[name])


@dataclass(frozen=True, eq=False)
class _Group:
    """Trainings that read the same batches, and what they read."""

    store: Store
    feed: Feed
    trainings: list[_Training]
    batch_size: int
    diagnoses: dict[Site, Diagnosis]

    @staticmethod
    def of(stages: Sequence[Train], ctx: Context) -> "_Group":
        """Prepare them; raises InputError when they cannot share their batches or something does not fit."""
        for name in ("store", "batch_size", "shuffle"):
            if len({getattr(stage, name) for stage in stages}) > 1:
                raise InputError(f"trainings with different --{name.replace('_', '-')} read different batches; start them one by one")
        chosen = [stage.identity(ctx) for stage in stages]
        places = [(Site.parse_joined(c["site"]), Site.parse_joined(c["write"])) for c in chosen]
        sites = tuple(dict.fromkeys(site for reads, writes in places for site in reads + writes))
        store = Store.open(runs.open_run(ctx.root, stages[0].store, "cache"), *sites, device=ctx.device)
        source = feed(store, sites, stages[0].batch_size, stages[0].shuffle)
        least = stages[0].batch_size if isinstance(source, Streamed) else 1
        if source.n_tokens < least:
            raise InputError(
                f"{store.run.id} has {source.n_tokens} tokens to train on where {least} are needed: the others are BOS or padding"
            )
        sample = source.sample(_SAMPLE)
        shared = _Batches(source, device_of(ctx.device), {})
        trainings = [_training(stage, c, place, sample, shared) for stage, c, place in zip(stages, chosen, places, strict=True)]
        return _Group(store, source, trainings, stages[0].batch_size, {site: diagnose(rows) for site, rows in sample.items()})

    @property
    def left_out(self) -> dict[str, int]:
        return {reason: int(mask[: self.store.n_train].sum()) for reason, mask in self.store.excluded.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of a token at all sites."""
        return sum(rows.shape[1] * rows.element_size() for rows in self.feed.batch(0).values())

    @property
    def feed_bytes(self) -> int:
        """Memory for what is read: a batch, or a chunk of the stream and the model."""
        if not isinstance(self.feed, Streamed):
            return 2 * self.batch_size * self.row_bytes
        model = self.store.model
        return 2 * CHUNK * self.row_bytes + model.n_parameters * model.dtype.itemsize

    def probe(self) -> tuple[float, float | None]:
        """Tokens a second of training, reading included, and of the model alone where it runs alongside."""
        model_rate = None
        if isinstance(self.feed, Streamed):
            started = time.perf_counter()
            self.store.computed(self.store.sites, np.arange(8))
            model_rate = 8 * self.store.context / (time.perf_counter() - started)
        for training in self.trainings:
            training.step()
        started = time.perf_counter()
        for training in self.trainings:
            training.step()
        seconds = (time.perf_counter() - started) / self.batch_size + (1 / model_rate if model_rate else 0)
        return 1 / seconds, model_rate

    def source(self, tokens: int, model_rate: float | None) -> str:
        """Whether to read activations from the disk or to compute them, by bytes and minutes; a stored run tells how fast it was made."""
        corpus = self.store.n_seq * self.store.context
        stored = corpus * self.row_bytes
        rate = model_rate or read_json(self.store.run.file("summary.json"))["tokens_per_s"]
        if not rate:
            # A cache run that was killed after its last shard has measured no speed.
            return f"stored: {size(stored)} on the disk; recommended: the disk, since it is there"
        disk, stream = tokens * self.row_bytes / DISK, tokens / rate
        making = f"{size(stored)} on the disk, {duration(corpus / rate)} to write and {duration(disk)} to read"
        running = f"the model alongside takes {duration(stream)} at {rate:,.0f} tokens/s and no disk"
        if model_rate is None:
            return f"stored: {making}; {running}; recommended: the disk, since it is there"
        free = shutil.disk_usage(self.store.run.path).free
        better = "store them (`interp cache` without --no-stored)" if corpus / rate + disk < stream and 1.05 * stored < free else "stream"
        return f"streamed: {running}; stored they would be {making}; recommended: {better}"


@dataclass(frozen=True, eq=False)
class _Batches:
    """Normalised batches that members with the same sites keep between them."""

    feed: Feed
    device: torch.device
    kept: dict[object, tuple[int, Any]]

    def rows(self, step: int) -> Rows:
        """The raw rows of a step, read once."""
        return self._once("rows", step, lambda: {site: rows.to(self.device) for site, rows in self.feed.batch(step).items()})

    def of(
        self, reads: tuple[Site, ...], writes: tuple[Site, ...], norm: Normalisation
    ) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
        """(x, y) from a step on."""

        def made(step: int) -> tuple[Tensor, Tensor]:
            rows = self.rows(step)
            x = norm.x(_beside(rows, reads))
            return x, x if reads == writes else norm.y(_beside(rows, writes))

        def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step in itertools.count(start):
                yield self._once((reads, writes), step, lambda step=step: made(step))

        return batches

    def _once(self, key: object, step: int, make: Callable[[], Any]) -> Any:
        if key not in self.kept or self.kept[key][0] != step:
            self.kept[key] = (step, make())
        return self.kept[key][1]


def _beside(rows: Rows, sites: tuple[Site, ...]) -> Tensor:
    return rows[sites[0]] if len(sites) == 1 else torch.cat([rows[site] for site in sites], 1)


def _training(
    stage: Train, chosen: dict[str, Any], place: tuple[tuple[Site, ...], tuple[Site, ...]], sample: Rows, shared: _Batches
) -> _Training:
    reads, writes = place
    parts, transcoder, width = len(reads), reads != writes, chosen["width"]
    if transcoder and len(writes) != parts:
        raise InputError(f"--write {chosen['write']} names {len(writes)} sites for {parts} that are read; give one for each")
    x = _beside(sample, reads)
    y = _beside(sample, writes) if transcoder else x
    norm = measure(x, y, parts)
    recipe: Recipe = stage.architecture
    dictionary: Module = recipe.build(x.shape[1], y.shape[1], width, seed=stage.seed, transcoder=transcoder, skip=stage.skip, parts=parts)
    if transcoder and not isinstance(dictionary, CodebookDictionary):
        dictionary.tie(norm.x(x), norm.y(y))
    if isinstance(recipe, StartsFromData):
        recipe.start(dictionary, norm.x(x))  # pyright: ignore[reportArgumentType]
    steps = math.ceil(stage.epochs * shared.feed.n_tokens / stage.batch_size)
    cfg = FitConfig(
        steps=steps,
        batch_size=stage.batch_size,
        lr=stage.lr,
        clip=clip_of(recipe),
        precision=chosen["precision"],
        log_every=stage.log_every,
        seed=stage.seed,
    )
    batches = shared.of(reads, writes, norm)
    return _Training(recipe, reads, writes, norm, dictionary.to(shared.device), cfg, batches)


@dataclass(eq=False)
class _Work:
    """One training in progress, and its folder."""

    training: _Training
    draft: Draft
    stage: Train
    log: Log
    resume: checkpoint.Checkpoint | None
    started: float = dataclasses.field(default_factory=time.monotonic)
    saved: float = dataclasses.field(default_factory=time.monotonic)
    tokens: int = 0
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    said: set[str] = dataclasses.field(default_factory=set)
    stopped: bool = False
    done: bool = False

    @staticmethod
    def begin(training: _Training, draft: Draft, stage: Train) -> "_Work":
        """Start, or go on after the checkpoint of the folder."""
        path = draft.path / "checkpoint"
        resume = checkpoint.read(path) if path.exists() else None
        log = Log.open(draft.path / "progress.jsonl", training.fit.steps, resume.step if resume else 0)
        return _Work(training, draft, stage, log, resume, tokens=resume.tokens if resume else 0)

    @property
    def first(self) -> int:
        """Tokens that were trained on before."""
        return self.resume.tokens if self.resume else 0

    @property
    def rate(self) -> float:
        return (self.tokens - self.first) / max(1e-9, time.monotonic() - self.started)

    def member(self) -> Member:
        t = self.training
        return Member(t.dictionary, t.batches, t.architecture.loss, t.fit, self.resume)

    def take(self, row: Row, stop: bool) -> list[str]:
        """Log a row, and write a checkpoint when one is due; returns warnings that were not given yet."""
        self.tokens, self.last = row.tokens, row.metrics
        self.log.append(row, self.rate)
        if row.step < self.training.fit.steps and (stop or time.monotonic() - self.saved > self.stage.checkpoint_seconds):
            checkpoint.write(self.draft.path / "checkpoint", row.checkpoint())
            self.saved, self.stopped = time.monotonic(), stop
        return warnings(row, self.training.fit.steps, self.said)

    def finish(self, group: _Group) -> None:
        """Measure what is left to measure, and write the files of the run."""
        t = self.training
        x = t.norm.x(_beside(group.feed.sample(_SAMPLE), t.reads)).to(next(t.dictionary.parameters()).device)
        t.architecture.finish(t.dictionary, x)
        metadata = {"site": joined(t.reads), "write": joined(t.writes), "store": self.stage.store, "tokens": self.tokens}
        check = files.save(t.dictionary, self.draft.path, normalisation=t.norm, metadata=metadata)
        with written(self.draft.path / "metrics.parquet") as aside:
            pq.write_table(self.log.table(), aside)
        figures = {
            **{name: self.last[name] for name in ("loss", "fvu", "l0", "dead_share", "dense_share")},
            "tokens": self.tokens,
            "tokens_per_s": round(self.rate, 1),
            "documents_per_batch": group.feed.documents_per_batch(),
            **{f"left_out_{reason}": count for reason, count in group.left_out.items()},
            **thresholds(t.dictionary),
            "self_check": check.max_difference,
            "seconds": round(time.monotonic() - self.started, 1),
        }
        self.draft.write_json("summary.json", figures)
        self.done = True


@contextlib.contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that is no longer empty after SIGTERM or SIGINT: training then stops at its next row, with a checkpoint."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
