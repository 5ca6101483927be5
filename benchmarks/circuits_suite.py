"""Circuits that are known edge by edge, and how each method is asked for them.

A truth belongs to an ablation and to data, so a method is given the prompts and the replacements that `certify` removed edges with. Some
methods cannot see some circuits whatever their code does. That is decided from the certificate and from the slope of the literal twin in
every edge (`interp.models.compiled.forward`), never from the scores.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Outputs, replacement
from interp.circuits.graph import Graph, Scores, graph
from interp.circuits.methods import (
    METHODS,
    Acdc,
    Attribution,
    Budgeted,
    DifferenceNorm,
    DiscreteCodeEdges,
    DiscreteCodes,
    Eap,
    EapIg,
    EapIgActivations,
    EdgePruning,
    Exact,
    ExactEdges,
    FlowRoutes,
    Hisp,
    Imported,
    Magnitude,
    PathPatching,
    Random,
    RelP,
    SubnetworkProbing,
)  # fmt: skip
from interp.circuits.roc import auroc, average_precision, pessimistic_auroc
from interp.models import Model
from interp.models.compiled import GATES, PROGRAMS, Compiled, Gate, Program, Truth, certify, compile
from interp.models.compiled.forward import Edge, edges, run
from interp.models.compiled.truth import partners
from interp.tasks import Pairs
from interp.tasks.compiled import CompiledTask
from saes.errors import InputError

LENGTH = 3
ABLATIONS = ("zero", "resample")
QUICK = ("and", "acdc_or", "backup", "reverse", "xproportion", "hist")
# A slope of the twin, of numbers of order one in float64, below which an edge has none.
FLAT = 1e-9
# Where slopes along a path are looked for.
POINTS = 100
# Attention of compiled models changes its mind within a few hundredths of the path; few points step over it.
IG_STEPS = 50


@dataclass(frozen=True, eq=False)
class Known:
    """A compiled model under one ablation, with its certificate."""

    compiled: Compiled
    model: Model
    graph: Graph
    pairs: Pairs
    values: Outputs
    truth: Truth

    @property
    def name(self) -> str:
        return f"{self.compiled.source.name}/{self.truth.ablation}"

    @cached_property
    def options(self) -> tuple[frozenset[Edge], ...]:
        """Minimal sets of edges; a method may find any of them."""
        return self.truth.alternatives or (self.truth.edges,)

    @cached_property
    def true(self) -> frozenset[Edge]:
        """Edges of some minimal set."""
        return frozenset().union(*self.options)

    @cached_property
    def sloped(self) -> frozenset[Edge]:
        """True edges along which some logit has a slope at the clean prompts."""
        return self._slopes(0.0, sorted(self.true))

    @cached_property
    def sloped_on_the_way(self) -> frozenset[Edge]:
        """True edges that have one anywhere between the clean embeddings and none."""
        missing = self.true
        for i in range(POINTS):
            missing -= self._slopes((i + 0.5) / POINTS, sorted(missing)) if missing else frozenset()
        return self.true - missing

    def _slopes(self, point: float, names: Sequence[Edge]) -> frozenset[Edge]:
        """Which edges have one: autograd through the literal twin, embeddings scaled by 1 - point, one row for each edge."""
        w, clean = self.compiled.weights, self.pairs.clean
        zero = self.truth.ablation == "zero"
        other = run(w, self.pairs.corrupt)[1]
        away = {u: (0 * y if zero else other[u]) - y for u, y in run(w, clean)[1].items()}
        there = replace(w, w_e=w.w_e * (1 - point), w_pos=w.w_pos * (1 - point))
        share = torch.zeros(len(names), 1, 1, 1, dtype=torch.float64, requires_grad=True)
        cut = {edge: torch.arange(len(names)) != i for i, edge in enumerate(names)}
        logits = run(there, clean, cut, {u: y + share * away[u] for u, y in run(there, clean)[1].items()})[0]
        read = logits[:, torch.arange(len(clean))[:, None], self.pairs.read]
        # One random direction of all logits: a slope that is not zero has a part along it.
        mixed = torch.randn(read.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (slope,) = torch.autograd.grad((read * mixed).sum(), share)
        return frozenset(edge for edge, s in zip(names, slope.flatten().tolist(), strict=True) if abs(s) > FLAT)


def suite(quick: bool) -> Iterator[Known]:
    """Programs and gates under both ablations."""
    for source in (*GATES, *PROGRAMS):
        if not quick or source.name in QUICK:
            yield from (known(source, ablation) for ablation in ABLATIONS)


def known(source: Program | Gate, ablation: str) -> Known:
    """Compile, certify, and pair the prompts as the certificate does."""
    compiled = compile(source)
    model, inputs = compiled.model(torch.float64), compiled.inputs(LENGTH)
    truth = certify(compiled, ablation, inputs)  # pyright: ignore[reportArgumentType]
    whole = graph(model, pos=True)
    assert {(whole.sources[s], whole.destinations[d]) for s, d in whole.edges.tolist()} == set(edges(compiled.weights))
    drawn = CompiledTask(compiled, LENGTH).pairs(model.tokenizer, len(inputs), 0, model.bos)
    place = {tuple(row): i for i, row in enumerate(drawn.clean.tolist())}
    pairs = drawn.rows([place[tuple(row)] for row in inputs.tolist()])
    if ablation == "resample":
        clean, corrupt = partners(len(inputs), 0)
        pairs = replace(pairs.rows(clean.tolist()), corrupt=inputs[corrupt])
    return Known(compiled, model, whole, pairs, replacement(model, whole, pairs, ablation), truth)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Towards(CompiledTask):
    """A metric with a slope where the squared distance has none: logits times (program's output less that of the replacing prompt)."""

    ablation: str = "zero"

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        rows = torch.arange(len(pairs))[:, None], pairs.read
        way = self.compiled.target(pairs.clean)[rows]
        way = way - self.compiled.target(pairs.corrupt)[rows] if self.ablation == "resample" else way
        return (logits * way.to(logits)).sum(-1).mean(-1)


# ---- what cannot be seen, and why


def nothing(known: Known) -> str:
    """A method with no blind spot in principle."""
    return ""


def flat(known: Known) -> str:
    """Slopes at the clean prompts: hard attention, steps and saturated gates have none."""
    missing = known.true - known.sloped
    return f"flat ({len(missing)} of {len(known.true)})" if missing else ""


def flat_path(known: Known) -> str:
    """Slopes between the clean embeddings and none: where one number scales all that a neuron reads, it is on all the way or off."""
    missing = known.true - known.sloped_on_the_way if known.truth.ablation == "zero" else frozenset()
    return f"flat path ({len(missing)} of {len(known.true)})" if missing else ""


def flat_nodes(known: Known) -> str:
    """True nodes from which no true edge with a slope leaves."""
    nodes = {source for source, _ in known.true} - {"embed", "pos"}
    missing = nodes - {source for source, _ in known.true & known.sloped}
    return f"flat ({len(missing)} of {len(nodes)})" if missing else ""


def held(known: Known) -> str:
    """Backward rules hold attention patterns constant, so queries and keys carry nothing; a neuron that is off passes nothing. Neither does
    what only those read."""
    heard, missing, off = {"logits"}, 0, _off(known)
    for source, to in sorted(known.true, key=lambda edge: known.graph.destinations.index(edge[1]), reverse=True):
        if to.endswith((".q", ".k")) or to.removesuffix(".v") not in heard or (source, to) in off:
            missing += 1
        else:
            heard.add(source)
    return f"pattern, off ({missing} of {len(known.true)})" if missing else ""


def _off(known: Known) -> frozenset[Edge]:
    """True edges into MLPs whose source moves only neurons that are off at all clean prompts."""
    w, found = known.compiled.weights, set()
    own, other = run(w, known.pairs.clean)[1], run(w, known.pairs.corrupt)[1]
    for source, to in known.true:
        if to.startswith("m"):
            layer, before = int(to[1:]), list(own)[: list(own).index(to)]
            on = torch.stack([own[u][0] for u in before]).sum(0) @ w.w_in[layer] > 0
            away = own[source] if known.truth.ablation == "zero" else other[source] - own[source]
            passed = (away[0] @ w.w_in[layer]).abs() * on * w.w_out[layer].norm(dim=1)
            if float(passed.max()) < FLAT:
                found.add((source, to))
    return frozenset(found)


def one_kind(known: Known) -> str:
    """Codes tell prompts that have something from prompts that lack it; here both are drawn alike."""
    return "one kind"


def redundant(known: Known) -> str:
    """One ablation at a time: of several sufficient sets none is needed, and a backup hides what it replaces."""
    return "redundant" if known.truth.alternatives else ""


@dataclass(frozen=True)
class Question:
    """A method, the metric it is given, and what it cannot answer."""

    method: Any
    blind: Callable[[Known], str] = nothing
    slope: bool = False
    """Give it `Towards`, because the squared distance has no slope at the clean prompts."""
    direct: bool = False
    """Its receivers are the logits: true are the nodes that reach them without passing another head."""


def questions(quick: bool) -> dict[str, Question]:
    """Every method of METHODS that computes scores, with few steps of training."""
    steps = 20 if quick else 120
    codes = DiscreteCodes(latents=20, examples=4, epochs=50 if quick else 500)
    asked = {
        "attribution": Question(Attribution(), flat_nodes, slope=True),
        "exact": Question(Exact(), redundant),
        "eap": Question(Eap(), flat, slope=True),
        "eap-ig": Question(EapIg(steps=20 if quick else IG_STEPS), flat_path),
        "eap-ig-activations": Question(EapIgActivations(steps=5 if quick else 20), redundant),
        "relp": Question(RelP(), held, slope=True),
        "exact-edges": Question(ExactEdges(), redundant),
        "budgeted": Question(Budgeted(budget=20), flat, slope=True),
        "acdc": Question(Acdc()),
        "subnetwork-probing": Question(SubnetworkProbing(steps=steps, keep="metric", price=0.1)),
        "edge-pruning": Question(EdgePruning(steps=steps, keep="metric")),
        "hisp": Question(Hisp(), flat_nodes, slope=True),
        "flow-routes": Question(FlowRoutes()),
        "path-patching": Question(PathPatching(), redundant, direct=True),
        "magnitude": Question(Magnitude()),
        "difference-norm": Question(DifferenceNorm(paired=True)),
        "discrete-codes": Question(codes, one_kind),
        "discrete-code-edges": Question(DiscreteCodeEdges(codes), one_kind),
        "random": Question(Random(unit="edge")),
    }
    without = METHODS.keys() - asked.keys() - {Imported.NAME}
    assert not without, f"no question for {without}"
    return asked


@dataclass(frozen=True)
class Answer:
    """One method on one circuit."""

    method: str
    circuit: str
    unit: str
    true: int
    of: int
    why: str
    """Why it cannot see this circuit; empty where it can."""
    auroc: float | None = None
    """By |score|; a tie counts half. None: nothing to tell apart."""
    helping: float | None = None
    """By -score."""
    pessimistic: float | None = None
    """By |score|, ties lost."""
    ap: float | None = None
    passes: float | None = None
    seconds: float = 0.0


def answer(name: str, question: Question, known: Known) -> Answer:
    """Run a method and hold its scores against the circuit."""
    task = Towards(known.compiled, LENGTH, known.truth.ablation) if question.slope else CompiledTask(known.compiled, LENGTH)
    unit = question.method.UNIT
    aims = [aim(known, option, unit, question.direct) for option in known.options]
    size = len(known.graph.nodes) if unit == "node" else known.graph.n_edges
    told = Answer(name, known.name, unit, len(aims[0]), size, "")
    why = _nothing_to_tell(aims, size, unit) or question.blind(known)
    if not any(known.options):
        return replace(told, why=why)
    started = time.perf_counter()
    try:
        scores = question.method(known.model, task, known.pairs, known.graph, known.values)
    except InputError as error:
        if question.slope and not known.sloped:
            return replace(told, why="no slope")
        raise AssertionError(f"{name} refuses {known.name}: {error}") from error
    told = replace(told, why=why, seconds=time.perf_counter() - started, passes=scores.notes.get("passes"))
    found = areas(scores, aims)
    return replace(told, **found) if found else replace(told, why=why or f"all {unit}s")


def aim(known: Known, option: frozenset[Edge], unit: str, direct: bool) -> frozenset[str]:
    """Names of what is true: edges, or heads and MLPs from which a true edge leaves."""
    if unit == "edge":
        return frozenset(f"{source}->{to}" for source, to in option)
    if not direct:
        return frozenset(source for source, _ in option) - {"embed", "pos"}
    reached = {"logits"}
    for source, to in sorted(option, key=lambda edge: known.graph.destinations.index(edge[1]), reverse=True):
        if to in reached and (to == "logits" or to.startswith("m")):
            reached.add(source)
    return frozenset(reached) - {"embed", "pos", "logits"}


def _nothing_to_tell(aims: Sequence[frozenset[str]], size: int, unit: str) -> str:
    if not any(aims):
        return f"no {unit}s"
    return f"all {unit}s" if all(len(a) == size for a in aims) else ""


def areas(scores: Scores, aims: Sequence[frozenset[str]]) -> dict[str, float]:
    """Areas against the minimal set that suits best; what only the others have counts neither way."""
    names, effect = np.array(scores.names()), scores.mean.double().numpy()
    found = []
    for own in aims:
        fair = np.array([name in own or not any(name in other for other in aims) for name in names])
        true = np.array([name in own for name in names])[fair]
        if true.any() and not true.all():
            size = np.abs(effect[fair])
            found.append(
                {
                    "auroc": auroc(size, true),
                    "helping": auroc(-effect[fair], true),
                    "pessimistic": pessimistic_auroc(size, true),
                    "ap": average_precision(size, true),
                }
            )
    return max(found, key=lambda row: row["auroc"], default={})
