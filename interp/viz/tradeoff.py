"""Sparsity against fidelity of many dictionaries: a point for each, a line for each family, a panel for each thing that is predicted.

Errors at different sites have different denominators, and a transcoder predicts another vector than it reads: only what has the same site
on both sides is drawn in one panel, and only there is anything said to be better.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.viz import legends
from interp.viz.charts import label, log_axis, style
from interp.viz.colours import Palette
from interp.viz.curves import frontier, knee
from interp.viz.legends import Legend
from interp.viz.scales import Scale


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; without one, both ends are the figure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One dictionary."""

    run: str
    title: str
    """What sets it apart, for its tooltip."""
    x: Interval
    y: Interval
    level: str
    """Its place in the family, `k=16`; repeats with other seeds share it."""
    colour: str
    symbol: str
    held_out: bool = True
    """Whether it was evaluated; otherwise the figures are from the end of its training, and the symbol is hollow."""


@dataclass(frozen=True)
class Family:
    """Dictionaries that differ in nothing but how sparse they are, and in seeds."""

    title: str
    panel: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Course:
    """The line of a family, by growing x: repeats averaged, the knee marked where there is one."""

    levels: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    knee: int | None

    @staticmethod
    def of(family: Family, better: str) -> "Course":
        at: dict[Hashable, list[Point]] = {}
        for point in family.points:
            at.setdefault(point.level, []).append(point)
        means = sorted(
            (float(np.mean([p.x.value for p in ps])), float(np.mean([p.y.value for p in ps])), str(name)) for name, ps in at.items()
        )
        x, y = np.array([m[0] for m in means]), np.array([m[1] for m in means])
        return Course(tuple(m[2] for m in means), x, y, knee(x, y, better))


@dataclass(frozen=True)
class Place:
    """Row and column of a panel, from 1."""

    row: int
    col: int


@dataclass(frozen=True)
class Axes:
    """Titles of the axes, which end of y is better (`low` or `high`), and whether y is logarithmic; x always is."""

    x: str
    y: str
    better: str
    log_y: bool


def tradeoff(families: Sequence[Family], axes: Axes, theme: Palette, colours: Scale, symbols: Scale) -> go.Figure:
    """Lines, knees, points with intervals, and dotted what is not dominated, in a panel for each value of `Family.panel`."""
    panels = list(dict.fromkeys(family.panel for family in families))
    columns = 1 if len(panels) == 1 else 2 if len(panels) in (2, 4) else 3
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[label(p) for p in panels] if len(panels) > 1 else None,
        horizontal_spacing=0.06, vertical_spacing=0.2 / rows if rows > 1 else 0,
    )  # fmt: skip
    for i, panel in enumerate(panels):
        mine, place = [f for f in families if f.panel == panel], Place(i // columns + 1, i % columns + 1)
        _frontier(figure, mine, axes, theme, place)
        for family in mine:
            _family(figure, family, axes, theme, colours, place)
        _points(figure, [p for family in mine for p in family.points], axes, theme, (colours, symbols), place)
        _ticks(figure, mine, axes, place)
    shown = _legends(theme, colours, symbols)
    top = legends.height(shown) + (20 if len(panels) > 1 else 0)
    height = 70 + top + (360 if rows == 1 else 300 * rows)
    legends.draw(figure, shown, height, theme)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text=axes.x, row=rows)
    figure.update_yaxes(title_text=axes.y, col=1)
    return style(figure, theme, height, margin={"l": 56, "r": 12, "t": 14 + top, "b": 44}, legend={}, hovermode="closest")


def _frontier(figure: go.Figure, families: Sequence[Family], axes: Axes, theme: Palette, place: Place) -> None:
    """A dotted line through what no other point of the panel beats; one family is its own."""
    points = [p for family in families for p in family.points]
    if len(families) < 2:
        return
    front = [points[i] for i in frontier(np.array([p.x.value for p in points]), np.array([p.y.value for p in points]), axes.better)]
    figure.add_scatter(
        x=[p.x.value for p in front], y=[p.y.value for p in front], mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": theme.muted, "dash": "dot", "width": 5}, opacity=0.35, row=place.row, col=place.col,
    )  # fmt: skip


def _family(figure: go.Figure, family: Family, axes: Axes, theme: Palette, colours: Scale, place: Place) -> None:
    """The line of a family, and a ring round its knee."""
    course, shades = Course.of(family, axes.better), {p.colour for p in family.points}
    one = next(iter(shades)) if len(shades) == 1 else None
    common = {"hoverinfo": "skip", "showlegend": False, "legendgroup": one, "row": place.row, "col": place.col}
    colour = theme.muted if one is None else colours[one]
    figure.add_scatter(x=course.x, y=course.y, mode="lines", line={"color": colour, "width": 1.4}, **common)
    if course.knee is not None:
        at = {"x": [course.x[course.knee]], "y": [course.y[course.knee]]}
        ring = {"symbol": "circle-open", "size": 20, "color": theme.text, "line": {"width": 1.6}}
        figure.add_scatter(**at, mode="markers", marker=ring, **common)


def _points(figure: go.Figure, points: Sequence[Point], axes: Axes, theme: Palette, looks: tuple[Scale, Scale], place: Place) -> None:
    """All points of a panel, a trace for each colour, so that its legend entry hides them."""
    colours, symbols = looks
    lines = ("%{customdata[1]}", f"{axes.x} %{{x:.4g}}", f"{axes.y} %{{y:.4g}}", "%{customdata[0]}%{customdata[2]}")
    hover = "<br>".join(lines) + "<extra></extra>"
    for colour in dict.fromkeys(p.colour for p in points):
        mine = [p for p in points if p.colour == colour]
        figure.add_scatter(
            x=[p.x.value for p in mine], y=[p.y.value for p in mine], mode="markers", cliponaxis=False,
            customdata=[[p.run, label(p.title), "" if p.held_out else "<br>at the end of its training, not evaluated"] for p in mine],
            marker={"size": 9, "color": colours[colour], "symbol": [symbols[p.symbol] + ("" if p.held_out else "-open") for p in mine]},
            error_x=_bars([p.x for p in mine], theme), error_y=_bars([p.y for p in mine], theme), showlegend=False, legendgroup=colour,
            hovertemplate=hover,
            row=place.row, col=place.col,
        )  # fmt: skip


def _bars(intervals: Sequence[Interval], theme: Palette) -> dict[str, object]:
    """Error bars; none where nothing was measured, which would be drawn as a cross."""
    up, down = ([end or None for end in ends] for ends in zip(*((i.high - i.value, i.value - i.low) for i in intervals), strict=True))
    return {"type": "data", "array": up, "arrayminus": down, "color": theme.muted, "thickness": 1, "width": 3}


def _ticks(figure: go.Figure, families: Sequence[Family], axes: Axes, place: Place) -> None:
    """The scales of a panel."""
    points = [p for family in families for p in family.points]
    figure.update_xaxes(**_logarithmic([p.x for p in points]), row=place.row, col=place.col)
    if axes.log_y:
        figure.update_yaxes(**_logarithmic([p.y for p in points]), row=place.row, col=place.col)


def _logarithmic(intervals: Sequence[Interval]) -> dict[str, Any]:
    return log_axis(min(i.low if i.low > 0 else i.value for i in intervals), max(i.high for i in intervals))


def _legends(theme: Palette, colours: Scale, symbols: Scale) -> list[Legend]:
    """One for each scale; a single one where both show the same field."""
    same = colours.title == symbols.title
    filled = {value: {"color": colour, "symbol": symbols[value] if same else "circle"} for value, colour in colours.looks.items()}
    shapes = {value: {"color": theme.muted, "symbol": symbol} for value, symbol in symbols.looks.items()}
    both = [Legend.markers(colours.title, filled, hides=True), Legend.markers(symbols.title, shapes, hides=False)]
    return legends.telling(both[:1] if same else both)
