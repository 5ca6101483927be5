"""How well scores of heads find a known set of heads: AUC and average precision, with an interval over repetitions.

Two sets for SmolLM2 on IOI: the heads with the largest measured effect, and the heads of known function. AUC with few positives among many
heads flatters, so average precision stands beside it; its value for a random order is the share of positives.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from interp.circuits.graph import Graph, Scores, short
from saes.errors import InputError

# Attention at the named positions together with direct logit attribution, 200 prompts; no path patching, so candidates.
SMOLLM2_IOI: dict[str, tuple[str, ...]] = {
    "name mover": ("23.0", "23.1", "23.2", "23.4", "23.7"),
    "subject suppressor": ("23.3",),
    "negative name mover": ("24.4",),
    "self-amplifier": ("29.0", "29.1"),
    "S-inhibition": ("18.1", "19.2", "19.4", "20.0"),
    "induction": ("13.7", "17.4", "17.5", "18.4", "18.6"),
    "duplicate token": ("2.4", "5.6", "8.0", "8.1", "9.2", "14.3", "15.7"),
    "previous token": ("0.0", "1.2", "2.1", "11.1", "11.8", "16.0", "16.5"),
}


@dataclass(frozen=True)
class Interval:
    """A mean over repetitions with the bounds of its 95 % interval (Student's t); NaN for one repetition."""

    mean: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> "Interval":
        mean, n = float(np.mean(values)), len(values)
        half = float(scipy.stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")
        return Interval(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Found:
    """How well heads were found: the chance that a head of the set outranks another (ties one half), and average precision."""

    auc: Interval
    precision: Interval


def strongest(graph: Graph, effects: Float[Tensor, " node"], k: int) -> Bool[Tensor, " node"]:
    """The k heads with the largest |effect|."""
    heads = graph.index(graph.heads())
    truth = torch.zeros(len(graph.nodes), dtype=torch.bool)
    truth[heads[effects[heads].abs().topk(k).indices]] = True
    return truth


def named(graph: Graph, heads: Iterable[str]) -> Bool[Tensor, " node"]:
    """Heads by short name. Raises InputError for one that the graph lacks."""
    wanted, names = set(heads), [short(node) for node in graph.nodes]
    if lacking := sorted(wanted.difference(names)):
        raise InputError(f"the graph has no head {', '.join(lacking)}; its heads are {names[0]} to {short(graph.heads()[-1])}")
    return torch.tensor([name in wanted for name in names])


def found(scores: Sequence[Scores], truth: Bool[Tensor, " node"]) -> Found:
    """How well |scores| of heads, one `Scores` for each repetition, find the true ones. MLPs are left out.

    Raises InputError when every head is true, or none.
    """
    graph = scores[0].graph
    heads = graph.index(graph.heads())
    true = truth[heads].numpy()
    if true.all() or not true.any():
        raise InputError(f"{true.sum()} of {len(true)} heads are true, which leaves nothing to tell apart; choose another k")
    ranked = [one.mean[heads].abs().double().numpy() for one in scores]
    auc, precision = ([float(measure(true, rank)) for rank in ranked] for measure in (roc_auc_score, average_precision_score))
    return Found(Interval.of(auc), Interval.of(precision))
