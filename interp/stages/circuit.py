"""`interp circuit TASK`: which heads and MLPs, or which edges, carry a task, and how faithful the circuits of the best are.

A method scores nodes or edges on one half of the pairs; a part of them is ablated exactly, as an audit; curves are measured on the other
half, beside random circuits; the means of mean ablation come from prompts of their own.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from safetensors.torch import load_file, save_file

from interp.circuits.ablation import Ablation, Outputs, replacement
from interp.circuits.audit import Audit, agreement, audit
from interp.circuits.faithfulness import Curves, Series, curves, sizes
from interp.circuits.forward import clean_metric, corrupt_metric, passes
from interp.circuits.graph import Graph, KeyValue, Ranking, Scores, graph
from interp.circuits.methods import Attribution, Exact, ExactEdges, Method
from interp.circuits.methods.random import shuffled
from interp.circuits.optimal import optimal
from interp.circuits.report import SCHEMAS, Splits, area_figures, curve_rows, edge_rows, headline, node_rows, prompt_rows, top
from interp.models import DTYPES, Model, load, source
from interp.runs import Draft, written
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.tasks import TASKS, AnyTask, Pairs, Task, TaskFile, corruptions, task
from interp.tasks.kl import Kl
from interp.tasks.task_file import said
from interp.text.vocab import vocabulary
from saes.errors import InputError

_TASKS = f"The task: {', '.join(TASKS)}, or a file of prompts (.jsonl, .json, .csv) with clean, corrupt, right and wrong in each line."
_CORRUPTIONS = "What the corrupt prompt changes, the first where none is given. " + "; ".join(
    f"{kind.NAME}: {', '.join(corruptions(kind))}" for kind in (*TASKS.values(), TaskFile)
)


@dataclass(frozen=True)
class Circuit:
    """Find the heads and MLPs, or the edges between them, that carry a task."""

    NAME: ClassVar[str] = "circuit"
    PARENTS: ClassVar[dict[str, str]] = {}

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_TASKS)] = "ioi"
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
    corruption: Annotated[str | None, tyro.conf.arg(help=_CORRUPTIONS)] = None
    options: tuple[str, ...] = ()
    """Options of the task as NAME=VALUE, for example family=long (ioi), structure=simple (agreement), relation=past (relation) or length=10
    (induction)."""
    ranking: Ranking = "helping"
    """Order in which nodes enter a circuit. helping: the lowest score first (ablating it hurts most), so a small circuit may beat the
    whole model. absolute: the largest |score| first, which also keeps what works against the answer."""
    bos: bool = True
    """Put the model's BOS token in front of each prompt."""
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
        if self.pairs < 4 or self.pairs % 2:
            raise InputError(
                f"--pairs {self.pairs} cannot be halved into scoring and measuring; give an even number from 4 on, for example 32"
            )
        if self.reference < 1 or self.random_orders < 1:
            raise InputError(f"--reference {self.reference} --random-orders {self.random_orders}: both must be at least 1")
        if self.audit < 0:
            raise InputError(f"--audit {self.audit} is less than no edge; give 0 for none, or for example 200")

    def identity(self, ctx: Context) -> dict[str, Any]:
        chosen = self._base()
        others = {name: value for name, value in vars(chosen).items() if name not in ("path", "corruption")}
        resolved = {"corruption": chosen.corruption, "options": [f"{name}={value}" for name, value in others.items()]}
        resolved |= {"prompts_sha256": chosen.sha256()} if isinstance(chosen, TaskFile) else {"task": chosen.NAME}
        return {"model_revision": source(self.model).revision(), **resolved}

    def plan(self, ctx: Context) -> Plan:
        model = load(self.model, self.dtype, ctx.device)
        splits, whole = self.splits(model), graph(model, self.kv)
        tokens = splits.test.clean.numel()
        total, seconds = self._passes(whole, splits), _seconds_per_pass(model, self._base(), splits.train)
        return Plan(
            {
                "model": f"{self.model}, {model.n_parameters / 1e6:.0f} M parameters, {self.dtype} on {model.device}",
                "task": f"{self.task}, corruption {self._base().corruption}, BOS {model.bos if self.bos else 'none'}",
                **self._dropped(model),
                "pairs": f"{len(splits.train)} to score, {len(splits.test)} to measure, {len(splits.mean)} for means",
                "graph": f"{int(whole.is_head().sum())} heads, {int((~whole.is_head()).sum())} MLPs, {whole.n_edges:,} edges",
                "method": f"{self.method.NAME} scores {self.method.UNIT}s, {self.ablation} ablation",
                "passes": f"{total:.0f} forwards of {tokens} tokens; {tokens / seconds:,.0f} tokens/s by a probe",
            },
            disk=2_000_000 + 40 * model.d_vocab + 60 * whole.n_edges * (self.method.UNIT == "edge"),
            memory=model.n_parameters * DTYPES[self.dtype].itemsize + _activation_bytes(model, whole, splits),
            seconds=total * seconds,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        model = load(self.model, self.dtype, ctx.device)
        splits, whole = self.splits(model), graph(model, self.kv)
        chosen = self._objective()
        scores, exact = self._scores(draft, model, chosen, splits, whole)
        found = list(self._curves(model, chosen, splits, scores, exact))
        tables = {"nodes": node_rows(scores, exact), "curve": curve_rows(found), "prompts": prompt_rows(splits)}
        tables |= {"edges": edge_rows(scores, exact)} if scores.unit == "edge" else {}
        for name, rows in tables.items():
            _write(draft, f"{name}.parquet", rows)
        write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
        figures = self._figures(model, chosen, splits) | {
            f"top_{'heads' if scores.unit == 'node' else 'edges'}": top(scores),
            **scores.notes,
        }
        figures |= {} if exact is None else agreement(scores, exact)
        figures |= headline([point for one in found for point in one.points])
        for series in ("method", "random"):
            figures |= area_figures(found[-1], series)
        cost = {"passes": round(self._passes(whole, splits)), "seconds": round(time.monotonic() - started, 1)}
        draft.write_json("summary.json", figures | cost)

    def splits(self, model: Model) -> Splits:
        """The pairs, drawn once and cut in three; the task draws no prompt twice."""
        bos = model.bos if self.bos else None
        means = not {*self._measured()} <= {"resample", "zero"}
        drawn = self._base().pairs(model.tokenizer, self.pairs + self.reference * means, self.seed, bos).to(model.device)
        drawn = Kl.targeted(model, drawn) if self.objective == "kl" else drawn
        half = self.pairs // 2
        return Splits(drawn.rows(slice(half)), drawn.rows(slice(half, self.pairs)), drawn.rows(slice(self.pairs, None)))

    def _base(self) -> AnyTask:
        given = [option.partition("=") for option in self.options]
        if any(not sign for _, sign, _ in given):
            raise InputError(
                f"--options {' '.join(self.options)} is not of the form NAME=VALUE; write for example --options structure=simple"
            )
        return task(self.task, self.corruption, **{name: value for name, _, value in given})

    def _objective(self) -> Task:
        return self._base() if self.objective == "metric" else Kl()

    def _dropped(self, model: Model) -> dict[str, str]:
        """What of a file cannot be used with this model."""
        chosen = self._base()
        dropped = chosen.dropped(model.tokenizer) if isinstance(chosen, TaskFile) else {}
        return {"dropped": said(dropped)} if dropped else {}

    def _scores(self, draft: Draft, model: Model, chosen: Task, splits: Splits, whole: Graph) -> tuple[Scores, Audit | None]:
        """Scores and audit, kept in the run: a resumed run goes on from them."""
        path, unit = draft.path / "scores.safetensors", self.method.UNIT
        values = None if path.exists() else self._values(model, whole, splits.train, splits)
        if values is not None:
            found = self.method(model, chosen, splits.train, whole, values)
            kept = {"mean": found.mean, "deviation": found.deviation, "agreement": found.agreement}
            kept |= {} if found.per_example is None or unit == "edge" else {"per_example": found.per_example}
            if self.audit and not isinstance(self.method, Exact | ExactEdges):
                exact = audit(model, chosen, splits.train, found, values, self.audit, self.seed)
                kept |= {"audited": exact.which, "exact": exact.per_example}
            notes = {f"note_{name}": torch.tensor(value) for name, value in found.notes.items()}
            with written(path) as aside:
                save_file({name: tensor.contiguous() for name, tensor in (kept | notes).items()}, aside)
        stored = load_file(path)
        notes = {name.removeprefix("note_"): float(value) for name, value in stored.items() if name.startswith("note_")}
        mean, deviation, agreeing = (stored[name] for name in ("mean", "deviation", "agreement"))
        scores = Scores(whole, unit, mean, deviation, agreeing, len(splits.train), stored.get("per_example"), notes)
        if isinstance(self.method, Exact) and scores.per_example is not None:
            return scores, Audit(torch.arange(len(scores.mean)), scores.per_example)
        return scores, Audit(stored["audited"], stored["exact"]) if "audited" in stored else None

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

    def _measured(self) -> tuple[Ablation, ...]:
        """Ablations of the curves, the method's own last."""
        return ("mean", "resample") if self.method.UNIT == "node" and self.ablation == "resample" else (self.ablation,)

    def _values(self, model: Model, whole: Graph, pairs: Pairs, splits: Splits, ablation: Ablation | None = None) -> Outputs:
        chosen = ablation or self.ablation
        if chosen != "optimal":
            return replacement(model, whole, pairs, chosen, splits.mean)
        return optimal(model, whole, splits.mean, replacement(model, whole, pairs, "mean_all", splits.mean))

    def _passes(self, whole: Graph, splits: Splits) -> float:
        """Forwards over one half of the pairs; circuits of a curve are counted from the first layer, where nearly all of them start. A
        circuit of edges takes about two forwards, since every destination has an input of its own."""
        unit = self.method.UNIT
        n = len(whole.nodes) if unit == "node" else whole.n_edges
        single = passes(whole, whole.keeping([[other for other in whole.nodes if other != node] for node in whole.nodes]))
        counts = [int(whole.is_head().sum()), n] if unit == "node" else [n]
        series = (1 + 1 + self.random_orders) + (1 if unit == "edge" else 2)
        per_curve = sum(2 + series * (len(sizes(count, unit)) - 2) for count in counts)
        audited = single if unit == "node" else self.audit / 2
        # beside them: a gradient method 4, corrupt and clean runs 4, metrics of both halves 4, identities 5
        return audited + len(self._measured()) * per_curve * (2 if unit == "edge" else 1) + 17 + len(splits.mean) / len(splits.train)

    def _figures(self, model: Model, chosen: Task, splits: Splits) -> dict[str, Any]:
        """How well the model solves the task, over scored and measured pairs together."""
        both = (splits.train, splits.test)
        clean = torch.cat([clean_metric(model, chosen, pairs) for pairs in both])
        corrupt = torch.cat([corrupt_metric(model, chosen, pairs) for pairs in both])
        solved = torch.cat([clean_metric(model, self._base(), pairs) for pairs in both])
        return {
            "method": self.method.NAME,
            "unit": self.method.UNIT,
            "ablation": self.ablation,
            "objective": self.objective,
            "pairs": self.pairs,
            "corruption": self._base().corruption,
            "ranking": self.ranking,
            "bos": model.bos if self.bos else None,
            "metric_clean": clean.mean().item(),
            "metric_corrupt": corrupt.mean().item(),
            "accuracy": (solved > 0).float().mean().item(),
        }


def _seconds_per_pass(model: Model, task: Task, pairs: Pairs) -> float:
    """Duration of one forward over the pairs, after one to warm up."""
    clean_metric(model, task, pairs.rows(slice(1)))
    start = time.perf_counter()
    clean_metric(model, task, pairs).cpu()
    return time.perf_counter() - start


def _activation_bytes(model: Model, whole: Graph, splits: Splits) -> int:
    """Streams of all layers held at once (clean, corrupt, gradient, two replacements), what each source writes, and one batch of rows."""
    per_token = 4 * model.n_layers * (model.n_heads * model.d_head + 2 * model.d_model)
    sources = min(1_200_000_000, 8 * len(whole.sources) * splits.test.clean.numel() * model.d_model)
    return 6 * per_token * splits.test.clean.numel() + sources + 100_000_000


def _write(draft: Draft, name: str, rows: list[dict[str, Any]]) -> None:
    with written(draft.path / name) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), aside, compression="zstd")
