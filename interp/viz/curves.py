"""Curves of training, and the trade-off between sparsity and fidelity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from interp.viz.charts import label, style
from interp.viz.colours import Palette


@dataclass(frozen=True)
class Curve:
    """One metric of one run."""

    run: str
    title: str
    metric: str
    x: np.ndarray
    y: np.ndarray


def decimate(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], limit: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points, keeping the lowest and the highest of each bucket, so that no spike is lost."""
    if len(x) <= limit:
        return x, y
    buckets = np.array_split(np.arange(len(x)), limit // 2)
    keep = sorted({int(b[0] + arg(y[b])) for b in buckets for arg in (np.nanargmin, np.nanargmax) if not np.isnan(y[b]).all()})
    return x[keep], y[keep]


def smooth(y: Float[np.ndarray, " n"], weight: float) -> Float[np.ndarray, " n"]:
    """Exponential moving average with bias correction: m_t = w m_(t-1) + (1 - w) y_t, shown as m_t / (1 - w^t)."""
    mean, total, out = 0.0, 0.0, np.empty(len(y))
    for i, value in enumerate(y):
        if not np.isnan(value):
            mean, total = weight * mean + (1 - weight) * float(value), weight * total + (1 - weight)
        out[i] = mean / total if total else np.nan
    return out


def training_curves(
    curves: Sequence[Curve], panels: Mapping[str, str], theme: Palette, weight: float = 0.0, log_x: bool = False, x_title: str = "tokens"
) -> go.Figure:
    """A small panel for each metric of `panels` (name to title); a run has one colour in all. The raw curve stays behind the smoothed."""
    metrics = list(panels)
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[label(title) for title in panels.values()],
        horizontal_spacing=0.07,
        vertical_spacing=0.14 / max(1, rows - 1),
    )
    runs = list(dict.fromkeys(c.run for c in curves))
    for curve in curves:
        place = metrics.index(curve.metric)
        at = {"row": place // columns + 1, "col": place % columns + 1}
        colour = theme.series[runs.index(curve.run) % len(theme.series)]
        x, y = decimate(curve.x.astype(float), curve.y.astype(float))
        if weight:
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": colour, "width": 1}, opacity=0.25, hoverinfo="skip", showlegend=False, **at
            )
            x, y = decimate(curve.x.astype(float), smooth(curve.y.astype(float), weight))
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=label(curve.title),
            legendgroup=curve.run,
            showlegend=place == 0,
            line={"color": colour, "width": 1.8},
            hovertemplate="%{x:.4s} · %{y:.4g}",
            **at,
        )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(type="log" if log_x else "linear", tickformat="~s")
    figure.update_xaxes(title_text=x_title, row=rows)
    return style(
        figure,
        theme,
        90 + 200 * rows,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        margin={"l": 48, "r": 12, "t": 28, "b": 74},
        hovermode="x unified",
    )


@dataclass(frozen=True)
class Point:
    """One dictionary on the trade-off; the interval of y where it is known."""

    run: str
    title: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def pareto(points: Sequence[Point], x_title: str, y_title: str, theme: Palette, better: str) -> go.Figure:
    """Each dictionary as a point, the non-dominated ones joined. `better` is `low` or `high`, for y; x is better low."""
    figure = go.Figure()
    front = frontier(np.array([p.x for p in points]), np.array([p.y for p in points]), better)
    figure.add_scatter(
        x=[points[i].x for i in front],
        y=[points[i].y for i in front],
        mode="lines",
        line={"color": theme.muted, "dash": "dot"},
        name="not dominated",
        hoverinfo="skip",
    )
    up = [(p.high or p.y) - p.y for p in points]
    down = [p.y - (p.low or p.y) for p in points]
    figure.add_scatter(
        x=[p.x for p in points],
        y=[p.y for p in points],
        mode="markers+text",
        text=[label(p.title) for p in points],
        textposition="top center",
        cliponaxis=False,
        customdata=[[p.run] for p in points],
        marker={"size": 11, "color": theme.series[0]},
        showlegend=False,
        textfont={"color": theme.muted, "size": 11},
        error_y={"type": "data", "array": up, "arrayminus": down, "color": theme.muted},
        hovertemplate="%{customdata[0]}<br>" + x_title + " %{x:.4g}<br>" + y_title + " %{y:.4g}<extra></extra>",
    )
    return style(figure, theme, 360, xaxis_title=x_title, yaxis_title=y_title)


def frontier(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], better: str) -> Int[np.ndarray, " m"]:
    """Indices of the points that no other point beats in both directions, by growing x."""
    cost = y if better == "low" else -y
    order = np.lexsort((cost, x))
    best = np.concatenate([[np.inf], np.minimum.accumulate(cost[order])[:-1]])
    return order[cost[order] < best]
