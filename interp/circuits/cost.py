"""What a circuit run costs, said before it starts: forwards over one half of the pairs, and bytes."""

import time
from collections.abc import Sequence

from interp.circuits.faithfulness import sizes
from interp.circuits.forward import clean_metric, passes
from interp.circuits.graph import Graph
from interp.circuits.methods import Exact, Method
from interp.circuits.report import Splits
from interp.circuits.trials import n_circuits
from interp.models.bridge import Model
from interp.tasks import Pairs, Task

# A gradient method: two forwards and a backward.
GRADIENT = 4.0
# Corrupt and clean runs 4, metrics of both halves 4, identities 5.
FIXED = 13
# Forwards in one circuit of edges: every destination has an input of its own.
EDGE_CIRCUIT = 2


def run_passes(
    method: Method, graph: Graph, splits: Splits, ablations: Sequence[str], random_orders: int, audit: int, tests: int, size: int
) -> float:
    """Forwards over one half of the pairs. Circuits of a curve are counted from the first layer, where nearly all of them start."""
    unit = method.UNIT
    n = len(graph.nodes) if unit == "node" else graph.n_edges
    counts = [int(graph.is_head().sum()), n] if unit == "node" else [n]
    series = (1 + 1 + random_orders) + (1 if unit == "edge" else 2)
    per_curve = sum(2 + series * (len(sizes(count, unit)) - 2) for count in counts)
    circuits = len(ablations) * per_curve + n_circuits(tests, size)
    audited = audit / 2 if unit == "edge" else _single(graph) * bool(audit or isinstance(method, Exact))
    return (
        method_passes(method, graph, len(splits.train)) + audited + circuits * (EDGE_CIRCUIT if unit == "edge" else 1) + FIXED
        + len(splits.mean) / len(splits.train)
    )  # fmt: skip


def method_passes(method: Method, graph: Graph, n_pairs: int) -> float:
    """Forwards of the method itself: what it says, else those of a gradient."""
    said = getattr(method, "passes", None)
    return GRADIENT if said is None else said(graph, n_pairs)


def _single(graph: Graph) -> float:
    """Every node ablated alone, each from its layer on."""
    return passes(graph, graph.keeping([[other for other in graph.nodes if other != node] for node in graph.nodes]))


def seconds_per_pass(model: Model, task: Task, pairs: Pairs) -> float:
    """Duration of one forward over the pairs, after one to warm up."""
    clean_metric(model, task, pairs.rows(slice(1)))
    start = time.perf_counter()
    clean_metric(model, task, pairs).cpu()
    return time.perf_counter() - start


def activation_bytes(model: Model, graph: Graph, splits: Splits) -> int:
    """Streams of all layers held at once (clean, corrupt, gradient, two replacements), what each source writes, and one batch of rows."""
    per_token = 4 * model.n_layers * (model.n_heads * model.d_head + 2 * model.d_model)
    sources = min(1_200_000_000, 8 * len(graph.sources) * splits.test.clean.numel() * model.d_model)
    return 6 * per_token * splits.test.clean.numel() + sources + 100_000_000
