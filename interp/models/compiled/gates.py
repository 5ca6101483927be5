"""Logic gates as transformers: the smallest circuits on which methods differ.

A prompt is `BOS a b =` with bits a and b; heads copy them to the last position, where the answer is read. All four inputs are the data.
In an OR by two heads that always write (`acdc_or`, Conmy et al. 2023, arXiv:2304.14997) either head is enough; a backup head acts only
when the head before it is silent, so single ablations find nothing; in `inhibition` a later head takes back what an earlier one wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from interp.models.compiled.compiler import COLDNESS
from interp.models.compiled.rasp import Value
from interp.models.compiled.units import ONE, Direction, Head, Layer, Neuron
from saes.errors import InputError

BIT: Direction = ("tokens", 1)
SUM: Direction = ("sum", None)
A: Direction = ("a", None)
B: Direction = ("b", None)
OUT: Direction = ("out", None)
CARRY: Direction = ("carry", None)
LENGTH = 3


@dataclass(frozen=True)
class Gate:
    """Layers by hand, and the truth table that they have."""

    name: str
    layers: Sequence[Layer]
    table: Callable[[int, int], Mapping[str, float]]
    """Output words that are not 0, for bits a and b."""
    outputs: tuple[tuple[str, Direction], ...] = (("out", OUT),)
    """Output words and the directions they are read from."""
    max_len: int = LENGTH
    causal: bool = True

    def inputs(self, length: int) -> list[tuple[Value, ...]]:
        """The four inputs."""
        if length != LENGTH:
            raise InputError(f"gate {self.name} takes inputs of {LENGTH} tokens (a, b, =) and was asked for {length}; ask for {LENGTH}")
        return [(a, b, "=") for a in (0, 1) for b in (0, 1)]

    def answers(self, inputs: Sequence[Value]) -> list[dict[str, float]]:
        """Nothing before the last position, there the truth table."""
        a, b, _ = inputs
        assert isinstance(a, int)
        assert isinstance(b, int)
        return [{}, {}, {word: value for word, value in self.table(a, b).items() if value}]

    def read(self, length: int) -> tuple[int, ...]:
        """The last position."""
        return (length,)


def _at(position: int) -> Direction:
    return "indices", position


def _copy(position: int, out: Direction, value: Direction = BIT, weight: float = 1.0) -> Head:
    """The last position attends to a fixed one and writes what it has of `value`."""
    return Head({(_at(LENGTH), _at(position)): COLDNESS}, {value: {out: weight}})


def _one_layer(*neurons: Neuron, value: Direction = BIT) -> list[Layer]:
    return [Layer([_copy(1, SUM, value), _copy(2, SUM, value)], neurons)]


# 1 - relu(1 - s)
_EITHER = (Neuron({ONE: 1.0}, {OUT: 1.0}), Neuron({ONE: 1.0, SUM: -1.0}, {OUT: -1.0}))
_BOTH = {SUM: 1.0, ONE: -1.0}

# The second head attends to a, unless the first has written: then to BOS, which has no bit.
_BACKUP = Head({(_at(LENGTH), _at(1)): COLDNESS, (A, _at(1)): -COLDNESS, (_at(LENGTH), _at(0)): COLDNESS / 2}, {BIT: {OUT: 1.0}})
# The last position attends to itself when b is there, else to BOS.
_INHIBITION = Head({(B, _at(LENGTH)): COLDNESS, (_at(LENGTH), _at(0)): COLDNESS / 2}, {A: {OUT: -1.0}})
_FIRST = Head({(_at(LENGTH), _at(1)): COLDNESS}, {BIT: {A: 1.0, OUT: 1.0}})

GATES: tuple[Gate, ...] = (
    Gate("and", _one_layer(Neuron(_BOTH, {OUT: 1.0})), lambda a, b: {"out": float(a and b)}),
    Gate("or", _one_layer(*_EITHER), lambda a, b: {"out": float(a or b)}),
    Gate("acdc_or", _one_layer(*_EITHER, value=ONE), lambda a, b: {"out": 1.0}),
    Gate("xor", _one_layer(Neuron({SUM: 1.0}, {OUT: 1.0}), Neuron(_BOTH, {OUT: -2.0})), lambda a, b: {"out": float(a != b)}),
    Gate(
        "half_adder",
        _one_layer(Neuron({SUM: 1.0}, {OUT: 1.0}), Neuron(_BOTH, {OUT: -2.0, CARRY: 1.0})),
        lambda a, b: {"out": float(a != b), "carry": float(a and b)},
        outputs=(("out", OUT), ("carry", CARRY)),
    ),
    Gate("backup", [Layer([_FIRST], []), Layer([_BACKUP], [])], lambda a, b: {"out": float(a)}),
    Gate("inhibition", [Layer([_FIRST, _copy(2, B)], []), Layer([_INHIBITION], [])], lambda a, b: {"out": float(a and not b)}),
)


def gate(name: str) -> Gate:
    """The gate of that name."""
    return next(g for g in GATES if g.name == name)
