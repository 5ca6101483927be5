"""`interp eval`: fidelity of a dictionary on held-out tokens, each figure with a bootstrap interval."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from interp import runs
from interp.evals.bootstrap import Estimate
from interp.evals.loss_recovered import RUNS, LossRecovered, loss_recovered
from interp.evals.reconstruction import reconstruction
from interp.models import Model, load
from interp.progress import bar
from interp.runs import Draft, written
from interp.sites import Site
from interp.stages.base import Context, Plan
from interp.store import Store
from saes import files
from saes.sparse import SparseDictionary

# Sequences of one forward pass: logits of 8 x 128 tokens and 49,152 words take 200 MB in float32.
_BATCH = 8


@dataclass(frozen=True)
class Evaluate:
    """FVU, L0, dead and dense share, CE recovered and KL of a dictionary on held-out tokens."""

    NAME: ClassVar[str] = "evaluate"
    PARENTS: ClassVar[dict[str, str]] = {"dictionary": "train"}

    dictionary: tyro.conf.Positional[str]
    """The train run."""
    sequences: int = 64
    """Held-out sequences for cross-entropy and KL, which need the model; FVU and L0 use all held-out tokens."""

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {}

    def plan(self, ctx: Context) -> Plan:
        store, _ = self._inputs(ctx)
        tokens = self._count(store) * store.context
        model = self._model(store, ctx)
        rate = _probe(model, store)
        held_out = (store.n_seq - store.n_train) * store.context
        return Plan(
            {
                "dictionary": self.dictionary,
                "tokens": f"{held_out:,} held out; {tokens:,} of them through the model {len(RUNS)} times",
            },
            disk=100_000,
            memory=model.n_parameters * 4 + 4 * _BATCH * store.context * model.d_vocab * 4,
            seconds=len(RUNS) * tokens / rate,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        store, train = self._inputs(ctx)
        site = Site.parse(train.config["config"]["site"])
        model = self._model(store, ctx)
        dictionary = files.load(train.path).to(model.device)
        table = reconstruction(dictionary, _held_out(store, site, model)).table()
        table |= self._loss(model, site, dictionary, store).table()
        with written(draft.path / "metrics.parquet") as aside:
            pq.write_table(_metrics(table), aside)
        figures = {name: entry.value for name, entry in table.items()}
        intervals = {f"{name}_{side}": getattr(entry, side) for name, entry in table.items() for side in ("low", "high")}
        draft.write_json("summary.json", {**figures, "seconds": round(time.monotonic() - started, 1), **intervals})

    def _inputs(self, ctx: Context) -> tuple[Store, runs.Run]:
        train = runs.open_run(ctx.root, self.dictionary, "train")
        return Store.open(train.parent("store"), Site.parse(train.config["config"]["site"])), train

    def _count(self, store: Store) -> int:
        return min(self.sequences, store.n_seq - store.n_train)

    def _model(self, store: Store, ctx: Context) -> Model:
        config = store.run.config["config"]
        return load(config["model"], config["dtype"], ctx.device)

    def _loss(self, model: Model, site: Site, dictionary: SparseDictionary, store: Store) -> LossRecovered:
        stop = store.n_train + self._count(store)
        keep = store.keep(site)
        mean = store.rows(site, store.order(site, seed=0).rows(0, 32_768)).float().mean(0)
        with bar((stop - store.n_train) * store.context, "tok", "eval") as progress:

            def batches() -> Any:
                for start in range(store.n_train, stop, _BATCH):
                    chosen = slice(start, min(start + _BATCH, stop))
                    yield torch.from_numpy(store.tokens[chosen]).long(), keep[chosen]
                    progress.update(store.tokens[chosen].size)

            return loss_recovered(model, site, dictionary, mean, batches())


def _held_out(store: Store, site: Site, model: Model) -> Any:
    keep = store.keep(site)
    for start in range(store.n_train, store.n_seq, 16):
        stop = min(start + 16, store.n_seq)
        yield store.sequences(site, start, stop).to(model.device), keep[start:stop].to(model.device)


def _probe(model: Model, store: Store) -> float:
    """Tokens per second of a whole forward pass."""
    tokens = torch.from_numpy(store.tokens[:4]).long()
    start = time.perf_counter()
    with torch.no_grad():
        model(tokens)
    return tokens.numel() / (time.perf_counter() - start)


def _metrics(table: dict[str, Estimate]) -> pa.Table:
    reference = {"ce_recovered_zero": "zero ablation", "ce_recovered_mean": "mean ablation", "kl": "clean model", "fvu": "mean activation"}
    rows = [
        {"name": name, "value": e.value, "low": e.low, "high": e.high, "n": e.n, "reference": reference.get(name, "")}
        for name, e in table.items()
    ]
    number = pa.float32()
    return pa.Table.from_pylist(
        rows, pa.schema({"name": pa.string(), "value": number, "low": number, "high": number, "n": pa.int64(), "reference": pa.string()})
    )
