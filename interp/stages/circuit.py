"""`interp circuit TASK`: which heads and MLPs, or which edges, carry a task, and how faithful the circuits of the best are.

A method scores nodes or edges on one half of the pairs; a part of them is ablated exactly, as an audit; curves are measured on the other
half, beside random circuits, and so are the tests of one circuit, the one in view; the means of mean ablation come from prompts of their
own. With a published circuit of the model, the scores are held against it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro

from interp.circuits import known
from interp.circuits.ablation import Ablation, Outputs, replacement
from interp.circuits.audit import Audit, agreement, audit
from interp.circuits.cost import activation_bytes, run_passes, seconds_per_pass
from interp.circuits.exported import exported
from interp.circuits.faithfulness import Curves, Series, curves
from interp.circuits.graph import Graph, KeyValue, Ranking, Scores, graph
from interp.circuits.methods import Attribution, Exact, ExactEdges, Imported, Method
from interp.circuits.methods.random import shuffled
from interp.circuits.optimal import optimal
from interp.circuits.report import (
    Splits,
    area_figures,
    curve_rows,
    edge_rows,
    headline,
    node_rows,
    prompt_rows,
    solved,
    top,
    write,
)
from interp.circuits.stored import store, stored
from interp.circuits.trials import Trials, example_rows, figures, n_circuits, trial_rows, trials
from interp.circuits.view import View, view, wanted
from interp.models import DTYPES, Model, load, source
from interp.runs import Draft
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.tasks import AnyTask, Pairs, Task, TaskFile, line
from interp.tasks.kl import Kl
from interp.tasks.task_file import said
from interp.text.vocab import vocabulary
from saes.errors import InputError


@dataclass(frozen=True)
class Circuit:
    """Find the heads and MLPs, or the edges between them, that carry a task."""

    NAME: ClassVar[str] = "circuit"
    PARENTS: ClassVar[dict[str, str]] = {}

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=line.TASK)] = "ioi"
    model: str = "smollm2"
    """smollm2 (packaged), a local folder, or a Hub id."""
    method: Method = field(default_factory=Attribution)
    """What scores nodes (attribution, exact, ...) or edges (eap, eap-ig, exact-edges, acdc, ...)."""
    ablation: Ablation = "resample"
    """What ablated nodes write. resample: what they write on the corrupt prompt. mean: their mean at that position over reference prompts.
    mean_all: their mean over all positions. zero: nothing. optimal: a constant that is trained to do least harm."""
    objective: Literal["metric", "kl"] = "metric"
    """What is scored and measured. metric: that of the task. kl: minus the divergence from the whole model's output, in nats."""
    kv: KeyValue = "grouped"
    """With grouped queries, keys and values as the model has them, or one for each query head (per_query_head)."""
    pairs: int = 32
    """Clean and corrupt prompts: one half scores the nodes, the other half measures the circuits."""
    reference: int = 128
    """More prompts, from which mean ablation takes its means."""
    corruption: Annotated[str | None, tyro.conf.arg(help=line.CORRUPTION)] = None
    options: tuple[str, ...] = ()
    """Options of the task as NAME=VALUE, for example family=long (ioi), structure=simple (agreement), relation=past (relation) or length=10
    (induction)."""
    ranking: Ranking = "helping"
    """Order in which nodes enter a circuit. helping: the lowest score first (ablating it hurts most), so a small circuit may beat the
    whole model. absolute: the largest |score| first, which also keeps what works against the answer."""
    bos: bool = True
    """Put the model's BOS token in front of each prompt."""
    size: int | None = None
    """Nodes or edges of the circuit in view, which tables mark, tests examine and `interp compare` compares: 20 nodes or 5 % of the edges
    where none is given, half the graph at most."""
    tests: int = 20
    """Random circuits of equal size in every layer that the circuit in view is tested against, and units of it that are knocked out, evenly
    from its first to its last. Below 20 no p-value gets under .05. 0: no tests."""
    truth: str = ""
    """A published circuit to hold the scores against: ioi, ioi/wang, greater_than/hanna, docstring, ..."""
    audit: int = 200
    """Edges that are ablated exactly, to hold the scores against; of nodes all are. 0: none."""
    random_orders: int = 3
    """Random orders that the curves are held against."""
    seed: int = 0
    """Seed of prompts, audit and random orders."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The model runs in this type."""

    def __post_init__(self) -> None:
        self._base()
        line.require_halves(self.pairs)
        if self.reference < 1 or self.random_orders < 1:
            raise InputError(f"--reference {self.reference} --random-orders {self.random_orders}: both must be at least 1")
        if self.audit < 0 or self.tests < 0:
            raise InputError(
                f"--audit {self.audit} --tests {self.tests}: neither can be negative; give 0 for none, or for example 200 and 20"
            )

    def identity(self, ctx: Context) -> dict[str, Any]:
        resolved = line.identity(self._base())
        resolved |= self.method.identity() if isinstance(self.method, Imported) else {}
        return {"model_revision": source(self.model).revision(), **resolved}

    def plan(self, ctx: Context) -> Plan:
        model = load(self.model, self.dtype, ctx.device)
        splits, whole = self.splits(model), graph(model, self.kv)
        known_as = known.chosen(self.truth, whole, self.ablation).name if self.truth else "none"
        size = wanted(whole, self.method.UNIT, self.size)
        tokens = splits.test.clean.numel()
        total, seconds = self._passes(whole, splits), seconds_per_pass(model, self._base(), splits.train)
        return Plan(
            {
                "model": f"{self.model}, {model.n_parameters / 1e6:.0f} M parameters, {self.dtype} on {model.device}",
                "task": f"{self.task}, corruption {self._base().corruption}, BOS {model.bos if self.bos else 'none'}",
                **self._dropped(model),
                "pairs": f"{len(splits.train)} to score, {len(splits.test)} to measure, {len(splits.mean)} for means",
                "graph": f"{int(whole.is_head().sum())} heads, {int((~whole.is_head()).sum())} MLPs, {whole.n_edges:,} edges",
                "method": f"{self.method.NAME} scores {self.method.UNIT}s, {self.ablation} ablation",
                "circuit in view": f"{size:,} {self.method.UNIT}s, {n_circuits(self.tests, size)} circuits to test it; truth: {known_as}",
                "passes": f"{total:.0f} forwards of {tokens} tokens; {tokens / seconds:,.0f} tokens/s by a probe",
            },
            disk=2_000_000 + 40 * model.d_vocab + 200 * whole.n_edges * (self.method.UNIT == "edge"),
            memory=model.n_parameters * DTYPES[self.dtype].itemsize + activation_bytes(model, whole, splits),
            seconds=total * seconds,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        model = load(self.model, self.dtype, ctx.device)
        splits, whole = self.splits(model), graph(model, self.kv)
        chosen = self._objective()
        scores, exact = self._scores(draft, model, chosen, splits, whole)
        found = list(self._curves(model, chosen, splits, scores, exact))
        seen = view(scores, self.ranking, self.size)
        tested = self._trials(model, chosen, splits, seen, found[-1])
        truth = known.chosen(self.truth, whole, self.ablation) if self.truth else None
        verdicts = [] if truth is None else known.rows(scores, truth, self.ablation)
        tables = {"nodes": node_rows(seen, exact), "curve": curve_rows(found), "prompts": prompt_rows(splits)}
        tables |= {"examples": example_rows(tested, len(splits.train))}
        tables |= {"edges": edge_rows(seen, exact)} if scores.unit == "edge" else {}
        tables |= {"tests": trial_rows(tested)} if self.tests else {}
        tables |= {"truth": [row.table() for row in verdicts]} if verdicts else {}
        for name, rows in tables.items():
            write(draft, f"{name}.parquet", rows)
        if scores.unit == "edge":
            draft.write_json("circuit.json", exported(seen, model))
        write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
        summary = self._figures(model, chosen, splits) | {
            f"top_{'heads' if scores.unit == 'node' else 'edges'}": top(scores),
            **scores.notes,
        }
        summary |= {} if exact is None else agreement(scores, exact)
        summary |= headline([point for one in found for point in one.points])
        for series in ("method", "random"):
            summary |= area_figures(found[-1], series)
        summary |= figures(tested) | ({} if truth is None else known.figures(truth, verdicts))
        cost = {"passes": round(self._passes(whole, splits)), "seconds": round(time.monotonic() - started, 1)}
        draft.write_json("summary.json", summary | cost)

    def splits(self, model: Model) -> Splits:
        """The pairs, drawn once and cut in three; the task draws no prompt twice."""
        bos = model.bos if self.bos else None
        means = not {*self._measured()} <= {"resample", "zero"}
        drawn = self._base().pairs(model.tokenizer, self.pairs + self.reference * means, self.seed, bos).to(model.device)
        drawn = Kl.targeted(model, drawn) if self.objective == "kl" else drawn
        half = self.pairs // 2
        return Splits(drawn.rows(slice(half)), drawn.rows(slice(half, self.pairs)), drawn.rows(slice(self.pairs, None)))

    def _base(self) -> AnyTask:
        return line.named(self.task, self.corruption, self.options)

    def _objective(self) -> Task:
        return self._base() if self.objective == "metric" else Kl(self._base())

    def _dropped(self, model: Model) -> dict[str, str]:
        """What of a file cannot be used with this model."""
        chosen = self._base()
        dropped = chosen.dropped(model.tokenizer) if isinstance(chosen, TaskFile) else {}
        return {"dropped": said(dropped)} if dropped else {}

    def _scores(self, draft: Draft, model: Model, chosen: Task, splits: Splits, whole: Graph) -> tuple[Scores, Audit | None]:
        """Scores and audit, kept in the run: a resumed run goes on from them."""
        path, unit = draft.path / "scores.safetensors", self.method.UNIT
        if not path.exists():
            values = self._values(model, whole, splits.train, splits)
            found = self.method(model, chosen, splits.train, whole, values)
            sampled = self.audit and not isinstance(self.method, Exact | ExactEdges)
            store(path, found, audit(model, chosen, splits.train, found, values, self.audit, self.seed) if sampled else None)
        scores, exact = stored(path, whole, unit, len(splits.train))
        if isinstance(self.method, Exact) and scores.per_example is not None:
            exact = Audit(torch.arange(len(scores.mean)), scores.per_example)
        return scores, exact

    def _curves(self, model: Model, chosen: Task, splits: Splits, scores: Scores, exact: Audit | None) -> Iterator[Curves]:
        """Curves of the method, of exact effects where all are known, and of random orders. Of nodes over heads (every MLP runs) and over
        heads and MLPs, and beside resampling under mean ablation too."""
        series = [Series("method", scores, self.ranking)]
        if exact is not None and scores.unit == "node" and not isinstance(self.method, Exact):
            series.append(Series("exact", Scores.of(scores.graph, "node", exact.per_example), self.ranking))
        for seed in range(self.seed, self.seed + self.random_orders):
            series.append(Series("random", shuffled(scores.graph, scores.unit, seed), "absolute", seed))
        for ablation in self._measured():
            values = self._values(model, scores.graph, splits.test, splits, ablation)
            for heads_only in (True, False) if scores.unit == "node" else (False,):
                yield curves(model, chosen, splits.test, series, ablation, values, heads_only)

    def _trials(self, model: Model, chosen: Task, splits: Splits, seen: View, of: Curves) -> Trials:
        """Tests of the circuit in view, under the run's own ablation, as the last curves are."""
        values = self._values(model, seen.scores.graph, splits.test, splits)
        return trials(model, chosen, splits.test, seen, values, of.full, of.empty, self.tests, self.seed)

    def _measured(self) -> tuple[Ablation, ...]:
        """Ablations of the curves, the method's own last."""
        return ("mean", "resample") if self.method.UNIT == "node" and self.ablation == "resample" else (self.ablation,)

    def _values(self, model: Model, whole: Graph, pairs: Pairs, splits: Splits, ablation: Ablation | None = None) -> Outputs:
        chosen = ablation or self.ablation
        if chosen != "optimal":
            return replacement(model, whole, pairs, chosen, splits.mean)
        return optimal(model, whole, splits.mean, replacement(model, whole, pairs, "mean_all", splits.mean))

    def _passes(self, whole: Graph, splits: Splits) -> float:
        size = wanted(whole, self.method.UNIT, self.size)
        return run_passes(self.method, whole, splits, self._measured(), self.random_orders, self.audit, self.tests, size)

    def _figures(self, model: Model, chosen: Task, splits: Splits) -> dict[str, Any]:
        """How well the model solves the task, over scored and measured pairs together."""
        return {
            "method": self.method.NAME,
            "unit": self.method.UNIT,
            "ablation": self.ablation,
            "objective": self.objective,
            "pairs": self.pairs,
            "corruption": self._base().corruption,
            "ranking": self.ranking,
            "bos": model.bos if self.bos else None,
            **solved(model, self._base(), chosen, (splits.train, splits.test)),
            "about": self._about(chosen),
        }

    def _about(self, chosen: Task) -> dict[str, Any]:
        """What readers write of the run in words: they know no task and no method of their own."""
        base = self._base()
        name, unit = chosen.METRIC
        said = {"task": base.ABOUT, "corruption": base.CORRUPTIONS[base.corruption], "method": self.method.ABOUT}
        return said | {"effects": self.method.EFFECTS, "metric": name, "metric_unit": unit}
