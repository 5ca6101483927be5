"""RASP: programs on sequences that a transformer can run (Weiss et al. 2021, arXiv:2106.06981), and what they compute.

An expression has one value per position. `Map`, `SequenceMap` and `Linear` act position by position (an MLP), `Aggregate` and
`SelectorWidth` across positions (a head). A value is encoded categorically (one direction per value) or numerically (one direction).
None means no value: no direction is written. `evaluate` is the definition that compiled weights are held against.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from saes.errors import InputError

Value = int | float | str | None


class Undefined(Exception):
    """The program has no value on this input: a categorical aggregate would mix different values."""


class Expression(ABC):
    """One value per position, computed from the expressions in `parts`."""

    numerical: bool = False

    @property
    def parts(self) -> "tuple[Expression, ...]":
        return ()

    @abstractmethod
    def values(self, program: "Program") -> set[Value]:
        """All values it may have, without None."""

    @abstractmethod
    def run(self, inputs: Sequence[Value], of: "Callable[[Expression], list[Value]]", causal: bool) -> list[Value]:
        """Its values on an input, given those of its parts."""


@dataclass(frozen=True, eq=False)
class Tokens(Expression):
    """The input."""

    def values(self, program: "Program") -> set[Value]:
        return set(program.vocabulary)

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        return list(inputs)


@dataclass(frozen=True, eq=False)
class Indices(Expression):
    """0, 1, 2, ...; BOS is not counted."""

    def values(self, program: "Program") -> set[Value]:
        return set(range(program.max_len))

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        return list(range(len(inputs)))


@dataclass(frozen=True, eq=False)
class Map(Expression):
    """A function of one expression."""

    function: Callable[..., Value]
    source: Expression
    numerical: bool = False  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def parts(self) -> tuple[Expression, ...]:
        return (self.source,)

    def values(self, program: "Program") -> set[Value]:
        return {self.function(v) for v in self.source.values(program)} - {None}

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        return [None if v is None else self.function(v) for v in of(self.source)]


@dataclass(frozen=True, eq=False)
class SequenceMap(Expression):
    """A function of two categorical expressions, categorical itself."""

    function: Callable[..., Value]
    left: Expression
    right: Expression

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.left, self.right

    def values(self, program: "Program") -> set[Value]:
        return {self.function(a, b) for a, b in itertools.product(self.left.values(program), self.right.values(program))} - {None}

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        return [None if None in (a, b) else self.function(a, b) for a, b in zip(of(self.left), of(self.right), strict=True)]


@dataclass(frozen=True, eq=False)
class Linear(Expression):
    """a * left + b * right of two numerical expressions."""

    left: Expression
    right: Expression
    a: float
    b: float
    numerical: bool = True  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.left, self.right

    def values(self, program: "Program") -> set[Value]:
        pairs = itertools.product(self.left.values(program), self.right.values(program))
        return {self.a * _number(x) + self.b * _number(y) for x, y in pairs}

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        return [self.a * _number(x) + self.b * _number(y) for x, y in zip(of(self.left), of(self.right), strict=True)]


@dataclass(frozen=True, eq=False)
class Select:
    """Which keys each query attends to: those where the predicate of (key, query) holds; both categorical."""

    keys: Expression
    queries: Expression
    predicate: Callable[..., bool]

    def rows(self, of: Callable[[Expression], list[Value]], causal: bool) -> list[list[int]]:
        """Selected positions of each query, up to the query itself when causal."""
        keys, queries = of(self.keys), of(self.queries)
        return [[k for k in range(q + 1 if causal else len(keys)) if self._selects(keys[k], queries[q])] for q in range(len(queries))]

    def _selects(self, key: Value, query: Value) -> bool:
        return key is not None and query is not None and bool(self.predicate(key, query))


@dataclass(frozen=True, eq=False)
class Aggregate(Expression):
    """Mean of a numerical source, or the one value of a categorical source, over the selected positions; else the default."""

    select: Select
    source: Expression
    default: Value = None
    """What a categorical aggregate is where nothing is selected; a numerical one is 0 there."""

    @property
    def numerical(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.numerical

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.select.keys, self.select.queries, self.source

    def values(self, program: "Program") -> set[Value]:
        if self.numerical:
            return {k / n for n in range(1, program.max_len + 1) for k in range(n + 1)}
        return (self.source.values(program) | {self.default}) - {None}

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        source = of(self.source)
        return [self._reduce([source[k] for k in row]) for row in self.select.rows(of, causal)]

    def _reduce(self, selected: list[Value]) -> Value:
        if self.numerical:
            return sum(map(_number, selected)) / len(selected) if selected else 0.0
        if len(set(selected)) > 1:
            raise Undefined
        return selected[0] if selected else self.default


@dataclass(frozen=True, eq=False)
class SelectorWidth(Expression):
    """How many positions are selected."""

    select: Select

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.select.keys, self.select.queries

    def values(self, program: "Program") -> set[Value]:
        return set(range(program.max_len + 1))

    def run(self, inputs: Sequence[Value], of: Callable[[Expression], list[Value]], causal: bool) -> list[Value]:
        return [len(row) for row in self.select.rows(of, causal)]


@dataclass(frozen=True)
class Program:
    """An expression with the inputs it is for."""

    name: str
    output: Expression
    vocabulary: tuple[Value, ...]
    max_len: int = 5
    causal: bool = False

    def __post_init__(self) -> None:
        if {"BOS", "pad"} & {str(v) for v in self.vocabulary}:
            raise InputError(f"program {self.name} has a token called BOS or pad, which every vocabulary has already; give it another name")

    def evaluate(self, inputs: Sequence[Value]) -> list[Value]:
        """The value at each position; raises Undefined where there is none."""
        known: dict[Expression, list[Value]] = {}

        def of(expression: Expression) -> list[Value]:
            if expression not in known:
                known[expression] = expression.run(inputs, of, self.causal)
            return known[expression]

        return of(self.output)

    def inputs(self, length: int) -> list[tuple[Value, ...]]:
        """All inputs of that length on which the program is defined."""
        if not 1 <= length <= self.max_len:
            raise InputError(f"program {self.name} takes 1 to {self.max_len} tokens and was asked for {length}; choose a length in between")
        return [inputs for inputs in itertools.product(self.vocabulary, repeat=length) if self._defined(inputs)]

    def answers(self, inputs: Sequence[Value]) -> list[dict[str, float]]:
        """Position by position, the output words that are not 0: the value itself, or `number` for a numerical output."""
        return [{} if v is None else {"number": _number(v)} if self.output.numerical else {str(v): 1.0} for v in self.evaluate(inputs)]

    def read(self, length: int) -> tuple[int, ...]:
        """Positions whose output counts: all but BOS."""
        return tuple(range(1, length + 1))

    def _defined(self, inputs: Sequence[Value]) -> bool:
        try:
            self.evaluate(inputs)
        except Undefined:
            return False
        return True


def in_order(values: set[Value]) -> list[Value]:
    """Numbers by size, then words."""
    return sorted(values, key=lambda v: (isinstance(v, str), v))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _number(value: Value) -> float:
    assert isinstance(value, int | float), f"{value!r} is not a number"
    return float(value)
