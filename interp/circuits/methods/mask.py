"""Circuits as trained masks: hard-concrete gates on nodes or edges (Louizos et al. 2018), trained through the masked forward.

    z = clamp(sigmoid((log u - log(1 - u) + log_alpha) / beta) (zeta - gamma) + gamma, 0, 1)        u uniform
    P(z > 0) = sigmoid(log_alpha - beta log(-gamma / zeta))

Subnetwork probing (Cao et al. 2021, arXiv:2104.03514) pays a fixed price for each open gate. Edge pruning (Bhaskar et al. 2024,
arXiv:2406.16778) holds the share of closed gates at a target that rises, by two multipliers that are trained by ascent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.forward import Clean, cleanly, edge_logits, logits_at
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.methods.eap import EapIg
from interp.models.bridge import Model
from interp.progress import bar
from interp.tasks import Pairs, Task
from saes.errors import InputError

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
Objective = Literal["kl", "metric"]
Penalty = Callable[[Tensor, float], Tensor]
# Gates start open: P(z > 0) = .98. A warm start spreads them by this much around it, as EAP-IG ranks them.
OPEN, SPREAD = 2.0, 2.0


@dataclass(frozen=True)
class SubnetworkProbing:
    """Gates that are paid for while they are open."""

    NAME: ClassVar[str] = "subnetwork-probing"
    ABOUT: ClassVar[str] = "trains a gate on each; the score is minus the probability that it is open"
    EFFECTS: ClassVar[bool] = False

    unit: Unit = "node"
    """Gates on nodes or on edges."""
    price: float = 1.0
    """Price of all gates open, in units of the objective."""
    steps: int = 300
    """Steps of Adam."""
    lr: float = 0.1
    """Step size."""
    batch: int = 8
    """Pairs of one step."""
    keep: Objective = "kl"
    """What a circuit has to keep. kl: the whole model's output. metric: its metric."""
    warm: bool = True
    """Start from the order of EAP-IG."""
    gate_seed: int = 0
    """Seed of gates and batches."""

    @property
    def UNIT(self) -> Unit:
        return self.unit

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the probability that each gate is open."""
        start = _start(model, task, pairs, graph, values, self.unit, self.warm)
        return _trained(self, model, task, pairs, graph, values, start, lambda open_share, _: self.price * open_share)

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: every step runs a circuit of edges on a batch, forward and backward; a warm start is EAP-IG."""
        return 6.0 * self.steps * min(self.batch, n_pairs) / n_pairs + self.warm * EapIg().passes(graph, n_pairs)


@dataclass(frozen=True)
class EdgePruning:
    """Gates of which a given share has to be closed."""

    NAME: ClassVar[str] = "edge-pruning"
    ABOUT: ClassVar[str] = "trains a gate on each; the score is minus the probability that it is open"
    EFFECTS: ClassVar[bool] = False

    unit: Unit = "edge"
    """Gates on edges or on nodes."""
    sparsity: float = 0.9
    """Share of gates that are closed in the end."""
    steps: int = 400
    """Steps of Adam; over the first five sixths the share rises to its target."""
    lr: float = 0.3
    """Step size."""
    batch: int = 8
    """Pairs of one step."""
    keep: Objective = "kl"
    """What a circuit has to keep. kl: the whole model's output. metric: its metric."""
    warm: bool = True
    """Start from the order of EAP-IG."""
    gate_seed: int = 0
    """Seed of gates and batches."""

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise InputError(f"--sparsity {self.sparsity} is no share; give a number between 0 and 1, for example 0.9")

    @property
    def UNIT(self) -> Unit:
        return self.unit

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the probability that each gate is open."""
        multipliers = torch.zeros(2, requires_grad=True)
        ascent = torch.optim.Adam([multipliers], lr=self.lr, maximize=True)

        def penalty(open_share: Tensor, progress: float) -> Tensor:
            if multipliers.grad is not None:
                ascent.step()
                ascent.zero_grad()
            short = self.sparsity * min(1.0, progress * 6 / 5) - (1 - open_share)
            own = multipliers.to(short)
            return own[0] * short + own[1] * short.square()

        start = _start(model, task, pairs, graph, values, self.unit, self.warm)
        return _trained(self, model, task, pairs, graph, values, start, penalty)

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: every step runs a circuit of edges on a batch, forward and backward; a warm start is EAP-IG."""
        return 6.0 * self.steps * min(self.batch, n_pairs) / n_pairs + self.warm * EapIg().passes(graph, n_pairs)


def hard_concrete(log_alpha: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of each gate."""
    u = torch.rand(log_alpha.shape, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6).to(log_alpha)
    return (torch.sigmoid((u.logit() + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def _start(model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs, unit: Unit, warm: bool) -> Float[Tensor, " gate"]:
    n = len(graph.nodes) if unit == "node" else graph.n_edges
    if not warm:
        return torch.full((n,), OPEN)
    edges = EapIg()(model, task, pairs, graph, values)
    worth = edges.mean.abs() if unit == "edge" else edges.matrix().sum(1)[graph.n_embeddings :].abs()
    rank = worth.argsort().argsort() / max(1, n - 1)
    return OPEN + SPREAD * (rank - 0.5)


def _trained(
    method: SubnetworkProbing | EdgePruning,
    model: Model,
    task: Task,
    pairs: Pairs,
    graph: Graph,
    values: Outputs,
    start: Tensor,
    penalty: Penalty,
) -> Scores:
    gates = start.to(model.device, torch.float32).requires_grad_()
    optimiser = torch.optim.Adam([gates], lr=method.lr)
    rng = torch.Generator().manual_seed(method.gate_seed)
    clean = cleanly(model, graph, pairs, values, [0])
    with torch.no_grad():
        logits = logits_at(model, lambda: model(pairs.clean), pairs.read)[0]
        metric = task.metric(logits, pairs)
    with bar(method.steps, "steps", method.NAME) as progress:
        for step in range(method.steps):
            some = torch.randperm(len(pairs), generator=rng)[: method.batch].tolist()
            weights = _weights(graph, method.unit, hard_concrete(gates, rng))
            loss = _distance(method.keep, model, task, pairs.rows(some), graph, weights, _clean(clean, some), logits[some], metric[some])
            optimiser.zero_grad()
            (loss + penalty(open_probability(gates).mean(), step / method.steps)).backward()
            optimiser.step()
            progress.set_postfix_str(f"distance {loss.item():.3g} open {open_probability(gates).mean().item():.1%}", refresh=False)
            progress.update()
    found = -open_probability(gates).detach().cpu()
    return Scores(graph, method.unit, found, torch.zeros_like(found), torch.ones_like(found), len(pairs))


def _weights(graph: Graph, unit: Unit, gates: Float[Tensor, " gate"]) -> Float[Tensor, "one source destination"]:
    weights = torch.ones(graph.valid.shape, device=gates.device, dtype=gates.dtype)
    if unit == "edge":
        source, destination = graph.edges.T.to(gates.device)
        return weights.index_put((source, destination), gates)[None]
    nodes = torch.cat((gates.new_ones(graph.n_embeddings), gates))
    return (weights * nodes[:, None])[None]


def _distance(
    objective: Objective,
    model: Model,
    task: Task,
    pairs: Pairs,
    graph: Graph,
    weights: Tensor,
    clean: Clean,
    logits: Tensor,
    metric: Tensor,
) -> Tensor:
    own = edge_logits(model, graph, pairs, weights, clean, 0)[0]
    if objective == "metric":
        return (task.metric(own, pairs) - metric).abs().mean()
    logs, target = own.float().log_softmax(-1), logits.float().log_softmax(-1)
    return (target.exp() * (target - logs)).sum(-1).mean()


def _clean(clean: Clean, rows: list[int]) -> Clean:
    resid = {layer: stream[rows] for layer, stream in clean.resid.items()}
    return Clean(resid, clean.difference[:, rows], clean.values.rows(rows))
