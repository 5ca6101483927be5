"""Exact where it matters: EAP for all edges, EAP-IG where EAP is uncertain, exact patching at the frontier of the circuit.

An edge is uncertain when its examples disagree in sign, or when the interval of its score spans the frontier: the score at which a circuit
of the wanted size ends. Far from the frontier a wrong score changes no circuit, so the exact forwards, which a budget limits, go to the
edges whose rank is nearest to it, in rounds, since exact effects move edges and with them the frontier.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph, Ranking, Scores, Unit
from interp.circuits.methods.eap import Eap, EapIg
from interp.circuits.methods.exact import edge_effects
from interp.models.bridge import Model
from interp.tasks import Pairs, Task
from saes.errors import InputError

ROUNDS = 4
# Below this share of examples with the sign of the mean, EAP is held to be uncertain.
AGREE = 0.75


@dataclass(frozen=True)
class Budgeted:
    """EAP, EAP-IG where that is uncertain, exact patching around the size of the circuit."""

    NAME: ClassVar[str] = "budgeted"
    ABOUT: ClassVar[str] = "estimates all edges from gradients and ablates those around the end of the circuit exactly"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    budget: int = 200
    """Edges that are ablated exactly."""
    frontier: float = 0.05
    """Where the circuit ends, as a share of all edges."""
    order: Ranking = "helping"
    """The order in which edges enter it: helping, or absolute."""
    steps: int = 5
    """Points of the path of EAP-IG."""

    def __post_init__(self) -> None:
        if self.budget < 0 or not 0 < self.frontier < 1:
            raise InputError(
                f"--budget {self.budget} --frontier {self.frontier}: give 0 edges or more and a share between 0 and 1, such as .05"
            )

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Change of the metric when each edge is ablated, by the best method that the budget allows it."""
        scores = Eap()(model, task, pairs, graph, values)
        size = max(1, min(graph.n_edges - 1, round(self.frontier * graph.n_edges)))
        doubtful = uncertain(scores, self.order, size).nonzero().flatten()
        if len(doubtful):
            better = EapIg(self.steps)(model, task, pairs, graph, values)
            scores = replaced(scores, better, doubtful, doubtful)
        exact = torch.zeros(graph.n_edges, dtype=torch.bool)
        left = min(self.budget, graph.n_edges)
        for rest in range(ROUNDS, 0, -1):
            which = nearest(scores, self.order, size, ~exact, -(-left // rest))
            if not len(which):
                break
            found = Scores.of(graph, "edge", edge_effects(model, task, pairs, graph, values, which).float())
            scores = replaced(scores, found, which, torch.arange(len(which)))
            exact[which] = True
            left -= len(which)
        n_exact, n_path = int(exact.sum()), int((~exact[doubtful]).sum())
        notes = {"edges_exact": n_exact, "edges_eap_ig": n_path, "edges_eap": graph.n_edges - n_exact - n_path}
        return Scores(
            graph, "edge", scores.mean, scores.deviation, scores.agreement, scores.n, scores.per_example,
            {name: float(n) for name, n in notes.items()},
        )  # fmt: skip

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: those of EAP and EAP-IG, and half a forward for each exact edge."""
        return 4 + 3 * self.steps + min(self.budget, graph.n_edges) / 2


def uncertain(scores: Scores, by: Ranking, size: int) -> Bool[Tensor, " edge"]:
    """Edges whose examples disagree in sign, or whose interval spans the score at which the circuit ends."""
    low, high = scores.interval()
    end = float(_worth(scores.mean, by)[scores.order(by)[size - 1]])
    ends = torch.stack((_worth(low, by), _worth(high, by)))
    least, most = ends.amin(0), ends.amax(0)
    if by == "absolute":
        least = torch.where((low < 0) & (high > 0), torch.zeros_like(least), least)
    # An edge that nothing moves (score 0 on every example) has no sign to agree in.
    moves = (scores.mean != 0) | (scores.deviation > 0)
    return moves & ((scores.agreement < AGREE) | ((least < end) & (end < most)))


def nearest(scores: Scores, by: Ranking, size: int, among: Bool[Tensor, " edge"], n: int) -> Int[Tensor, " chosen"]:
    """The n edges whose ranks are nearest to the end of the circuit, half on either side as far as there are that many."""
    order = scores.order(by)
    order, distance = order[among[order]], (torch.arange(len(order)) + 0.5 - size).abs()[among[order]]
    return order[distance.sort(stable=True).indices[:n]]


def replaced(scores: Scores, better: Scores, which: Int[Tensor, " chosen"], own: Int[Tensor, " chosen"]) -> Scores:
    """The scores of some edges, in the places `which`, taken from the places `own` of others."""

    def mixed(name: str) -> Float[Tensor, " edge"]:
        part = getattr(scores, name).clone()
        part[which] = getattr(better, name)[own].to(part)
        return part

    per_example = None
    if scores.per_example is not None and better.per_example is not None:
        per_example = scores.per_example.clone()
        per_example[:, which] = better.per_example[:, own].to(per_example)
    return Scores(scores.graph, scores.unit, mixed("mean"), mixed("deviation"), mixed("agreement"), scores.n, per_example, scores.notes)


def _worth(x: Float[Tensor, " edge"], by: Ranking) -> Float[Tensor, " edge"]:
    return x.abs() if by == "absolute" else -x
