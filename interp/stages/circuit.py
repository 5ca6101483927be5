"""`interp circuit TASK`: which heads and MLPs carry a task, and how faithful the circuits are that keep only the best of them.

Nodes are scored on one half of the pairs (attribution patching and exact patching) and curves are measured on the other half; the means of
mean ablation come from prompts of their own.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from safetensors.torch import load_file, save_file

from interp.circuits.ablation import Ablation, clean_metric, corrupt_metric, mean, passes, resample
from interp.circuits.faithfulness import Point, Series, curves, sizes
from interp.circuits.graph import Graph, Ranking, Scores, graph
from interp.circuits.methods import Attribution, Exact, Random
from interp.circuits.report import SCHEMAS, Splits, agreement, headline, node_rows, prompt_rows
from interp.models import DTYPES, Model, load, source
from interp.runs import Draft, written
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.tasks import TASKS, AnyTask, Pairs, Task, TaskFile, corruptions, task
from interp.tasks.task_file import said
from interp.text.vocab import vocabulary
from saes.errors import InputError

_TASKS = f"The task: {', '.join(TASKS)}, or a file of prompts (.jsonl, .json, .csv) with clean, corrupt, right and wrong in each line."
_CORRUPTIONS = "What the corrupt prompt changes, the first where none is given. " + "; ".join(
    f"{kind.NAME}: {', '.join(corruptions(kind))}" for kind in (*TASKS.values(), TaskFile)
)


@dataclass(frozen=True)
class Circuit:
    """Find the heads and MLPs that carry a task."""

    NAME: ClassVar[str] = "circuit"
    PARENTS: ClassVar[dict[str, str]] = {}

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_TASKS)] = "ioi"
    model: str = "smollm2"
    """smollm2 (packaged), a local folder, or a Hub id."""
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
    whole model. absolute: the largest |score| first, which also keeps the heads that work against the answer."""
    bos: bool = True
    """Put the model's BOS token in front of each prompt."""
    random_orders: int = 3
    """Random orders that the curves are held against."""
    seed: int = 0
    """Seed of prompts and random orders."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The model runs in this type."""

    def __post_init__(self) -> None:
        self._task()
        if self.pairs < 4 or self.pairs % 2:
            raise InputError(
                f"--pairs {self.pairs} cannot be halved into scoring and measuring; give an even number from 4 on, for example 32"
            )
        if self.reference < 1 or self.random_orders < 1:
            raise InputError(f"--reference {self.reference} --random-orders {self.random_orders}: both must be at least 1")

    def identity(self, ctx: Context) -> dict[str, Any]:
        chosen = self._task()
        others = {name: value for name, value in vars(chosen).items() if name not in ("path", "corruption")}
        resolved = {"corruption": chosen.corruption, "options": [f"{name}={value}" for name, value in others.items()]}
        if isinstance(chosen, TaskFile):
            resolved["prompts_sha256"] = chosen.sha256()
        else:
            resolved["task"] = chosen.NAME
        return {"model_revision": source(self.model).revision(), **resolved}

    def plan(self, ctx: Context) -> Plan:
        model = load(self.model, self.dtype, ctx.device)
        splits, nodes = self.splits(model), graph(model)
        tokens = splits.test.clean.numel()
        total, seconds = self._passes(nodes), _seconds_per_pass(model, self._task(), splits.train)
        return Plan(
            {
                "model": f"{self.model}, {model.n_parameters / 1e6:.0f} M parameters, {self.dtype} on {model.device}",
                "task": f"{self.task}, corruption {self._task().corruption}, BOS {model.bos if self.bos else 'none'}",
                **self._dropped(model),
                "pairs": f"{len(splits.train)} to score, {len(splits.test)} to measure, {len(splits.mean)} for means",
                "nodes": f"{len(nodes.heads().nodes)} heads, {len(nodes.nodes) - len(nodes.heads().nodes)} MLPs",
                "passes": f"{total:.0f} forwards of {tokens} tokens; {tokens / seconds:,.0f} tokens/s by a probe",
            },
            disk=2_000_000 + 40 * model.d_vocab,
            memory=model.n_parameters * DTYPES[self.dtype].itemsize + _activation_bytes(model, splits),
            seconds=total * seconds,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        model = load(self.model, self.dtype, ctx.device)
        splits, nodes = self.splits(model), graph(model)
        scores = self._scores(draft, model, splits.train, nodes)
        points = list(self._curves(model, splits, nodes, scores))
        _write(draft, "nodes.parquet", node_rows(scores))
        _write(draft, "curve.parquet", [asdict(point) for point in points])
        _write(draft, "prompts.parquet", prompt_rows(splits))
        write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
        figures = self._figures(model, splits) | agreement(scores) | headline(points)
        cost = {"passes": round(self._passes(nodes)), "seconds": round(time.monotonic() - started, 1)}
        draft.write_json("summary.json", figures | cost)

    def splits(self, model: Model) -> Splits:
        """The pairs, drawn once and cut in three; the task draws no prompt twice."""
        bos = model.bos if self.bos else None
        drawn = self._task().pairs(model.tokenizer, self.pairs + self.reference, self.seed, bos).to(model.device)
        half = self.pairs // 2
        return Splits(drawn.rows(slice(half)), drawn.rows(slice(half, self.pairs)), drawn.rows(slice(self.pairs, None)))

    def _task(self) -> AnyTask:
        given = [option.partition("=") for option in self.options]
        if any(not sign for _, sign, _ in given):
            raise InputError(
                f"--options {' '.join(self.options)} is not of the form NAME=VALUE; write for example --options structure=simple"
            )
        return task(self.task, self.corruption, **{name: value for name, _, value in given})

    def _dropped(self, model: Model) -> dict[str, str]:
        """What of a file cannot be used with this model."""
        chosen = self._task()
        dropped = chosen.dropped(model.tokenizer) if isinstance(chosen, TaskFile) else {}
        return {"dropped": said(dropped)} if dropped else {}

    def _scores(self, draft: Draft, model: Model, pairs: Pairs, nodes: Graph) -> dict[str, Scores]:
        """Scores of both methods per example, kept in the run: a resumed run goes on from them."""
        path = draft.path / "scores.safetensors"
        if not path.exists():
            methods = (Attribution(), Exact())
            found = {method.NAME: method(model, self._task(), pairs, nodes).per_example for method in methods}
            with written(path) as aside:
                save_file(found, aside)
        return {name: Scores(nodes.nodes, values) for name, values in load_file(path).items()}

    def _curves(self, model: Model, splits: Splits, nodes: Graph, scores: dict[str, Scores]) -> Iterator[Point]:
        """Curves over heads (every MLP runs) and over heads and MLPs, under both ablations."""
        ablations: dict[Ablation, Any] = {
            "resample": resample(model, nodes, splits.test),
            "mean": mean(model, nodes, splits.test, splits.mean),
        }
        for part in (nodes.heads(), nodes):
            series = [Series(name, scores[name].among(part).ranking(self.ranking)) for name in ("exact", "attribution")]
            for seed in range(self.seed, self.seed + self.random_orders):
                series.append(Series("random", Random(seed)(model, self._task(), splits.test, part).ranking(), seed))
            for ablation, replacement in ablations.items():
                yield from curves(model, self._task(), splits.test, part, series, ablation, replacement)

    def _passes(self, nodes: Graph) -> float:
        """Forwards over one half of the pairs; circuits of a curve are counted from the first layer, where nearly all of them start."""
        exact = passes(nodes, ~torch.eye(len(nodes.nodes), dtype=torch.bool))
        per_curve = [2 + (2 + self.random_orders) * (len(sizes(len(part.nodes))) - 2) for part in (nodes.heads(), nodes)]
        # beside them: attribution 4 (its backward counts twice), corrupt and clean runs 4, metrics of both halves 4, identities 5
        return exact + 2 * sum(per_curve) + 17 + self.reference / (self.pairs / 2)

    def _figures(self, model: Model, splits: Splits) -> dict[str, Any]:
        """How well the model solves the task, over scored and measured pairs together."""
        both = (splits.train, splits.test)
        clean = torch.cat([clean_metric(model, self._task(), pairs) for pairs in both])
        corrupt = torch.cat([corrupt_metric(model, self._task(), pairs) for pairs in both])
        return {
            "pairs": self.pairs,
            "corruption": self._task().corruption,
            "ranking": self.ranking,
            "bos": model.bos if self.bos else None,
            "logit_diff_clean": clean.mean().item(),
            "logit_diff_corrupt": corrupt.mean().item(),
            "accuracy": (clean > 0).float().mean().item(),
        }


def _seconds_per_pass(model: Model, task: Task, pairs: Pairs) -> float:
    """Duration of one forward over the pairs, after one to warm up."""
    clean_metric(model, task, pairs.rows(slice(1)))
    start = time.perf_counter()
    clean_metric(model, task, pairs).cpu()
    return time.perf_counter() - start


def _activation_bytes(model: Model, splits: Splits) -> int:
    """Streams of all layers held at once (clean, corrupt, gradient, two replacements), and one batch of rows."""
    per_token = 4 * model.n_layers * (model.n_heads * model.d_head + 2 * model.d_model)
    return 6 * per_token * splits.test.clean.numel() + 100_000_000


def _write(draft: Draft, name: str, rows: list[dict[str, Any]]) -> None:
    with written(draft.path / name) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), aside, compression="zstd")
