"""`interp latents RUN TASK`: which latents of a dictionary carry a task, and how faithful the circuits of the best are.

One half of the pairs scores latents and error, a part of which is then ablated exactly, as an audit; circuits of the best are measured on
the other half, beside random ones. Codes of a codebook are latents like any other.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import tyro
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp import runs
from interp.circuits import latents
from interp.circuits.audit import compared
from interp.circuits.cost import seconds_per_pass
from interp.circuits.faithfulness import Point, mean_intervals, sizes
from interp.circuits.latents import LatentAblation
from interp.circuits.report import TOP, Splits, prompt_rows, solved, write
from interp.dictionaries import Trained, model_revision
from interp.models import DTYPES, Model, load
from interp.runs import Draft, written
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.tasks import AnyTask, line
from interp.text.vocab import vocabulary
from saes.errors import InputError

# Faithfulness at which the summary says how many latents it takes.
ENOUGH = 0.8
# Bytes of one number in float32.
_NUMBER = 4


@dataclass(frozen=True)
class Latents:
    """Find the latents of a dictionary that carry a task (sparse feature circuits, arXiv 2403.19647, at one site)."""

    NAME: ClassVar[str] = "latents"
    PARENTS: ClassVar[dict[str, str]] = {"dictionary": "train"}

    dictionary: tyro.conf.Positional[str]
    """The train run of an SAE or a codebook."""
    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=line.TASK)] = "ioi"
    ablation: LatentAblation = "resample"
    """What replaces ablated latents. resample: those of the corrupt prompt. mean: their mean at that position over corrupt prompts of the
    same layout. zero: nothing."""
    steps: int = 10
    """Points between the clean and the ablated activation at which the gradient is taken; 1 takes it at the clean one alone."""
    keep_error: bool = False
    """Leave the dictionary's error in every circuit; without it the error enters like a latent."""
    pairs: int = 32
    """Clean and corrupt prompts: one half scores the latents, the other half measures the circuits."""
    corruption: Annotated[str | None, tyro.conf.arg(help=line.CORRUPTION)] = None
    options: tuple[str, ...] = ()
    """Options of the task as NAME=VALUE, for example family=long (ioi) or relation=past (relation)."""
    bos: bool = True
    """Put the model's BOS token in front of each prompt."""
    audit: int = 100
    """Latents that are ablated exactly, to hold the scores against; the error is in any case."""
    random_orders: int = 3
    """Random orders that the curve is held against."""
    seed: int = 0
    """Seed of prompts, audit and random orders."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The model runs in this type."""

    def __post_init__(self) -> None:
        self._task()
        line.require_halves(self.pairs)
        if self.steps < 1 or self.random_orders < 1 or self.audit < 0:
            raise InputError(
                f"--steps {self.steps} --random-orders {self.random_orders} --audit {self.audit}: give at least 1, 1 and 0 of them"
            )

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {"model_revision": model_revision(runs.open_run(ctx.root, self.dictionary, "train")), **line.identity(self._task())}

    def plan(self, ctx: Context) -> Plan:
        trained, model = self._opened(ctx)
        splits, site = self._splits(model), trained.reads[0]
        d_dict, numbers = trained.dictionary.d_dict, splits.train.clean.numel()
        # Latents that are never active take no part; how many those are is known later, and a curve's sizes grow slowly with it.
        circuits = (2 + self.random_orders) * len(sizes(d_dict)) + self.audit
        above = 1 - site.layer / model.n_layers
        passes = 8 + above * (4 * self.steps + circuits)
        return Plan(
            {
                "model": f"{model.name}, {model.n_parameters / 1e6:.0f} M parameters, {self.dtype} on {model.device}",
                "dictionary": f"{trained.run.id}, {d_dict:,} latents at {site}, and its error",
                "task": f"{self.task}, corruption {self._task().corruption}, BOS {model.bos if self.bos else 'none'}",
                "pairs": f"{len(splits.train)} to score, {len(splits.test)} to measure",
                "circuits": f"{circuits} at most, {self.audit} of them to audit the scores",
            },
            disk=40 * model.d_vocab + (_NUMBER * self.pairs + 60) * d_dict,
            memory=model.n_parameters * DTYPES[self.dtype].itemsize + 8 * _NUMBER * numbers * (d_dict + 4 * model.d_model),
            seconds=passes * seconds_per_pass(model, self._task(), splits.train),
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        trained, model = self._opened(ctx)
        chosen, splits, site = self._task(), self._splits(model), trained.reads[0]
        found = self._scored(draft, model, trained, splits)
        nodes = latents.latents(model, trained.dictionary, site, splits.test, self.ablation)
        effect = found["per_example"].mean(0)
        seeds = range(self.seed, self.seed + self.random_orders)
        points = latents.curve(model, chosen, splits.test, nodes, self.ablation, effect, seeds=seeds, keep_error=self.keep_error)
        write(draft, "latents.parquet", _rows(found))
        write(draft, "curve.parquet", [asdict(point) for point in points])
        write(draft, "prompts.parquet", prompt_rows(splits))
        write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
        head = {"model": model.name, "site": str(site), "ablation": self.ablation, "bos": model.bos if self.bos else None}
        summary = head | solved(model, chosen, chosen, (splits.train, splits.test)) | _figures(found, points)
        about = {"task": chosen.ABOUT, "corruption": chosen.CORRUPTIONS[chosen.corruption], "metric": chosen.METRIC[0]}
        more = {"about": about | {"metric_unit": chosen.METRIC[1]}, "seconds": round(time.monotonic() - started, 1)}
        draft.write_json("summary.json", summary | more)

    def _task(self) -> AnyTask:
        return line.named(self.task, self.corruption, self.options)

    def _opened(self, ctx: Context) -> tuple[Trained, Model]:
        """Dictionary and model; raises InputError for a dictionary that does not write what it reads."""
        trained = Trained.open(ctx.root, self.dictionary, ctx.device)
        trained.site_for("a circuit of latents")
        return trained, load(str(trained.store.config["model"]), self.dtype, ctx.device)

    def _splits(self, model: Model) -> Splits:
        drawn = self._task().pairs(model.tokenizer, self.pairs, self.seed, model.bos if self.bos else None).to(model.device)
        half = self.pairs // 2
        return Splits(drawn.rows(slice(half)), drawn.rows(slice(half, None)), drawn.rows(slice(0)))

    def _scored(self, draft: Draft, model: Model, trained: Trained, splits: Splits) -> dict[str, Tensor]:
        """Scores of each pair, `active` units and the audit, kept in the run: a resumed run goes on from them."""
        path, site = draft.path / "scores.safetensors", trained.reads[0]
        if not path.exists():
            nodes = latents.latents(model, trained.dictionary, site, splits.train, self.ablation)
            scores = latents.scores(model, self._task(), splits.train, nodes, self.steps).float().cpu()
            which, effects = latents.exact(model, self._task(), splits.train, nodes, scores.mean(0), self.audit, self.seed)
            found = {"per_example": scores, "active": nodes.active.cpu(), "audited": which, "exact": effects.float()}
            with written(path) as aside:
                save_file({name: tensor.contiguous() for name, tensor in found.items()}, aside)
        return load_file(path)


def _rows(found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Rows of latents.parquet: units that ablation changes on the scoring pairs, the most helpful first; the error is latent -1."""
    per_example, error = found["per_example"], found["per_example"].shape[1] - 1
    columns = _columns("score", per_example)
    exact = dict(zip(found["audited"].tolist(), _columns("exact", found["exact"]), strict=True))
    same_sign = (per_example.sign() == per_example.mean(0).sign()).float().mean(0).tolist()
    none: dict[str, float | None] = dict.fromkeys(("exact", "exact_low", "exact_high"))
    rows = [
        {"latent": -1 if unit == error else unit, **columns[unit], **exact.get(unit, none), "same_sign": same_sign[unit]}
        for unit in found["active"].nonzero()[:, 0].tolist()
    ]
    return sorted(rows, key=lambda row: row["score"])


def _columns(name: str, per_example: Float[Tensor, "pair unit"]) -> list[dict[str, float]]:
    """Mean and 95 % interval of each unit."""
    low, high = mean_intervals(per_example)
    values = zip(per_example.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [{name: mean, f"{name}_low": low, f"{name}_high": high} for mean, low, high in values]


def _figures(found: dict[str, Tensor], points: Sequence[Point]) -> dict[str, Any]:
    """How many latents there are and are needed, how faithful the first are, what the error does, and how far scores can be trusted."""
    effect, exact = found["per_example"].mean(0), found["exact"].mean(0)
    own = [point for point in points if point.series == "method"]
    at = max((point for point in own if point.n <= TOP), key=lambda point: point.n)
    random = [point.faithfulness for point in points if point.series == "random" and point.n == at.n]
    order = [unit for unit in effect.abs().sort(descending=True, stable=True).indices.tolist() if unit < len(effect) - 1]
    return {
        "active_latents": int(found["active"][:-1].sum()),
        "top_latents": order[:10],
        "top": at.n, "faithfulness": at.faithfulness, "faithfulness_low": at.low, "faithfulness_high": at.high,
        "faithfulness_random": sum(random) / len(random),
        "latents_for_80_percent": next(point.n for point in own if point.faithfulness >= ENOUGH),
        "effect_of_all": own[0].metric - own[-1].metric,
        "effect_of_error": exact[-1].item(),
        "audited": len(exact) - 1,
        **compared(effect[found["audited"]].numpy(), exact.numpy()),
    }  # fmt: skip
