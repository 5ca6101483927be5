"""Methods that score the nodes or edges of a graph. A new method is its file and its name in the union."""

from typing import ClassVar, Protocol, get_args, runtime_checkable

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.methods.acdc import Acdc
from interp.circuits.methods.attribution import Attribution
from interp.circuits.methods.budgeted import Budgeted
from interp.circuits.methods.discrete_code_edges import DiscreteCodeEdges
from interp.circuits.methods.discrete_codes import DiscreteCodes
from interp.circuits.methods.eap import Eap, EapIg, EapIgActivations, RelP
from interp.circuits.methods.exact import Exact, ExactEdges
from interp.circuits.methods.hisp import Hisp
from interp.circuits.methods.imported import Imported
from interp.circuits.methods.mask import EdgePruning, SubnetworkProbing
from interp.circuits.methods.norms import DifferenceNorm, Magnitude
from interp.circuits.methods.path_patching import PathPatching
from interp.circuits.methods.random import Random
from interp.circuits.methods.routes import FlowRoutes
from interp.models.bridge import Model
from interp.tasks import Pairs, Task

Method = (
    Attribution | Exact | Eap | EapIg | EapIgActivations | RelP | ExactEdges | Budgeted | Acdc | SubnetworkProbing | EdgePruning | Hisp
    | FlowRoutes | PathPatching | Magnitude | DifferenceNorm | DiscreteCodes | DiscreteCodeEdges | Random | Imported
)  # fmt: skip
METHODS: dict[str, type[Method]] = {method.NAME: method for method in get_args(Method)}

__all__ = ["METHODS", "Method", "Scorer", *(method.__name__ for method in get_args(Method))]


@runtime_checkable
class Scorer(Protocol):
    """What a method is: a frozen dataclass with its options as fields, its name and the unit that it scores."""

    NAME: ClassVar[str]
    ABOUT: ClassVar[str]
    """What it does to each node or edge, as the end of a sentence that its name begins."""
    EFFECTS: ClassVar[bool]
    """Whether its scores are changes of the metric, in the metric's unit."""

    @property
    def UNIT(self) -> Unit: ...

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Score each node or edge of the graph on the pairs, ablated to `values`; leaves no hook behind."""
        ...
