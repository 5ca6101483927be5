"""How much of the metric a circuit carries: faithfulness over circuit size, with bootstrap intervals and a random order beside it.

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty))

m is the mean metric over examples, m(full) the whole model, m(empty) every node of the graph ablated (the signed ratio of means of MIB,
Mueller et al. 2025). Intervals resample examples and recompute numerator and denominator together. f can exceed 1: a circuit may leave
out heads that work against the metric. Rank the nodes on other examples than those of the curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.ablation import Ablation, Outputs
from interp.circuits.forward import clean_metric, corrupt_metric, metrics, passes
from interp.circuits.graph import Ranking, Scores, Unit
from interp.models.bridge import Model
from interp.progress import bar
from interp.tasks import Pairs, Task
from saes.errors import InputError

DRAWS = 2000
# One circuit in batches of different sizes: float32 sums agree far below 1e-3;
# a bfloat16 logit near 20 has steps of 0.125, float16 of 0.016.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.2}
LOW, HIGH = 0.025, 0.975


# Sizes of a curve over edges, as shares of all: those of MIB (Mueller et al. 2025, arXiv:2504.13151).
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, eq=False)
class Series:
    """An order in which nodes or edges enter a circuit, and where it comes from."""

    name: str
    scores: Scores
    by: Ranking = "absolute"
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """One circuit of a curve; the fields are the columns of curve.parquet."""

    series: str
    seed: int
    unit: Unit | Literal["latent"]
    """What enters one by one: nodes, edges, or the latents of a dictionary."""
    nodes: str
    """heads: only heads may be ablated and every MLP runs. all: heads and MLPs, or every edge. Of latents, kept: the error of the
    dictionary runs in every circuit; all: it enters like a latent."""
    ablation: Ablation
    n: int
    """Units that were asked for."""
    kept: int
    """Edges of the circuit that lie on a path from an embedding to the logits; of latents, all that were asked for."""
    share: float
    faithfulness: float
    low: float
    high: float
    metric: float
    complement: float | None
    """The metric of what the circuit leaves out: near that of nothing where the circuit is complete. Not measured for random orders."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Points of all series, and the metric of each circuit on each example."""

    points: tuple[Point, ...]
    metric: Float[Tensor, "point pair"]
    full: Float[Tensor, " pair"]
    empty: Float[Tensor, " pair"]


def sizes(n: int, unit: Unit = "node") -> tuple[int, ...]:
    """Circuit sizes of a curve: none, 1, 2, 5, 10, 20, 50, ... nodes, or `SHARES` of the edges, and all."""
    if unit == "edge":
        return tuple(sorted({0, *(max(1, round(share * n)) for share in SHARES), n}))
    steps = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
    return (0, *(size for size in steps if size < n), n)


def curves(
    model: Model, task: Task, pairs: Pairs, series: Sequence[Series], ablation: Ablation, values: Outputs, heads_only: bool = False
) -> Curves:
    """Faithfulness of the first n units of each series, for each of `sizes`, and the metric of their complements; random orders come last.

    Raises InputError when ablation changes nothing.
    """
    graph, unit = series[0].scores.graph, series[0].scores.unit
    among = graph.is_head() if heads_only else None
    n = len(series[0].scores.mean) if among is None else int(among.sum())
    between = sizes(n, unit)[1:-1]
    ends = series[0].scores.circuits((0, n), series[0].by, among)
    own = torch.cat([ends, *(one.scores.circuits(between, one.by, among) for one in series)])
    measured = 2 + len(between) * sum(one.name != "random" for one in series)
    # Embeddings, and MLPs where they always run, are in every circuit and in every complement.
    masks = torch.cat((own, ~own[2:measured] & graph.valid | ends[0]))
    label = f"{'heads' if heads_only else unit + 's'}, {ablation} ablation: {len(masks)} circuits"
    with bar(round(passes(graph, masks)), "passes", label) as progress:
        metric = metrics(model, task, pairs, graph, masks, values, progress)
    empty, full = metric[0], metric[1]
    _require_identities(model, task, pairs, metric, unit, whole=not heads_only and ablation == "resample")
    require_effect(full, empty)
    f = faithfulness(metric.mean(1), full.mean(), empty.mean())
    columns = (f, *ratio_intervals(metric, full=full, empty=empty), metric.mean(1), graph.connected(masks).flatten(1).sum(1))
    figures = torch.stack([column.double() for column in columns], 1)
    points, rows = [], []
    for i, one in enumerate(series):
        first = 2 + i * len(between)
        inner = range(first, first + len(between))
        outside = (1, *((row + len(own) - 2 if row < measured else None) for row in inner), 0)
        for size, row, rest in zip(sizes(n, unit), (0, *inner, 1), outside, strict=True):
            value, low, high, mean, kept = figures[row].tolist()
            where = (one.name, one.seed, unit, "heads" if heads_only else "all", ablation, size, round(kept), size / n)
            points.append(Point(*where, value, low, high, mean, None if rest is None else figures[rest, 3].item()))
            rows.append(row)
    return Curves(tuple(points), metric[rows], full, empty)


def _require_identities(model: Model, task: Task, pairs: Pairs, metric: Float[Tensor, "circuit pair"], unit: Unit, whole: bool) -> None:
    """The circuit of all units is the clean run. With everything resampled (`whole`) the circuit without edges is the corrupt run. So is
    the one without nodes where both prompts end in one token: embeddings run, and that token is all that is left of the clean prompt."""
    tolerance = TOLERANCE[model.dtype]
    off = (metric[1] - clean_metric(model, task, pairs).to(metric)).abs().max()
    assert off < tolerance, f"keeping everything changes the clean run by {off:.2g}"
    same: Bool[Tensor, "pair read"] = pairs.clean.gather(1, pairs.read) == pairs.corrupt.gather(1, pairs.read)
    if whole and (unit == "edge" or bool(same.all())):
        off = (metric[0] - corrupt_metric(model, task, pairs).to(metric)).abs().max()
        assert off < tolerance, f"keeping no {unit} differs from the corrupt run by {off:.2g}"


def faithfulness(
    m: Float[Tensor, "*draws circuit"], full: Float[Tensor, "*draws"], empty: Float[Tensor, "*draws"]
) -> Float[Tensor, "*draws circuit"]:
    """The share of the metric that the circuit recovers, from means over examples."""
    return (m - empty[..., None]) / (full - empty)[..., None]


def ratio_intervals(
    metric: Float[Tensor, "circuit pair"], full: Float[Tensor, " pair"], empty: Float[Tensor, " pair"], seed: int = 0
) -> tuple[Float[Tensor, " circuit"], Float[Tensor, " circuit"]]:
    """95 % bootstrap intervals of faithfulness over examples."""
    draw = resamples(len(full), seed)
    f = faithfulness(metric.T[draw].mean(1), full[draw].mean(1), empty[draw].mean(1))
    return f.quantile(LOW, 0), f.quantile(HIGH, 0)


def mean_intervals(per_example: Float[Tensor, "pair node"], seed: int = 0) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
    """95 % bootstrap intervals of means over examples."""
    draw = resamples(len(per_example), seed)
    # [draw, pair] counts @ [pair, node]: no [draw, pair, node] tensor
    counts = torch.zeros(DRAWS, len(per_example)).scatter_add_(1, draw, torch.ones(draw.shape))
    means = counts @ per_example.float() / len(per_example)
    return means.quantile(LOW, 0), means.quantile(HIGH, 0)


def resamples(n: int, seed: int) -> Int[Tensor, "draw pair"]:
    """Examples drawn with replacement."""
    return torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(seed))


def require_effect(full: Float[Tensor, " pair"], empty: Float[Tensor, " pair"]) -> None:
    """Raises InputError when the effect of ablating every node is below its own standard error: no share of it can be told."""
    effect = full - empty
    error = effect.std() / len(effect) ** 0.5
    if not effect.mean().abs() > error:
        raise InputError(
            f"ablating every node changes the metric by {effect.mean():+.2f} with a standard error of {error:.2f}, so no share of it can "
            "be told; give more --pairs, another --corruption, or a model that solves the task"
        )
