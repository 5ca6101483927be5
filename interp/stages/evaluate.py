"""`interp eval`: fidelity of dictionaries on held-out tokens, each figure with a bootstrap interval; several in one pass of the model."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from interp.dictionaries import Trained
from interp.evals.bootstrap import Estimate
from interp.evals.loss_recovered import LossRecovered, Spliced, loss_recovered
from interp.evals.reconstruction import Accumulator
from interp.feed import feed
from interp.models import Model, load
from interp.progress import bar
from interp.runs import Draft, written
from interp.sites import Site
from interp.stages.base import Context, Plan
from interp.store import Store
from saes.errors import InputError

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

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise InputError(f"--sequences {self.sequences} measures nothing; give 1 or more")

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {}

    def plan(self, ctx: Context) -> Plan:
        return self.plan_all([self], ctx)

    def work(self, draft: Draft, ctx: Context) -> None:
        self.work_all([self], [draft], ctx, lambda draft: None)

    @staticmethod
    def plan_all(stages: "Sequence[Evaluate]", ctx: Context) -> Plan:
        """The cost of all of them in one pass of the model."""
        group = _Group.of(stages, ctx)
        store, model = group.store, group.model
        tokens, held_out = group.count * store.context, (store.n_seq - store.n_train) * store.context
        passes = 1 + len(group.trained) + 2 * len({t.writes for t in group.trained})
        weights = sum(p.numel() for t in group.trained for p in t.dictionary.parameters())
        names = ", ".join(t.run.id for t in group.trained)
        return Plan(
            {
                "dictionary": names,
                "tokens": f"{held_out:,} held out; {tokens:,} of them through the model {passes} times for {len(stages)} of them together",
            },
            disk=100_000 * len(stages),
            memory=model.n_parameters * 4 + 4 * weights + 4 * _BATCH * store.context * model.d_vocab * 4,
            seconds=passes * tokens / _probe(model, store),
        )

    @staticmethod
    def work_all(stages: "Sequence[Evaluate]", drafts: Sequence[Draft], ctx: Context, done: Callable[[Draft], object]) -> None:
        """Evaluate all of them: one reading of the held-out activations, one clean run of the model."""
        started = time.monotonic()
        group = _Group.of(stages, ctx)
        for trained, draft, loss in zip(group.trained, drafts, group.losses(), strict=True):
            table = group.reconstructions[trained.run.id].result().table() | loss.table()
            with written(draft.path / "metrics.parquet") as aside:
                pq.write_table(_metrics(table), aside)
            figures = {name: entry.value for name, entry in table.items()}
            intervals = {f"{name}_{side}": getattr(entry, side) for name, entry in table.items() for side in ("low", "high")}
            draft.write_json("summary.json", {**figures, "seconds": round(time.monotonic() - started, 1), **intervals})
            done(draft)


@dataclass(frozen=True, eq=False)
class _Group:
    """Dictionaries that were trained on one cache run, and its model."""

    trained: list[Trained]
    count: int
    """Held-out sequences that go through the model."""
    model: Model

    @staticmethod
    def of(stages: Sequence[Evaluate], ctx: Context) -> "_Group":
        """Open them; raises InputError when they do not share their held-out tokens."""
        trained = [Trained.open(ctx.root, stage.dictionary, ctx.device) for stage in stages]
        stores = {t.store.run.id for t in trained}
        if len(stores) > 1 or len({stage.sequences for stage in stages}) > 1:
            raise InputError(f"dictionaries of {', '.join(sorted(stores))} have different held-out tokens; evaluate them one by one")
        store = trained[0].store
        config = store.run.config["config"]
        count = min(stages[0].sequences, store.n_seq - store.n_train)
        places = {tuple(sorted({*t.reads, *t.writes})) for t in trained}
        model = load(config["model"], config["dtype"], ctx.device)
        if model.codebooks and len(places) > 1:
            raise InputError(f"{model.name} has bottlenecks, and without the one of another site it is another model; evaluate one by one")
        # What a bottleneck costs is seen against the model without it, which holds for any dictionary in its place.
        return _Group(trained, count, model.without(places.pop()) if model.codebooks else model)

    @property
    def store(self) -> Store:
        return self.trained[0].store

    @functools.cached_property
    def sites(self) -> tuple[Site, ...]:
        return tuple(dict.fromkeys(site for t in self.trained for site in t.reads + t.writes))

    @functools.cached_property
    def reconstructions(self) -> dict[str, Accumulator]:
        """Every dictionary on all held-out tokens, read once."""
        store, keep = self.store, self.store.keep
        found = {t.run.id: Accumulator(t.dictionary, len(t.writes)) for t in self.trained}
        for start in range(store.n_train, store.n_seq, 16):
            stop = min(start + 16, store.n_seq)
            widths = [store.width(site) for site in self.sites]
            rows = store.sequences(self.sites, start, stop).to(self.model.device).split(widths, -1)
            at = dict(zip(self.sites, rows, strict=True))
            kept = keep[start:stop].to(self.model.device)
            for t in self.trained:
                x, y = (torch.cat([at[site] for site in sites], -1) for sites in (t.reads, t.writes))
                found[t.run.id].update(x, y, kept)
        return found

    def losses(self) -> list[LossRecovered]:
        """Cross-entropies of all of them."""
        store, keep, stop = self.store, self.store.keep, self.store.n_train + self.count
        sample = feed(store, self.sites, 2048, seed=0).sample(32_768)
        means = {site: rows.float().mean(0) for site, rows in sample.items()}
        with bar((stop - store.n_train) * store.context, "tok", "eval") as progress:

            def batches() -> Any:
                for start in range(store.n_train, stop, _BATCH):
                    chosen = slice(start, min(start + _BATCH, stop))
                    yield torch.from_numpy(store.tokens[chosen]).long(), keep[chosen]
                    progress.update(store.tokens[chosen].size)

            return loss_recovered(self.model, [Spliced(t.reads, t.writes, t.dictionary) for t in self.trained], means, batches())


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
