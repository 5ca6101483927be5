"""By which fields runs are told apart in pictures: colour, dash, symbol, columns of panels. "auto" takes those that tell most."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from app import families, session
from app.address import choice
from app.families import Fields
from app.trainings import Training
from interp.viz import scales
from interp.viz.scales import Scale

AUTO, NOTHING = "auto", "nothing"
# More dashes cannot be told apart, and more columns are too narrow.
MOST_DASHES, MOST_COLUMNS = 4, 5
HELP = {
    "colour": "The field that gives curves and points their colour; auto: the architecture, or what differs.",
    "dash": "The field that gives curves their dash.",
    "columns": "The field each of whose values gets its own column of training curves; auto: the sites.",
}


@dataclass(frozen=True)
class By:
    """What was asked for: names of fields, "auto" or "nothing"."""

    colour: str = AUTO
    dash: str = AUTO
    columns: str = AUTO


def controls(found: Mapping[str, Training], drawn: Collection[Training]) -> By:
    """Three pickers, bound to the address. Raises InputError for a field that no training has."""
    known = sorted({name for t in found.values() for name in t.fields})
    asked = {name: choice(session.query().get(name), name, (AUTO, NOTHING, *known)) for name in HELP}
    options = dict.fromkeys(["architecture", *families.differing([t.fields for t in drawn]), *(name for name in asked.values() if name)])
    fields = [name for name in options if name not in (AUTO, NOTHING)]
    chosen = {
        name: str(place.selectbox(f"{name} by", (AUTO, NOTHING, *fields), key=name, bind="query-params", help=text))
        for place, (name, text) in zip(st.columns(3), HELP.items(), strict=True)
    }
    return By(**chosen)


def of_curves(runs: Sequence[Fields], by: By) -> tuple[str, str, str]:
    """The fields of colour, dash and columns, "" for none: sites in columns where they are few, architecture as colour, then the next."""
    rest = [name for name in families.differing(runs) if name not in (by.colour, by.dash, by.columns)]
    rest.sort(key=lambda name: (name != "architecture", name in (families.ACTIVATIONS, *families.REPEATS)))
    colour, dash, columns = by.colour, by.dash, by.columns
    if columns == AUTO:
        columns = "sites" if "sites" in rest and count(runs, "sites") <= MOST_COLUMNS and len(rest) > 1 else NOTHING
    rest = [name for name in rest if name != columns]
    if colour == AUTO:
        colour = rest.pop(0) if rest else "architecture"
    if dash == AUTO:
        dash = next((name for name in rest if count(runs, name) <= MOST_DASHES), NOTHING)
    return _field(colour), _field(dash), _field(columns)


def of_points(runs: Sequence[Fields], by: By) -> tuple[str, str]:
    """The fields of colour and symbol: the one that was asked for, else the first in which families differ, architecture before others."""
    names = [name for name in families.differing(runs) if name not in (*families.SPARSITY, *families.REPEATS, "sites")]
    first = names[0] if names else "architecture"
    colour = first if by.colour == AUTO else _field(by.colour)
    return colour, "architecture" if "architecture" in names else colour


def _field(name: str) -> str:
    return "" if name == NOTHING else name


def count(runs: Sequence[Fields], name: str) -> int:
    """How many values a field has."""
    return len({run[name] for run in runs if name in run})


def value(fields: Fields, name: str) -> str:
    """The value of a field for a scale; a dash where the run has no such field, nothing where no field was asked for."""
    return (families.shown(fields[name]) if name in fields else "–") if name else ""


def colours(drawn: Sequence[Training], name: str) -> Scale:
    """Colours of a field: shades where its values are numbers."""
    rising = all(isinstance(t.fields.get(name), (int, float)) and not isinstance(t.fields.get(name), bool) for t in drawn)
    return scales.colours(name, (value(t.fields, name) for t in drawn), session.theme(), families.KINDS, rising)


def dashes(drawn: Sequence[Training], name: str) -> Scale:
    """Dashes of a field."""
    return scales.dashes(name, (value(t.fields, name) for t in drawn), families.KINDS)


def symbols(drawn: Sequence[Training], name: str) -> Scale:
    """Symbols of a field."""
    return scales.symbols(name, (value(t.fields, name) for t in drawn), families.KINDS)
