"""Curves of training, many at once, and what is said about a curve: smoothed, thinned out, its knee, its frontier."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from interp.viz import legends
from interp.viz.charts import label, style
from interp.viz.colours import Palette
from interp.viz.legends import Legend
from interp.viz.scales import Scale

# Up to so many lines are drawn thick, and told apart by one box for all of them under the pointer.
FEW = 8
# Points of all lines of a figure together.
MOST_POINTS = 60_000
# A curve that stays this near its chord is straight: where it bends most is then an accident.
STRAIGHT = 0.02


def decimate(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], limit: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points, keeping the lowest and the highest of each bucket, so that no spike is lost."""
    if len(x) <= limit:
        return x, y
    size = -(-len(x) // max(1, limit // 2))
    padded = np.concatenate([y, np.full(-len(y) % size, np.nan)]).reshape(-1, size)
    known = ~np.isnan(padded).all(1)
    starts = np.flatnonzero(known) * size
    lowest, highest = np.nanargmin(padded[known], 1), np.nanargmax(padded[known], 1)
    keep = np.unique(np.concatenate([starts + lowest, starts + highest]))
    return x[keep], y[keep]


def smooth(y: Float[np.ndarray, " n"], weight: float) -> Float[np.ndarray, " n"]:
    """Exponential moving average with bias correction: m_t = w m_(t-1) + (1 - w) y_t, shown as m_t / (1 - w^t)."""
    mean, total, out = 0.0, 0.0, []
    for value in y.tolist():
        if not math.isnan(value):
            mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        out.append(mean / total if total else math.nan)
    return np.array(out)


def frontier(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], better: str) -> Int[np.ndarray, " m"]:
    """Indices of the points that no other point beats in both directions, by growing x."""
    cost = y if better == "low" else -y
    order = np.lexsort((cost, x))
    best = np.concatenate([[np.inf], np.minimum.accumulate(cost[order])[:-1]])
    return order[cost[order] < best]


def knee(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], better: str) -> int | None:
    """Index of the point farthest from the chord between the outermost two, on its better side, in log-log coordinates.

    Before it more x buys much y, after it little. None for fewer than three values of x, for values that have no logarithm, for a curve
    that is straight, and for one that more x makes worse. Distances are measured along y: at right angles to the chord the same point is
    farthest, however the axes are scaled.
    """
    if min(x.min(), y.min()) <= 0:
        return None
    u, v = np.log(x), np.log(y)
    if len(np.unique(u)) < 3:
        return None
    first, last = int(u.argmin()), int(u.argmax())
    if (v[last] >= v[first]) == (better == "low"):
        return None
    chord = v[first] + (u - u[first]) * (v[last] - v[first]) / (u[last] - u[first])
    gain = chord - v if better == "low" else v - chord
    return int(gain.argmax()) if gain.max() > math.log1p(STRAIGHT) else None


@dataclass(frozen=True)
class Curve:
    """One metric of one run, and what it is drawn by."""

    run: str
    title: str
    """What sets the run apart, for its tooltip."""
    metric: str
    x: np.ndarray
    y: np.ndarray
    colour: str = ""
    """A value of the colour scale; so are `dash` and `column` of theirs."""
    dash: str = ""
    column: str = ""


@dataclass(frozen=True)
class Look:
    """The scales of the training curves, and how the curves are drawn."""

    colours: Scale
    dashes: Scale
    columns: Sequence[str] = ("",)
    """Values that get a column of panels each; a single one for none."""
    smoothing: float = 0.0
    log_x: bool = False
    log_y: bool = False
    x_title: str = "tokens"


def training_curves(curves: Sequence[Curve], panels: Mapping[str, str], theme: Palette, look: Look) -> go.Figure:
    """A small panel for each metric of `panels` (name to title), in columns where there are several. A value has one look in all."""
    grid = _Grid.of(panels, look)
    few = len({c.run for c in curves}) <= FEW
    limit = max(100, min(2000, MOST_POINTS // max(1, len(curves))))
    figure = make_subplots(
        grid.rows,
        grid.columns,
        subplot_titles=[label(title).replace(" → ", " →<br>") if len(title) > 28 else label(title) for title in grid.titles],
        shared_yaxes=len(look.columns) > 1,
        horizontal_spacing=0.02 if len(look.columns) > 1 else 0.07,
        vertical_spacing=0.16 / max(1, grid.rows - 1) if grid.rows < 3 else 0.22 / grid.rows,
    )
    for curve in curves:
        _draw(figure, curve, look, theme, few, limit, grid.place(curve))
    shown = _legends(look, theme)
    top = legends.height(shown)
    legends.draw(figure, shown, 90 + top + 200 * grid.rows, theme)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(type="log" if look.log_x else "linear", tickformat="~s", matches="x")
    figure.update_yaxes(type="log" if look.log_y else "linear")
    figure.update_xaxes(title_text=look.x_title, row=grid.rows)
    for row, title in enumerate(panels.values() if len(look.columns) > 1 else (), 1):
        figure.update_yaxes(title_text=label(title), row=row, col=1)
    margin = {"l": 48, "r": 12, "t": 28 + top, "b": 44}
    return style(figure, theme, 90 + top + 200 * grid.rows, margin=margin, hovermode="x unified" if few else "closest", legend={})


@dataclass(frozen=True)
class _Grid:
    """Where the panel of a metric and a column value stands, and what is written above the panels."""

    metrics: Sequence[str]
    values: Sequence[str]
    rows: int
    columns: int
    titles: Sequence[str]

    @staticmethod
    def of(panels: Mapping[str, str], look: Look) -> "_Grid":
        metrics, values = list(panels), list(look.columns)
        if len(values) > 1:
            return _Grid(metrics, values, len(metrics), len(values), values)
        columns = min(2, len(metrics))
        return _Grid(metrics, values, -(-len(metrics) // columns), columns, list(panels.values()))

    def place(self, curve: Curve) -> dict[str, int]:
        """Row and column, from 1."""
        if len(self.values) > 1:
            return {"row": self.metrics.index(curve.metric) + 1, "col": self.values.index(curve.column) + 1}
        at = self.metrics.index(curve.metric)
        return {"row": at // self.columns + 1, "col": at % self.columns + 1}


def _draw(figure: go.Figure, curve: Curve, look: Look, theme: Palette, few: bool, limit: int, place: dict[str, int]) -> None:
    """One curve; behind a smoothed one, the raw one where there are few."""
    colour = look.colours[curve.colour]
    x, y = decimate(curve.x.astype(float), curve.y.astype(float), limit)
    marked = {"mode": "lines+markers", "marker": {"size": 5}} if len(x) < 3 else {"mode": "lines"}
    common = {"legendgroup": curve.colour, "showlegend": False, **place}
    if look.smoothing and few:
        figure.add_scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 1}, opacity=0.25, hoverinfo="skip", **common)
    if look.smoothing:
        x, y = decimate(curve.x.astype(float), smooth(curve.y.astype(float), look.smoothing), limit)
    text = label(f"{curve.title} · {curve.run}" if curve.title else curve.run)
    figure.add_scatter(
        x=x,
        y=y,
        name=text,
        line={"color": colour, "width": 1.8 if few else 1.1, "dash": look.dashes[curve.dash]},
        opacity=1 if few else 0.8,
        hovertemplate="%{y:.4g}" if few else f"{text}<br>%{{x:.4s}} {look.x_title}: %{{y:.4g}}<extra></extra>",
        **marked,
        **common,
    )


def _legends(look: Look, theme: Palette) -> list[Legend]:
    """One for each scale; a single one where both show the same field."""
    same = look.colours.title == look.dashes.title
    colours = {value: {"color": colour, "dash": look.dashes[value] if same else "solid"} for value, colour in look.colours.looks.items()}
    dashes = {value: {"color": theme.muted, "dash": dash} for value, dash in look.dashes.looks.items()}
    both = [Legend.lines(look.colours.title, colours, hides=True), Legend.lines(look.dashes.title, dashes, hides=False)]
    return legends.telling(both[:1] if same else both)
