"""ACDC (Conmy et al. 2023, arXiv:2304.14997): walk over the edges from the logits down and remove each whose removal costs less than tau.

    remove e where M(R) - M(R + e) < tau        R the edges removed so far, M the metric, larger is better

Sequential ACDC takes one forward an edge. Here each row of a batch guesses the decisions that precede it (at first: removed). Rows behind
a wrong guess decide nothing; what they would have decided is the next guess. Each decision compares the two numbers that sequential ACDC
compares, so the kept edges cannot depend on the guess. Edges into a node that no kept edge leaves change nothing and are removed
unevaluated, as in the original.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.forward import clean_metric, metrics
from interp.circuits.graph import Graph, Scores, Unit
from interp.models.bridge import Model
from interp.progress import bar
from interp.tasks import Pairs, Task
from saes.errors import InputError

# Rows of the first batch; they double while guesses hold, and shrink to twice those that were of use where one does not.
FIRST = 8
LEAST = 4
MOST = 64


@dataclass(frozen=True)
class Acdc:
    """Remove edges from the logits down at each threshold; an edge scores by the largest threshold that keeps it."""

    NAME: ClassVar[str] = "acdc"
    ABOUT: ClassVar[str] = "removes edges one after the other; the score is minus the largest threshold that keeps the edge"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "edge"

    thresholds: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Values of tau, in units of the metric."""
    absolute: bool = False
    """Remove an edge only when the change is small in either direction."""
    speculate: bool = True
    """Evaluate many edges in one batch; the result is the same."""

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise InputError("ACDC needs a threshold; give for example --thresholds 0.01 0.1")

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the largest threshold at which an edge is kept; 0 for edges that none keeps."""
        best = torch.zeros(graph.valid.shape)
        guess: Bool[Tensor, "source destination"] | None = None
        found: list[Found] = []
        for tau in sorted(self.thresholds):
            search = Search(model, task, pairs, graph, values, tau, self.absolute, self.speculate)
            found.append(search.run(guess))
            guess = found[-1].kept
            best[guess] = -tau
        score = best[graph.edges[:, 0], graph.edges[:, 1]]
        notes = {name: float(sum(getattr(one, name) for one in found)) for name in ("passes", "evaluations")}
        notes["smallest_margin"] = min(one.margin for one in found)
        one = torch.ones_like(score)
        return Scores(graph, "edge", score, one * 0, one, len(pairs), notes=notes)

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs, if every edge is measured at every threshold; most are removed unmeasured."""
        return float(len(self.thresholds) * graph.n_edges)


@dataclass(frozen=True, eq=False)
class Found:
    """The outcome at one threshold."""

    kept: Bool[Tensor, "source destination"]
    passes: int
    """Batched forwards."""
    evaluations: int
    """Edges whose removal was measured: what sequential ACDC takes in forwards."""
    margin: float
    """How close the closest decision was."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A row: the circuit before the edge at `place` is removed, if all guesses before it are right, and after."""

    edge: tuple[int, int]
    """Source and destination."""
    place: int
    before: Bool[Tensor, "source destination"]
    after: Bool[Tensor, "source destination"]
    guessed_kept: bool


@dataclass(frozen=True, eq=False)
class Row:
    """A measured trial."""

    trial: Trial
    cost: float
    """What the removal takes from the metric."""
    keep: bool
    before: float
    """Metric before the removal."""
    after: float

    @property
    def kept(self) -> Bool[Tensor, "source destination"]:
        """The circuit after the decision."""
        return self.trial.before if self.keep else self.trial.after

    @property
    def metric(self) -> float:
        """The metric after the decision."""
        return self.before if self.keep else self.after


@dataclass(frozen=True, eq=False)
class Search:
    """One walk over all edges at one threshold."""

    model: Model
    task: Task
    pairs: Pairs
    graph: Graph
    values: Outputs
    tau: float
    absolute: bool = False
    speculate: bool = True

    def run(self, guess: Bool[Tensor, "source destination"] | None = None) -> Found:
        """Walk; `guess` holds the edges that are expected to be kept (none by default)."""
        order, guess = self.order(), torch.zeros_like(self.graph.valid) if guess is None else guess.clone()
        kept, metric, place = self.graph.valid.clone(), float(clean_metric(self.model, self.task, self.pairs).double().mean()), 0
        size, found = FIRST if self.speculate else 1, Found(kept, 0, 0, float("inf"))
        with bar(len(order), "edges", f"ACDC at {self.tau:g}") as progress:
            while place < len(order):
                trials, beyond, rest = self._trials(order, kept, place, size, guess)
                rows = self._measure(trials, metric)
                right = sum(1 for _ in itertools.takewhile(lambda row: row.keep == row.trial.guessed_kept, rows))
                decided = rows[: right + 1]
                for row in rows:
                    guess[row.trial.edge] = row.keep
                if decided:
                    metric = decided[-1].metric
                kept, place = (decided[-1].kept, decided[-1].trial.place + 1) if right < len(rows) else (rest, beyond)
                margin = min((abs(row.cost - self.tau) for row in decided), default=float("inf"))
                found = Found(kept, found.passes + bool(rows), found.evaluations + len(decided), min(found.margin, margin))
                progress.update(place - progress.n)
                if self.speculate:
                    size = max(LEAST, min(size, 2 * len(decided))) if right < len(rows) else min(2 * size, MOST)
        return found

    def order(self) -> list[tuple[int, int]]:
        """Edges by destination from the logits down, the sources of each in the order of the model."""
        reach = self.graph.reach.tolist()
        return [(source, destination) for destination in reversed(range(len(reach))) for source in range(reach[destination])]

    def _trials(
        self, order: list[tuple[int, int]], kept: Bool[Tensor, "source destination"], place: int, size: int,
        guess: Bool[Tensor, "source destination"],
    ) -> tuple[list[Trial], int, Bool[Tensor, "source destination"]]:  # fmt: skip
        """The next rows, where they end, and the circuit there if every guess holds."""
        trials: list[Trial] = []
        base = kept.clone()
        for destination, edges in self._runs(order, place):
            if not self._alive(base, destination):
                for source, at in edges:
                    base[source, destination] = False
                    place = at + 1
                continue
            for source, at in edges:
                if len(trials) == size:
                    return trials, place, base
                after = base.clone()
                after[source, destination] = False
                trials.append(Trial((source, destination), at, base, after, bool(guess[source, destination])))
                base, place = (base if trials[-1].guessed_kept else after), at + 1
        return trials, place, base

    def _runs(self, order: list[tuple[int, int]], place: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Edges from `place` on, those of one destination together: (source, place)."""
        rest = enumerate(itertools.islice(order, place, None), place)
        for destination, edges in itertools.groupby(rest, key=lambda item: item[1][1]):
            yield destination, [(source, at) for at, (source, _) in edges]

    def _alive(self, kept: Bool[Tensor, "source destination"], destination: int) -> bool:
        owners = self.graph.owners[destination]
        return not owners or bool(kept[list(owners)].any())

    def _measure(self, trials: list[Trial], metric: float) -> list[Row]:
        """The rows, each of which compares with the one before it as guessed; `metric` is that of the circuit before the first."""
        if not trials:
            return []
        masks = torch.stack([trial.after for trial in trials])
        values: list[float] = metrics(self.model, self.task, self.pairs, self.graph, masks, self.values).double().mean(1).tolist()
        rows: list[Row] = []
        for trial, after in zip(trials, values, strict=True):
            cost = abs(metric - after) if self.absolute else metric - after
            rows.append(Row(trial, cost, not cost < self.tau, metric, after))
            metric = metric if trial.guessed_kept else after
        return rows
