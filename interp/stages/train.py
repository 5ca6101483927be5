"""`interp train`: a dictionary on cached activations, resumable to the bit."""

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from torch import Tensor

from interp import runs
from interp.models import device_of
from interp.progress import bar
from interp.runs import Draft, written
from interp.sites import Site
from interp.stages.base import Context, Plan
from interp.store import Order, Store
from saes import checkpoint, files
from saes.architectures import Architecture, TopK
from saes.dictionary import Batch
from saes.errors import InputError
from saes.normalise import Normalisation, measure
from saes.schedule import FitConfig
from saes.sparse import SparseDictionary
from saes.train import Row, fit

# Tokens that centring and scale are measured on.
_SAMPLE = 32_768


@dataclass(frozen=True)
class Train:
    """Train a dictionary on the activations of a cache run."""

    NAME: ClassVar[str] = "train"
    PARENTS: ClassVar[dict[str, str]] = {"store": "cache"}
    FREE: ClassVar[tuple[str, ...]] = ("checkpoint_seconds",)

    store: tyro.conf.Positional[str]
    """The cache run."""
    architecture: Architecture = dataclasses.field(default_factory=TopK)
    """What is trained."""
    site: str = ""
    """Which site of the cache run; the first without one."""
    width: int = 0
    """Latents; 0 takes eight for each input dimension."""
    epochs: float = 3.0
    """Passes over the training tokens."""
    batch_size: int = 2048
    """Tokens of a step."""
    lr: float | None = None
    """Peak learning rate; without one 2e-4 / sqrt(width / 16384), doubled: short runs want it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the encoder's product; auto takes bfloat16 where the hardware multiplies it faster. Weights are float32 always."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    seed: int = 0
    """Seed of initialisation and token order."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints: what a killed run loses at most."""

    def identity(self, ctx: Context) -> dict[str, Any]:
        store = runs.open_run(ctx.root, self.store, "cache")
        sites = store.config["config"]["sites"]
        site = str(Site.parse(self.site)) if self.site else sites[0]
        if site not in sites:
            raise InputError(f"{store.id} holds no {site}; it holds {', '.join(sites)}")
        width = self.width or 8 * Store(store).width(Site.parse(site))
        return {"site": site, "width": width, "precision": _precision(self.precision, device_of(ctx.device))}

    def plan(self, ctx: Context) -> Plan:
        training = self._prepare(ctx)
        rate = training.probe()
        parameters = sum(p.numel() for p in training.dictionary.parameters())
        sizes = f"{training.dictionary.d_in} → {training.dictionary.d_dict:,} latents, {parameters / 1e6:.1f} M parameters"
        steps = f"{self.epochs:g} times = {training.fit.steps:,} steps of {self.batch_size:,}; {rate:,.0f} tokens/s by a probe"
        return Plan(
            {
                "dictionary": f"{type(self.architecture).__name__} on {training.site}, {sizes}, products in {training.fit.precision}",
                "tokens": f"{len(training.order.pool):,} to train on, {steps}",
                "left out": ", ".join(f"{count:,} {reason}" for reason, count in training.left_out.items()),
                "mixing": f"a batch mixes {training.documents_per_batch:,.0f} documents",
            },
            disk=parameters * 4 * 5,
            # Weights, gradient and two moments, one checkpoint copy; pre-activations and scores of a batch.
            memory=parameters * 4 * 7 + self.batch_size * training.dictionary.d_dict * 12,
            seconds=training.fit.steps * self.batch_size / rate,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        training = self._prepare(ctx)
        saved = draft.path / "checkpoint"
        resume = checkpoint.read(saved) if saved.exists() else None
        log = _Log.open(draft.path / "progress.jsonl", training.fit.steps, 0 if resume is None else resume.step)
        rows = fit(
            training.dictionary, training.batches(0 if resume is None else resume.step), self.architecture.loss, training.fit, resume=resume
        )
        first = 0 if resume is None else resume.tokens
        with _stop_requested() as stopped, bar(training.fit.steps * self.batch_size, "tok", "train", first) as progress:
            last = time.monotonic()
            for row in rows:
                log.append(row, (row.tokens - first) / (time.monotonic() - started))
                progress.set_postfix_str(
                    " ".join(f"{name} {row.metrics[name]:.4g}" for name in ("loss", "fvu", "l0", "dead_share")), refresh=False
                )
                progress.update(row.tokens - progress.n)
                if stopped or time.monotonic() - last > self.checkpoint_seconds:
                    checkpoint.write(saved, row.checkpoint())
                    last = time.monotonic()
                if stopped:
                    raise KeyboardInterrupt
        self._finish(draft, training, log, started, first)

    def _finish(self, draft: Draft, training: "_Training", log: "_Log", started: float, first: int) -> None:
        metadata = {"site": str(training.site), "store": self.store, "tokens": log.rows[-1]["tokens"]}
        check = files.save(training.dictionary, draft.path, normalisation=training.norm, metadata=metadata)
        with written(draft.path / "metrics.parquet") as aside:
            pq.write_table(log.table(), aside)
        final = log.rows[-1]
        seconds = time.monotonic() - started
        draft.write_json(
            "summary.json",
            {
                **{name: final[name] for name in ("loss", "fvu", "l0", "dead_share")},
                "tokens": final["tokens"],
                "tokens_per_s": round((final["tokens"] - first) / seconds, 1),
                "documents_per_batch": training.documents_per_batch,
                **{f"left_out_{reason}": count for reason, count in training.left_out.items()},
                "self_check": check.max_difference,
                "seconds": round(seconds, 1),
            },
        )

    def _prepare(self, ctx: Context) -> "_Training":
        run = runs.open_run(ctx.root, self.store, "cache")
        chosen = self.identity(ctx)
        site = Site.parse(chosen["site"])
        store = Store.open(run, site)
        order = store.order(site, self.seed)
        if not len(order.pool):
            raise InputError(f"{run.id} has no token to train on: all are BOS, padding or outliers")
        sample = store.rows(site, order.rows(0, min(_SAMPLE, len(order.pool))))
        d = sample.shape[1]
        device = device_of(ctx.device)
        dictionary = self.architecture.build(d, d, chosen["width"], seed=self.seed).to(device)
        steps = math.ceil(self.epochs * len(order.pool) / self.batch_size)
        lr = 4e-4 / math.sqrt(chosen["width"] / 2**14) if self.lr is None else self.lr
        cfg = FitConfig(
            steps=steps, batch_size=self.batch_size, lr=lr, precision=chosen["precision"], log_every=self.log_every, seed=self.seed
        )
        return _Training(self.architecture, store, site, order, measure(sample, sample), dictionary, cfg)


@dataclass(frozen=True, eq=False)
class _Training:
    """All that one training is made of, the same whenever it is prepared."""

    architecture: Architecture
    store: Store
    site: Site
    order: Order
    norm: Normalisation
    dictionary: SparseDictionary
    fit: FitConfig

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised (x, y) from a step on."""
        device = self.dictionary.b_dec.device
        for rows in self.order.steps(self.fit.batch_size, start):
            x = self.norm.x(self.store.rows(self.site, rows).to(device))
            yield x, x

    @property
    def left_out(self) -> dict[str, int]:
        return {reason: int(mask[: self.store.n_train].sum()) for reason, mask in self.store.excluded(self.site).items()}

    @property
    def documents_per_batch(self) -> float:
        counts = [self.store.distinct_documents(self.order.rows(step, self.fit.batch_size)) for step in range(8)]
        return sum(counts) / len(counts)

    def probe(self) -> float:
        """Tokens per second of a forward and backward pass, data included; nothing is learnt."""
        dead = torch.zeros(self.dictionary.d_dict, dtype=torch.bool, device=self.dictionary.b_dec.device)
        batches = self.batches(0)
        start = 0.0
        for step in range(3):
            if step == 1:
                start = time.perf_counter()
            x, y = next(batches)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.fit.precision == "bfloat16"):
                self.architecture.loss(self.dictionary, Batch(x, y, dead)).total.backward()
        self.dictionary.zero_grad(set_to_none=True)
        return 2 * self.fit.batch_size / (time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _Log:
    """Rows of metrics: a line of JSON each while training, a tidy table afterwards."""

    path: Path
    rows: list[dict[str, float]]

    @staticmethod
    def open(path: Path, steps: int, resumed: int) -> "_Log":
        """Begin, or keep the rows up to the step resumed from; a last line cut short is dropped."""
        rows = []
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        rows = [row for row in rows if row["step"] <= resumed]
        with written(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in ({"steps": steps}, *rows)))
        return _Log(path, rows)

    def append(self, row: Row, rate: float) -> None:
        self.rows.append({"step": row.step, "tokens": row.tokens, **row.metrics, "tokens_per_s": round(rate, 1)})
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")

    def table(self) -> pa.Table:
        """step, tokens, name, value; the speed stays out, so that equal trainings give equal files."""
        names = [name for name in self.rows[0] if name not in ("step", "tokens", "tokens_per_s")]
        flat = [(int(row["step"]), int(row["tokens"]), name, row[name]) for row in self.rows for name in names]
        steps, tokens, labels, values = zip(*flat, strict=True)
        columns = [
            pa.array(steps, pa.int64()),
            pa.array(tokens, pa.int64()),
            pa.array(labels).dictionary_encode(),
            pa.array(values, pa.float32()),
        ]
        return pa.table(columns, names=["step", "tokens", "name", "value"])


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


def _precision(wanted: str, device: torch.device) -> str:
    """bfloat16 where the device multiplies it in hardware: Ampere and later, or a CPU with AMX or AVX-512 BF16."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
    return "bfloat16" if fast else "float32"
