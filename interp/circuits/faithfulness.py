"""How much of the metric a circuit carries: faithfulness over circuit size, with bootstrap intervals and a random order beside it.

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty))

m is the mean metric over examples, m(full) the whole model, m(empty) every node of the graph ablated (the signed ratio of means of MIB,
Mueller et al. 2025). Intervals resample examples and recompute numerator and denominator together. f can exceed 1: a circuit may leave
out heads that work against the metric. Rank the nodes on other examples than those of the curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.ablation import Ablation, Activations, ablated_metric, clean_metric, corrupt_metric, passes
from interp.circuits.graph import Graph
from interp.models.bridge import Model
from interp.progress import bar
from interp.sites import Node
from interp.tasks import Pairs, Task
from saes.errors import InputError

DRAWS = 2000
# One circuit in batches of different sizes: float32 sums agree far below 1e-3;
# a bfloat16 logit near 20 has steps of 0.125, float16 of 0.016.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.2}
LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class Series:
    """An order in which nodes enter a circuit, and where it comes from."""

    name: str
    ranking: tuple[Node, ...]
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """One circuit of a curve; the fields are the columns of curve.parquet."""

    series: str
    seed: int
    nodes: str
    """heads: only heads may be ablated and every MLP runs. all: heads and MLPs."""
    ablation: Ablation
    n_nodes: int
    share: float
    faithfulness: float
    low: float
    high: float
    logit_diff: float


def sizes(n_nodes: int) -> tuple[int, ...]:
    """Circuit sizes of a curve: none, 1, 2, 5, 10, 20, 50, ... and all."""
    steps = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
    return (0, *(n for n in steps if n < n_nodes), n_nodes)


def curves(
    model: Model, task: Task, pairs: Pairs, graph: Graph, series: Sequence[Series], ablation: Ablation, replacement: Activations
) -> list[Point]:
    """Faithfulness of the first n nodes of each series, for each of `sizes`; raises InputError when ablation changes nothing."""
    between = sizes(len(graph.nodes))[1:-1]
    circuits = [(), graph.nodes, *(one.ranking[:n] for one in series for n in between)]
    kept = graph.kept(circuits)
    nodes = "all" if any(node.site.head is None for node in graph.nodes) else "heads"
    with bar(round(passes(graph, kept)), "passes", f"{nodes}, {ablation} ablation: {len(circuits)} circuits") as progress:
        metric = ablated_metric(model, task, pairs, graph, kept, replacement, progress)
    _require_identities(model, task, pairs, metric, whole=nodes == "all" and ablation == "resample")
    require_effect(metric[1], metric[0])
    f = faithfulness(metric.mean(1), metric[1].mean(), metric[0].mean())
    figures = torch.stack((f, *ratio_intervals(metric, full=metric[1], empty=metric[0]), metric.mean(1)), 1).tolist()
    return [
        Point(one.name, one.seed, nodes, ablation, n, n / len(graph.nodes), *figures[row])
        for one, own in zip(series, _rows_of(len(series), len(between)), strict=True)
        for n, row in zip(sizes(len(graph.nodes)), own, strict=True)
    ]


def _require_identities(model: Model, task: Task, pairs: Pairs, metric: Float[Tensor, "circuit pair"], whole: bool) -> None:
    """The circuit of all nodes is the clean run. With every head and MLP resampled, the last token is all that is left of the clean prompt,
    so where both prompts end in one token the circuit without nodes is the corrupt run."""
    tolerance = TOLERANCE[model.dtype]
    off = (metric[1] - clean_metric(model, task, pairs).to(metric)).abs().max()
    assert off < tolerance, f"keeping every node changes the clean run by {off:.2g}"
    pair = torch.arange(len(pairs), device=pairs.end.device)
    if whole and torch.equal(pairs.clean[pair, pairs.end], pairs.corrupt[pair, pairs.end]):
        off = (metric[0] - corrupt_metric(model, task, pairs).to(metric)).abs().max()
        assert off < tolerance, f"keeping no node differs from the corrupt run by {off:.2g}"


def _rows_of(n_series: int, n_between: int) -> list[list[int]]:
    """Rows of each series: the empty circuit, its own, the full one; the first and last are shared and computed once."""
    return [[0, *range(2 + i * n_between, 2 + (i + 1) * n_between), 1] for i in range(n_series)]


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
