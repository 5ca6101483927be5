"""Curves over the size of a circuit: how faithful it is, and what is left of the metric without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from interp.viz.charts import label, style, translucent
from interp.viz.colours import Palette
from interp.viz.html import number

# How far left of the smallest size, in decades, zero stands on a logarithmic axis.
ZERO = 0.35
# Ticks closer than this share of the axis would touch.
APART = 0.055


@dataclass(frozen=True)
class Series:
    """One line of a curve, ordered by size."""

    name: str
    n: Int[np.ndarray, " size"]
    """Nodes or edges asked for."""
    kept: Float[np.ndarray, " size"]
    """Of its edges, those on a path from an embedding to the logits."""
    faithfulness: Float[np.ndarray, " size"]
    low: Float[np.ndarray, " size"]
    high: Float[np.ndarray, " size"]
    complement: Float[np.ndarray, " size"]
    """Metric of what the circuit leaves out; not a number where it was not measured."""
    baseline: bool = False
    """Drawn at random: dotted and grey."""


@dataclass(frozen=True)
class Axis:
    """Sizes on a logarithmic axis that begins with zero."""

    first: int
    """Smallest size above 0."""
    ticks: tuple[int, ...]

    @staticmethod
    def of(series: Sequence[Series]) -> "Axis":
        sizes = sorted({int(n) for line in series for n in line.n})
        return Axis(min((n for n in sizes if n > 0), default=1), tuple(sizes))

    def place(self, n: Int[np.ndarray, " size"] | int) -> np.ndarray:
        """Where sizes stand: their logarithm, 0 a little left of the smallest."""
        sizes = np.asarray(n, float)
        return np.where(sizes > 0, np.log10(np.maximum(sizes, 1e-9)), np.log10(self.first) - ZERO)

    def layout(self, title: str) -> dict[str, Any]:
        """For plotly: ticks that do not touch, the largest always among them."""
        places = self.place(np.array(self.ticks, int))
        gap, shown = APART * max(float(np.ptp(places)), 1e-9), [len(places) - 1]
        for i in range(len(places) - 2, -1, -1):
            if places[shown[-1]] - places[i] >= gap:
                shown.append(i)
        margin = 0.03 * max(float(np.ptp(places)), 0.5)
        return {
            "title": title, "tickvals": places[shown].tolist(), "ticktext": [number(self.ticks[i]) for i in shown],
            "range": [float(places.min()) - margin, float(places.max()) + margin], "zeroline": False,
        }  # fmt: skip


def faithfulness_curve(series: Sequence[Series], theme: Palette, unit: str, size: int | None = None) -> go.Figure:
    """Faithfulness against circuit size with 95 % bands; 1 is the whole model, 0 everything ablated; the chosen size marked."""
    figure, axis = go.Figure(), Axis.of(series)
    for line, colour in zip(series, _colours(series, theme), strict=True):
        x = axis.place(line.n)
        around = np.concatenate([x, x[::-1]]), np.concatenate([line.high, line.low[::-1]])
        figure.add_scatter(
            x=around[0], y=around[1], fill="toself", mode="lines", fillcolor=translucent(colour, 0.13), line={"width": 0}, hoverinfo="skip",
            showlegend=False,
        )  # fmt: skip
    _lines(figure, series, [line.faithfulness for line in series], axis, theme, unit)
    _level(figure, 0.0, f"all {unit} ablated", theme, "top")
    _level(figure, 1.0, "whole model", theme, "bottom")
    values = [np.concatenate([line.low, line.high, line.faithfulness]) for line in series]
    return _finished(figure, axis, theme, (f"{unit} kept, all others ablated", "faithfulness"), (unit, size), values)


def completeness_curve(series: Sequence[Series], theme: Palette, unit: str, metric: str, size: int | None = None) -> go.Figure:
    """The metric of what the circuit leaves out, against circuit size, between that of the whole model and that of nothing."""
    known = [line for line in series if not line.baseline and not np.isnan(line.complement).all()]
    figure, axis = go.Figure(), Axis.of(series)
    _lines(figure, known, [line.complement for line in known], axis, theme, unit)
    if known:
        ends = known[0].complement[~np.isnan(known[0].complement)]
        whole, none = float(ends[0]), float(ends[-1])
        _level(figure, none, f"all {unit} ablated", theme, "top" if none < whole else "bottom")
        _level(figure, whole, "whole model", theme, "bottom" if none < whole else "top", right=True)
    values = [line.complement for line in known]
    return _finished(figure, axis, theme, (f"{unit} taken away, all others kept", metric), (unit, size), values)


def _colours(series: Sequence[Series], theme: Palette) -> list[str]:
    return [theme.muted if line.baseline else theme.series[i % len(theme.series)] for i, line in enumerate(series)]


def _lines(figure: go.Figure, series: Sequence[Series], values: Sequence[np.ndarray], axis: Axis, theme: Palette, unit: str) -> None:
    for line, y, colour in zip(series, values, _colours(series, theme), strict=True):
        figure.add_scatter(
            x=axis.place(line.n),
            y=y,
            mode="lines+markers",
            name=label(line.name),
            line={"color": colour, "dash": "dot" if line.baseline else "solid"},
            marker={"size": 6, "symbol": "circle-open" if line.baseline else "circle"},
            customdata=np.stack([line.n, line.kept], 1),
            hovertemplate=f"%{{y:.3f}} with %{{customdata[0]:,.0f}} {label(unit)}, %{{customdata[1]:,.0f}} edges on a path",
        )


def _level(figure: go.Figure, level: float, text: str, theme: Palette, side: str, right: bool = False) -> None:
    """A dashed line with its name outside of what it bounds, at the end from which the curves are far."""
    figure.add_hline(level, line={"color": theme.muted, "width": 1, "dash": "dash"})
    figure.add_annotation(
        x=0.99 if right else 0.01, xref="paper", xanchor="right" if right else "left", y=level, yanchor=side, text=label(text),
        showarrow=False, font={"size": 10, "color": theme.muted},
    )  # fmt: skip


def _finished(
    figure: go.Figure, axis: Axis, theme: Palette, titles: tuple[str, str], view: tuple[str, int | None], values: Sequence[np.ndarray]
) -> go.Figure:
    """Axes, room for the names of the levels, and the size in view."""
    unit, size = view
    if size is not None:
        at = float(axis.place(size))
        figure.add_vline(at, line={"color": theme.positive, "width": 2})
        # Above the panel, so that it lies on no line.
        figure.add_annotation(
            x=at, y=1, yref="paper", yanchor="bottom", text=label(f"{size:,} {unit} in view"), showarrow=False,
            font={"size": 11, "color": theme.positive},
        )  # fmt: skip
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "title": None}
    every = np.concatenate([*values, [0.0]])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    room = 0.11 * max(high - low, 1e-6)
    figure = style(figure, theme, 370, hovermode="closest", legend=legend, showlegend=True, margin={"l": 56, "r": 16, "t": 26, "b": 80})
    figure.update_yaxes(title=label(titles[1]), range=[low - room, high + room], zeroline=False)
    return figure.update_xaxes(**axis.layout(label(titles[0])))
