"""Methods that score the nodes of a graph. A new method is its file and its name in the union."""

from typing import Protocol, runtime_checkable

from interp.circuits.graph import Graph, Scores
from interp.circuits.methods.attribution import Attribution
from interp.circuits.methods.exact import Exact
from interp.circuits.methods.random import Random
from interp.models.bridge import Model
from interp.tasks import Pairs, Task

Method = Attribution | Exact | Random

__all__ = ["Attribution", "Exact", "Method", "Random", "Scorer"]


@runtime_checkable
class Scorer(Protocol):
    """What a method is: a frozen dataclass with its options as fields."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph) -> Scores:
        """Score each node of the graph on the pairs; leaves no hook behind."""
        ...
