"""How the values of a field look: a colour, a dash or a symbol for each, so that many runs need few entries in a legend."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from interp.viz.colours import Palette, between

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down", "pentagon", "x")


@dataclass(frozen=True)
class Scale:
    """Value to look, in the order of the legend."""

    title: str
    """The field."""
    looks: Mapping[str, str]

    def __getitem__(self, value: str) -> str:
        return self.looks[value]

    @property
    def tells(self) -> bool:
        """Whether there is anything to tell apart."""
        return len(self.looks) > 1


def ordered(values: Iterable[str], first: Sequence[str] = ()) -> list[str]:
    """Distinct values, those of `first` in that order, then the others, numbers inside them by size: k=8 before k=16, layer 9 before 10."""
    return sorted(set(values), key=lambda text: (first.index(text) if text in first else len(first), _natural(text)))


def _natural(text: str) -> list[tuple[int, float, str]]:
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(_split(text))]


def _split(text: str) -> list[str]:
    """Text, number, text, number, ...: numbers stand at odd places."""
    return re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text.replace(",", ""))


def colours(title: str, values: Iterable[str], theme: Palette, first: Sequence[str] = (), rising: bool = False) -> Scale:
    """A colour of its own for each value; shades of a course where the values rise, or are more than there are colours.

    The values `first` keep their colours, whether they are all there or not.
    """
    known = ordered(values, first)
    if rising or len(known) > len(theme.series):
        return Scale(title, {value: between(theme.ramp, i / max(1, len(known) - 1)) for i, value in enumerate(known)})
    return _cycled(title, known, theme.series, first)


def dashes(title: str, values: Iterable[str], first: Sequence[str] = ()) -> Scale:
    """A dash for each value, in the order of the legend; they begin anew where there are more."""
    return _cycled(title, ordered(values, first), DASHES, ())


def symbols(title: str, values: Iterable[str], first: Sequence[str] = ()) -> Scale:
    """A symbol for each value, as in `colours`; they begin anew where there are more."""
    return _cycled(title, ordered(values, first), SYMBOLS, first)


def _cycled(title: str, values: Sequence[str], looks: Sequence[str], first: Sequence[str]) -> Scale:
    """The looks in turn; values that are not among the first take what those leave free."""
    fixed = {value: first.index(value) % len(looks) for value in values if value in first}
    free = [i for i in range(len(looks)) if i not in fixed.values()] or list(range(len(looks)))
    others = {value: free[i % len(free)] for i, value in enumerate(v for v in values if v not in fixed)}
    return Scale(title, {value: looks[(fixed | others)[value]] for value in values})
