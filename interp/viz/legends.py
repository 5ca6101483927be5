"""Legends with an entry for each value of a field and not for each run, above the panels, one below the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from interp.viz.charts import label
from interp.viz.colours import Palette

# Pixels: above the first, a line, the sign of an entry, a letter, and a line of a page of ordinary width.
ABOVE, LINE, SIGN, LETTER, WIDTH = 4, 22, 48, 7, 1200


@dataclass(frozen=True)
class Legend:
    """The field, and the sign of each of its values."""

    title: str
    signs: Mapping[str, Mapping[str, Any]]
    """Value to the properties of a plotly trace without points."""
    hides: bool
    """Whether a click on an entry hides what was drawn with its value as `legendgroup`."""

    @staticmethod
    def lines(title: str, looks: Mapping[str, Mapping[str, Any]], hides: bool) -> "Legend":
        """Signs that are short lines."""
        return Legend(title, {value: {"mode": "lines", "line": {"width": 2.5, **look}} for value, look in looks.items()}, hides)

    @staticmethod
    def markers(title: str, looks: Mapping[str, Mapping[str, Any]], hides: bool) -> "Legend":
        """Signs that are symbols."""
        return Legend(title, {value: {"mode": "markers", "marker": {"size": 10, **look}} for value, look in looks.items()}, hides)

    @property
    def rows(self) -> int:
        """Lines that it takes."""
        return 1 + sum(SIGN + LETTER * len(value) for value in self.signs) // WIDTH


def telling(legends: Sequence[Legend]) -> list[Legend]:
    """Those that tell anything apart."""
    return [legend for legend in legends if len(legend.signs) > 1]


def height(legends: Sequence[Legend]) -> int:
    """Pixels above the panels."""
    return ABOVE + LINE * sum(legend.rows for legend in legends)


def draw(figure: go.Figure, legends: Sequence[Legend], figure_height: int, theme: Palette) -> None:
    """Add them to a figure of subplots."""
    for i, legend in enumerate(legends):
        name = f"legend{i + 1}" if i else "legend"
        for value, sign in legend.signs.items():
            group = value if legend.hides else f"{legend.title} {value}"
            figure.add_scatter(x=[None], y=[None], name=label(value), legend=name, legendgroup=group, row=1, col=1, **sign)
        figure.update_layout({name: _place(legend, 1 - height(legends[:i]) / figure_height, theme)})


def _place(legend: Legend, top: float, theme: Palette) -> dict[str, Any]:
    click = {} if legend.hides else {"itemclick": False, "itemdoubleclick": False}
    title = {"text": f"{label(legend.title)}  ", "side": "left", "font": {"size": 12, "color": theme.muted}}
    return {
        "orientation": "h",
        "title": title,
        "font": {"size": 12, "color": theme.text},
        "x": 0,
        "yref": "container",
        "y": top,
        "yanchor": "top",
        **click,
    }
