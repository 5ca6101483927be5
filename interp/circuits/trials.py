"""Is the circuit in view a circuit? Measures what the tests of `interp.circuits.hypotheses` need, all circuits in one masked forward.

equivalence     the circuit wins against the whole model on one half of the prompts
independence    what the complement does tells nothing of what the model does
minimality      knocking a unit out matters more than knocking one out of the random path by which the circuit is made larger
sufficiency     the circuit alone is better than random circuits of its size and layers
necessity       knocking the circuit out does more damage than knocking those out (partial: other circuits may be needed too)

All on the prompts of the curves, under the ablation of the run.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.faithfulness import faithfulness, ratio_intervals
from interp.circuits.forward import metrics
from interp.circuits.graph import Graph, Unit
from interp.circuits.hypotheses import AgainstRandom, equivalence, independence, matched, minimality, partial_necessity, sufficiency
from interp.circuits.inflation import inflated
from interp.circuits.view import View
from interp.models.bridge import Model
from interp.progress import bar
from interp.tasks import Pairs, Task
from saes.errors import InputError

# Knock-outs from inflated circuits, for each unit that is tested. With n units and 3 n draws at q = .9 the smallest p after Holm is
# n .9^(3n): .036 for 20 units, and for fewer than 20 above .05.
PER_UNIT = 3


@dataclass(frozen=True, eq=False)
class Measured:
    """The metric [circuit, pair] of the circuit in view, and of the circuits that tests hold it against; none with no tests."""

    circuit: Float[Tensor, "one pair"]
    complement: Float[Tensor, "one pair"]
    knocked: Float[Tensor, "tested pair"]
    """Without one unit each."""
    larger: Float[Tensor, "draw pair"]
    """With a random path."""
    smaller: Float[Tensor, "draw pair"]
    """The same without one unit of that path."""
    random: Float[Tensor, "circuit pair"]
    """As large in every layer."""
    rest: Float[Tensor, "circuit pair"]
    """What those leave out."""


@dataclass(frozen=True, eq=False)
class Trials:
    """A circuit with its measurements."""

    view: View
    which: Int[Tensor, " tested"]
    """Places, in the order of the circuit, of the units that are knocked out."""
    metric: Measured
    full: Float[Tensor, " pair"]
    empty: Float[Tensor, " pair"]


def n_circuits(tests: int, size: int) -> int:
    """How many circuits are measured."""
    tested = min(tests, size)
    return 2 + tested + 2 * PER_UNIT * tested + 2 * tests


def trials(
    model: Model, task: Task, pairs: Pairs, view: View, values: Outputs, full: Float[Tensor, " pair"], empty: Float[Tensor, " pair"],
    tests: int, seed: int,
) -> Trials:  # fmt: skip
    """Measure the circuit, its complement, `tests` random circuits and knock-outs of `tests` units, evenly from its first to its last."""
    which = torch.linspace(0, view.size - 1, min(tests, view.size)).round().long()
    parts = _circuits(view, which, tests, seed)
    masks = view.scores.mask(torch.cat(list(parts.values())))
    found = []
    with bar(len(masks), "circuits", f"tests of the circuit of {view.size} {view.scores.unit}s") as progress:
        for some in masks.split(64):
            found.append(metrics(model, task, pairs, view.scores.graph, some, values))
            progress.update(len(some))
    metric = torch.cat(found).split([len(part) for part in parts.values()])
    return Trials(view, which, Measured(**dict(zip(parts, metric, strict=True))), full, empty)


def _circuits(view: View, which: Int[Tensor, " tested"], tests: int, seed: int) -> dict[str, Bool[Tensor, "circuit unit"]]:
    """Units of the circuits of each field of `Measured`."""
    scores, kept = view.scores, view.kept
    knocked = kept.repeat(len(which), 1)
    knocked[torch.arange(len(which)), scores.order(view.by)[which]] = False
    larger, smaller = inflated(scores.graph, scores.unit, kept, PER_UNIT * len(which), seed)
    random = torch.from_numpy(matched(kept.numpy(), layers(scores.graph, scores.unit).numpy(), tests, seed))
    parts = (kept[None], ~kept[None], knocked, larger, smaller, random, ~random)
    return dict(zip((f.name for f in fields(Measured)), parts, strict=True))


def layers(graph: Graph, unit: Unit) -> Int[Tensor, " unit"]:
    """The layer of each node, or of the destination of each edge; the logits come behind the last."""
    if unit == "node":
        return torch.tensor([node.site.layer for node in graph.nodes])
    per_layer = graph.first_destination(1)
    return graph.edges[:, 1] // per_layer


def figures(found: Trials) -> dict[str, Any]:
    """The summary of all tests; without tests, of the circuit alone. Faithfulness comes with a 95 % interval."""
    view, metric = found.view, found.metric
    both = torch.cat((metric.circuit, metric.complement))
    share, (low, high) = _share(found, both), ratio_intervals(both, found.full, found.empty)
    out: dict[str, Any] = {"circuit_size": view.size, "circuit_edges_connected": int(view.connected.sum())}
    for i, name in enumerate(("circuit_faithfulness", "complement_faithfulness")):
        out |= {name: float(share[i]), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return out | _tests(found, share.tolist()) if len(metric.random) else out


def _tests(found: Trials, share: list[float]) -> dict[str, Any]:
    metric = found.metric
    alone, full = _numpy(metric.circuit[0]), _numpy(found.full)
    same = equivalence(alone, full)
    needed = _minimality(found)
    enough, necessary = against_random(found, share)
    return {
        "circuit_wins": same.win_rate,
        "p_equivalent": same.p,
        **_independence(_numpy(metric.complement[0]), full),
        "units_tested": len(found.which),
        "units_needed": int(needed.needed.sum()),
        "sufficient_beats": enough.rate,
        "p_sufficient": enough.p_rank,
        "necessary_beats": necessary.rate,
        "p_necessary": necessary.p_rank,
    }


def against_random(found: Trials, share: list[float]) -> tuple[AgainstRandom, AgainstRandom]:
    """Sufficiency and partial necessity. A circuit ranked by what helps may beat the model, so there more is better; ranked by |score| it
    has to equal the model."""

    def worth(f: Any) -> Any:
        return f if found.view.by == "helping" else -abs(1 - f)

    random, rest = (_numpy(_share(found, part)) for part in (found.metric.random, found.metric.rest))
    return sufficiency(worth(share[0]), worth(random)), partial_necessity(-worth(share[1]), -worth(rest))


def _minimality(found: Trials) -> Any:
    """Sizes of effects, as the test wants them."""
    metric = found.metric
    knocked = (metric.knocked - metric.circuit).mean(1).abs()
    return minimality(_numpy(knocked), _numpy((metric.smaller - metric.larger).mean(1).abs()))


def _independence(complement: Float[np.ndarray, " pair"], full: Float[np.ndarray, " pair"]) -> dict[str, float | None]:
    """HSIC of the complement's metric and the model's; None where most prompts give one number, which is no sign of either."""
    try:
        found = independence(complement[:, None], full[:, None])
    except InputError:
        return {"complement_hsic": None, "p_complement_dependent": None}
    return {"complement_hsic": found.hsic, "p_complement_dependent": found.p}


def trial_rows(found: Trials) -> list[dict[str, Any]]:
    """Rows of tests.parquet: each knock-out with its p, and the random circuits behind all tests."""
    metric, scores = found.metric, found.view.scores
    if not len(metric.random):
        return []
    order, names = scores.order(found.view.by)[found.which], scores.names()
    changes = (metric.knocked - metric.circuit).mean(1).tolist()
    columns = {name: value.tolist() for name, value in asdict(_minimality(found)).items()}
    rows = [
        {"kind": "knock-out", "unit": names[unit], "rank": rank + 1, "value": change, "p": p, "p_adjusted": adjusted, "needed": needed}
        for unit, rank, change, p, adjusted, needed in zip(
            order.tolist(), found.which.tolist(), changes, columns["p"], columns["adjusted"], columns["needed"], strict=True
        )
    ]
    rows += [{"kind": "inflated", "value": value} for value in (metric.smaller - metric.larger).mean(1).tolist()]
    rows += [{"kind": "random circuit", "value": value} for value in _share(found, metric.random).tolist()]
    return rows + [{"kind": "random complement", "value": value} for value in _share(found, metric.rest).tolist()]


def example_rows(found: Trials, first: int) -> list[dict[str, Any]]:
    """Rows of examples.parquet: the metric on each prompt that curves are measured on; `first` is the number of the first."""
    columns = (found.full, found.empty, found.metric.circuit[0], found.metric.complement[0])
    return [
        {"pair": first + i, "clean": clean, "ablated": ablated, "circuit": circuit, "complement": complement}
        for i, (clean, ablated, circuit, complement) in enumerate(torch.stack([c.double().cpu() for c in columns], 1).tolist())
    ]


def _share(found: Trials, metric: Float[Tensor, "circuit pair"]) -> Float[Tensor, " circuit"]:
    return faithfulness(metric.mean(1), found.full.mean(), found.empty.mean())


def _numpy(x: Tensor) -> np.ndarray:
    return x.double().cpu().numpy()
