"""Which edges a compiled model needs, certified by exact removal on the weights.

A truth belongs to an ablation, to data and to positions. A set of kept edges is *sufficient* when, with all others removed, no logit at
the positions that count differs from the whole model's by more than the tolerance. Where the weights give an edge no way to matter
(what its source writes lies outside what its destination reads) it is left out at once, and that set is checked as a whole; the others
are removed one after another from the logits down, from the embeddings up, and each alone. If the three agree the truth is unique.
Otherwise, and wherever there are few enough subsets to try them all, the minimal sufficient sets are listed as alternatives.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.compiled.forward import Edge, circuits, edges, run
from interp.models.compiled.model import Compiled
from interp.models.compiled.units import Weights
from saes.errors import InputError

Ablation = Literal["zero", "resample", "mean"]
Circuit = frozenset[Edge]
# Wide enough for the leak of attention (2e-22), narrow enough for the smallest step of an output (a share of 1/42).
TOLERANCE = 1e-3
# Trying all subsets costs 2^edges rows of inputs; about two seconds.
MAX_ROWS = 40_000
# Rows of [input, pos, d_model] run at once.
BATCH = 4096
ORDERS = 8


@dataclass(frozen=True)
class Truth:
    """The edges a model needs, and under which conditions that holds."""

    edges: Circuit
    """The one minimal sufficient set, or the smallest of several."""
    alternatives: tuple[Circuit, ...]
    """All minimal sufficient sets that were found, when there are several (as behind an OR), or when the only one is not what the removal
    edge by edge finds (as behind a backup); else empty: the truth is unique."""
    necessary: Circuit
    """Edges whose removal alone changes an output."""
    structural: Circuit
    """Upper bound from the weights: edges whose source writes something that their destination reads."""
    ablation: Ablation
    condition: str
    """The data."""
    positions: tuple[int, ...]
    """Where logits are compared."""
    evidence: str
    tolerance: float
    """Largest logit change that counts as none."""
    largest_removed: float
    """Largest logit change when all edges outside `edges` are removed."""
    smallest_kept: float
    """Smallest logit change when one edge of `edges` is removed as well; infinite for a truth without edges."""

    @property
    def unique(self) -> bool:
        return not self.alternatives


@dataclass(frozen=True, eq=False)
class _Bench:
    """Clean inputs with what replaces each source's output, ready to measure circuits."""

    weights: Weights
    tokens: Int[Tensor, "input pos"]
    replacement: Mapping[str, Float[Tensor, "input pos d_model"]]
    whole: Float[Tensor, "input pos vocab"]
    read: Int[Tensor, " read"]

    def effects(self, rows: Sequence[Circuit]) -> list[float]:
        """For each circuit the largest logit change over inputs and positions."""
        found: list[float] = []
        size = max(1, BATCH // len(self.tokens))
        for i in range(0, len(rows), size):
            logits, _ = run(self.weights, self.tokens, circuits(self.weights, rows[i : i + size]), self.replacement)
            found += (logits - self.whole)[:, :, self.read].abs().flatten(1).amax(1).expand(len(rows[i : i + size])).tolist()
        return found

    def effect(self, circuit: Circuit) -> float:
        return self.effects([circuit])[0]


def certify(compiled: Compiled, ablation: Ablation, tokens: Int[Tensor, "input pos"], seed: int = 0) -> Truth:
    """The truth on these inputs (BOS in front, all of one length); raises InputError for fewer than two inputs or another ablation."""
    if ablation not in get_args(Ablation):
        raise InputError(f"ablation {ablation!r} is unknown; choose one of {', '.join(get_args(Ablation))}")
    if len(tokens) < 2:
        raise InputError(f"{len(tokens)} inputs leave nothing to compare; give at least two, for example compiled.inputs(length)")
    bench = _bench(compiled, ablation, tokens, seed)
    whole = frozenset(edges(compiled.weights))
    structural = frozenset(edge for edge in whole if _coupling(compiled.weights, edge) > 1e-9)
    assert bench.effect(structural) <= TOLERANCE, "an edge without structural coupling changes an output"
    order = [edge for edge in reversed(edges(compiled.weights)) if edge in structural]
    alone = dict(zip(order, bench.effects([whole - {edge} for edge in order]), strict=True))
    necessary = frozenset(edge for edge in order if alone[edge] > TOLERANCE)
    sets, how = _minimal(bench, order, necessary, seed)
    kept = sets[0]
    losses = bench.effects([kept - {edge} for edge in order if edge in kept]) if kept else []
    return Truth(
        edges=kept,
        alternatives=() if sets == (necessary,) else sets,
        necessary=necessary,
        structural=structural,
        ablation=ablation,
        condition=f"{compiled.name}, {tokens.shape[1] - 1} tokens behind BOS, {_data(ablation, tokens, bench)}",
        positions=tuple(bench.read.tolist()),
        evidence=f"exact removal in float64, {how}",
        tolerance=TOLERANCE,
        largest_removed=bench.effect(kept),
        smallest_kept=min(losses, default=float("inf")),
    )


def _minimal(bench: _Bench, order: Sequence[Edge], necessary: Circuit, seed: int) -> tuple[tuple[Circuit, ...], str]:
    """Minimal sufficient sets, smallest first, and how they were found."""
    if 2 ** len(order) * len(bench.tokens) <= MAX_ROWS:
        return _smallest_first(_exhaustive(bench, order)), "all subsets tried"
    down, up = _descend(bench, order), _descend(bench, order[::-1])
    if down == up == necessary:
        return (down,), "removal from the logits down, from the embeddings up and edge by edge agree"
    draw = random.Random(seed)
    orders = [draw.sample(order, len(order)) for _ in range(ORDERS)]
    orders += [[edge, *(e for e in order if e != edge)] for edge in order if edge in (down | up) - necessary]
    found = {down, up, *(_descend(bench, o) for o in orders)}
    return _smallest_first(found), f"removal in {2 + len(orders)} orders; no edge of a set can be removed alone"


def _exhaustive(bench: _Bench, order: Sequence[Edge]) -> list[Circuit]:
    """Every sufficient set without a sufficient proper subset."""
    subsets = [frozenset(edge for i, edge in enumerate(order) if number >> i & 1) for number in range(2 ** len(order))]
    sufficient = [s for s, effect in zip(subsets, bench.effects(subsets), strict=True) if effect <= TOLERANCE]
    minimal: list[Circuit] = []
    for circuit in sorted(sufficient, key=len):
        if not any(smaller < circuit for smaller in minimal):
            minimal.append(circuit)
    return minimal


def _descend(bench: _Bench, order: Sequence[Edge]) -> Circuit:
    """Remove edges in this order while the outputs stay, again and again until none can be removed."""
    kept, before = frozenset(order), None
    while kept != before:
        before = kept
        for edge in order:
            if edge in kept and bench.effect(kept - {edge}) <= TOLERANCE:
                kept = kept - {edge}
    return kept


def _smallest_first(sets: Iterable[Circuit]) -> tuple[Circuit, ...]:
    return tuple(sorted(sets, key=lambda circuit: (len(circuit), sorted(circuit))))


def _bench(compiled: Compiled, ablation: Ablation, tokens: Int[Tensor, "input pos"], seed: int) -> _Bench:
    w = compiled.weights
    clean, corrupt = tokens, tokens
    if ablation == "resample":
        first, second = partners(len(tokens), seed)
        clean, corrupt = tokens[first], tokens[second]
    logits, _ = run(w, clean)
    outputs = {u: y[0] for u, y in run(w, corrupt)[1].items()}
    if ablation == "zero":
        outputs = {u: torch.zeros_like(y) for u, y in outputs.items()}
    if ablation == "mean":
        outputs = {u: y.mean(0, keepdim=True).expand_as(y) for u, y in outputs.items()}
    return _Bench(w, clean, outputs, logits[0], compiled.read(tokens.shape[1] - 1))


def partners(n: int, seed: int, most: int = 256) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Which input is replaced by which: all ordered pairs where there are at most `most`, else each input with two others."""
    if n * (n - 1) <= most:
        first, second = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
        return first[first != second], second[first != second]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return torch.cat([order, order]), torch.cat([order.roll(1), order.roll(-1)])


def _data(ablation: Ablation, tokens: Int[Tensor, "input pos"], bench: _Bench) -> str:
    return f"{len(tokens)} inputs" + (f", {len(bench.tokens)} pairs" if ablation == "resample" else "")


def _coupling(w: Weights, edge: Edge) -> float:
    """Largest entry of the product of what the source writes and what the destination reads; the same in a rotated space."""
    return float((_writer(w, edge[0]) @ _reader(w, edge[1])).abs().max())


def _writer(w: Weights, u: str) -> Float[Tensor, "rank d_model"]:
    if u in ("embed", "pos"):
        return w.w_e if u == "embed" else w.w_pos
    if u.startswith("m"):
        return w.w_out[int(u[1:])]
    layer, head = map(int, u.split("."))
    return w.w_v[layer, head] @ w.w_o[layer, head]


def _reader(w: Weights, t: str) -> Float[Tensor, "d_model rank"]:
    if t == "logits" or t.startswith("m"):
        return w.w_u if t == "logits" else w.w_in[int(t[1:])]
    layer, head, side = t.split(".")
    return {"q": w.w_q, "k": w.w_k, "v": w.w_v}[side][int(layer), int(head)]
