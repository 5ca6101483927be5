"""From a RASP program to heads and neurons (Lindner et al. 2023, arXiv:2301.05062).

Every expression is one unit, or two for a selector width, and takes the first place behind its parts, where attention and MLP alternate.
At BOS no expression has a value; what constants would write there is held down or taken back.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from interp.models.compiled.rasp import (
    Aggregate,
    Expression,
    Indices,
    Linear,
    Map,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    Tokens,
    Value,
    in_order,
)
from interp.models.compiled.units import BOS, ONE, PAD, Direction, Head, Layer, Neuron, Vector
from saes.errors import InputError

# Score of a selected key; BOS has half of it, so what is not selected weighs exp(-50) = 2e-22.
COLDNESS = 100.0
# Slope of the steps of a numerical MLP; larger where values lie closer than 0.02, so that each step ends before the next value.
SLOPE = 100.0


@dataclass
class Lowered:
    """Units by place (even: attention of layer place / 2, odd: its MLP), and the directions in use."""

    program: Program
    names: dict[Expression, str] = field(default_factory=dict)
    place: dict[Expression, int] = field(default_factory=dict)
    heads: dict[int, list[Head]] = field(default_factory=dict)
    neurons: dict[int, list[Neuron]] = field(default_factory=dict)
    extra: list[Direction] = field(default_factory=list)

    def directions(self, expression: Expression) -> dict[Value, Direction]:
        """The direction of each value of a categorical expression, or the one direction of a numerical one under None."""
        name = self.names[expression]
        if expression.numerical:
            return {None: (name, None)}
        return {value: (name, value) for value in in_order(expression.values(self.program))}

    def basis(self) -> list[Direction]:
        """All directions in order."""
        used = {d for expression in self.names for d in self.directions(expression).values()}
        used |= {("indices", i) for i in range(self.program.max_len)} | {("tokens", v) for v in self.program.vocabulary}
        return sorted(used | {ONE, BOS, PAD, *self.extra}, key=lambda d: (d[0], isinstance(d[1], str), d[1] is not None, d[1] or 0))

    def layers(self) -> list[Layer]:
        n_layers = max([0, *self.heads, *self.neurons]) // 2 + 1
        return [Layer(self.heads.get(2 * i, []), self.neurons.get(2 * i + 1, [])) for i in range(n_layers)]

    def put(self, place: int, unit: Head | list[Neuron]) -> int:
        """Add a unit at the first place not before `place` that is of its kind; returns it."""
        at = place + (place % 2 if isinstance(unit, Head) else 1 - place % 2)
        if isinstance(unit, Head):
            self.heads.setdefault(at, []).append(unit)
        else:
            self.neurons.setdefault(at, []).extend(unit)
        return at


def lower(program: Program) -> Lowered:
    """Units of a program; raises InputError where an expression cannot be compiled exactly."""
    lowered = Lowered(program)
    _visit(program.output, lowered)
    return lowered


def _visit(expression: Expression, lowered: Lowered) -> None:
    if expression in lowered.place:
        return
    for part in expression.parts:
        _visit(part, lowered)
    kind = {Tokens: "tokens", Indices: "indices"}.get(type(expression))
    lowered.names[expression] = kind or f"{type(expression).__name__.lower()}{len(lowered.names)}"
    start = max([-1, *(lowered.place[part] for part in expression.parts)]) + 1
    _refuse(expression, lowered.program)
    lowered.place[expression] = -1 if kind else _UNITS[type(expression)](expression, lowered, start)


def _refuse(expression: Expression, program: Program) -> None:
    """Raises InputError for what has no exact form here."""
    what = f"program {program.name}: {type(expression).__name__}"
    selects = [expression.select] if isinstance(expression, Aggregate | SelectorWidth) else []
    categorical = [part for select in selects for part in (select.keys, select.queries)]
    categorical += list(expression.parts) if isinstance(expression, SequenceMap) else []
    if any(part.numerical for part in categorical):
        raise InputError(f"{what} needs categorical keys, queries and inputs, and was given a number; make it categorical with Map")
    if isinstance(expression, Linear) and not all(part.numerical for part in expression.parts):
        raise InputError(f"{what} needs two numerical inputs; make them numerical with Map(..., numerical=True)")
    if isinstance(expression, Aggregate) and expression.numerical and not expression.source.values(program) <= {0, 1}:
        raise InputError(f"{what} takes means of 0 and 1 only, and its source has other values; aggregate an indicator instead")
    if isinstance(expression, Aggregate) and expression.default is not None and (expression.numerical or expression is not program.output):
        raise InputError(f"{what} may have a default only as categorical output of the program; leave default=None")


def _categorical_head(select: Select, moves: dict[Direction, Vector], bos_score: float, lowered: Lowered) -> Head:
    """Selected keys score COLDNESS; BOS scores `bos_score` for every query, so a query that selects nothing falls on it."""
    keys, queries = lowered.directions(select.keys), lowered.directions(select.queries)
    form = {(q, k): COLDNESS for qv, q in queries.items() for kv, k in keys.items() if select.predicate(kv, qv)}
    # the published form lists one and BOS among the queries and BOS among keys and values
    size = max(len(queries) + 2, len(keys) + 1, len(moves) + (BOS not in moves))
    return Head({**form, (ONE, BOS): bos_score}, moves, size)


def _aggregate(expression: Aggregate, lowered: Lowered, start: int) -> int:
    source, out = lowered.directions(expression.source), lowered.directions(expression)
    moves: dict[Direction, Vector] = {source[value]: {out[value]: 1.0} for value in source}
    if expression.default is not None:
        moves[BOS] = {out[expression.default]: 1.0}
    return lowered.put(start, _categorical_head(expression.select, moves, COLDNESS / 2, lowered))


def _selector_width(expression: SelectorWidth, lowered: Lowered, start: int) -> int:
    """A head that attends to BOS as well as to what is selected reads 1 / (width + 1); an MLP turns that into the width."""
    share: Direction = (f"{lowered.names[expression]}_share", None)
    lowered.extra.append(share)
    place = lowered.put(start, _categorical_head(expression.select, {BOS: {share: 1.0}}, COLDNESS, lowered))
    out = lowered.directions(expression)
    points = [(1 / (width + 1), {out[width]: 1.0}) for width in range(lowered.program.max_len, -1, -1)]
    # at BOS the head reads a share of 1, a width of 0
    clean = Neuron({BOS: 1.0}, {share: -1.0, out[0]: -1.0})
    return lowered.put(place + 1, [*_steps(share, points), clean])


def _steps(x: Direction, points: Sequence[tuple[float, Vector]], off: Vector | None = None) -> list[Neuron]:
    """A step function of x, half way between the points: points are (x, vector) by rising x; `off` is added to what neurons read."""
    gap = min([1.0, *(b - a for (a, _), (b, _) in itertools.pairwise(points))])
    slope, off = max(SLOPE, 2.5 / gap), off or {}
    neurons = [Neuron({ONE: 1.0, **off}, points[0][1])]
    for (below, old), (above, new) in itertools.pairwise(points):
        middle = (below + above) / 2
        change = {d: new.get(d, 0.0) - old.get(d, 0.0) for d in {**old, **new}}
        neurons.append(Neuron({x: slope, ONE: 1.0 - slope * middle, **off}, change))
        neurons.append(Neuron({x: slope, ONE: -slope * middle, **off}, {d: -c for d, c in change.items()}))
    return neurons


def _map(expression: Map, lowered: Lowered, start: int) -> int:
    source, program = lowered.directions(expression.source), lowered.program
    if not expression.source.numerical:
        table = {direction: _written(expression, expression.function(value), lowered) for value, direction in source.items()}
        return lowered.put(start, _table(table))
    values = in_order(expression.source.values(program))
    points = [(float(v), _written(expression, expression.function(v), lowered)) for v in values]  # pyright: ignore[reportArgumentType]
    # a number is 0 at BOS, where nothing may be written: no sum of slope, value and constant reaches 1e6
    return lowered.put(start, _steps(source[None], points, off={BOS: -1e6}))


def _written(expression: Expression, value: Value, lowered: Lowered) -> Vector:
    directions = lowered.directions(expression)
    if value is None:
        return {}
    return {directions[None]: float(value)} if expression.numerical else {directions[value]: 1.0}


def _table(table: dict[Direction, Vector]) -> list[Neuron]:
    """A linear map through ReLU: a neuron for each direction that is written, and one for its negative part where there is one."""
    neurons = []
    for out in dict.fromkeys(d for vector in table.values() for d in vector):
        for sign in (1.0, -1.0):
            reads = {d: abs(vector[out]) for d, vector in table.items() if sign * vector.get(out, 0.0) > 0}
            neurons += [Neuron(reads, {out: sign})] if reads else []
    return neurons


def _sequence_map(expression: SequenceMap, lowered: Lowered, start: int) -> int:
    neurons = []
    for a, left in lowered.directions(expression.left).items():
        for b, right in lowered.directions(expression.right).items():
            reads = {left: 1.0, right: 1.0, ONE: -1.0} if left != right else {left: 1.0}
            neurons.append(Neuron(reads, _written(expression, expression.function(a, b), lowered)))
    return lowered.put(start, neurons)


def _linear(expression: Linear, lowered: Lowered, start: int) -> int:
    (out,) = lowered.directions(expression).values()
    pairs = ((expression.left, expression.a), (expression.right, expression.b))
    signs = [(lowered.directions(part)[None], weight, sign) for part, weight in pairs for sign in (1.0, -1.0)]
    return lowered.put(start, [Neuron({x: sign}, {out: sign * weight}) for x, weight, sign in signs])


_UNITS: dict[type, Callable[..., int]] = {
    Aggregate: _aggregate,
    SelectorWidth: _selector_width,
    Map: _map,
    SequenceMap: _sequence_map,
    Linear: _linear,
}
