"""Pictures of a circuit: effect of each node, agreement of the fast scores with the exact ones, faithfulness against size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.viz.charts import label, style, translucent
from interp.viz.colours import Palette


@dataclass(frozen=True)
class Effects:
    """Effects of the nodes with their intervals; negative means that the node helps the task."""

    value: Float[np.ndarray, " nodes"]
    low: Float[np.ndarray, " nodes"]
    high: Float[np.ndarray, " nodes"]


def node_bars(names: Sequence[str], effects: Effects, theme: Palette, title: str) -> go.Figure:
    """The strongest nodes, the order as given, with 95 % intervals."""
    value = effects.value
    colours = [theme.negative if v < 0 else theme.positive for v in value]
    error = {"type": "data", "array": effects.high - value, "arrayminus": value - effects.low, "color": theme.muted, "thickness": 1}
    bars = go.Bar(
        x=value, y=[label(n) for n in names], orientation="h", marker_color=colours, error_x=error, customdata=[[n] for n in names],
        hovertemplate="%{customdata[0]}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    return style(
        go.Figure(bars),
        theme,
        70 + 18 * len(names),
        xaxis_title=title,
        yaxis={"autorange": "reversed", "type": "category", "dtick": 1},
        margin={"l": 80, "r": 10, "t": 8, "b": 40},
    )


def agreement(names: Sequence[str], exact: Float[np.ndarray, " nodes"], guess: Float[np.ndarray, " nodes"], theme: Palette) -> go.Figure:
    """Attribution against exact effect; on the dotted line they are equal. Only the strongest nodes are named, to keep the text apart."""
    strong = set(np.argsort(-np.abs(exact))[:8].tolist())
    text = [label(n) if i in strong else "" for i, n in enumerate(names)]
    bound = [float(min(exact.min(), guess.min())), float(max(exact.max(), guess.max()))]
    figure = go.Figure(go.Scatter(x=bound, y=bound, mode="lines", line={"color": theme.muted, "dash": "dot"}, hoverinfo="skip"))
    figure.add_scatter(
        x=exact,
        y=guess,
        mode="markers+text",
        text=text,
        # Away from the line, but never over the axis.
        textposition=["middle left" if left else "middle right" for left in (guess > exact) & (exact > bound[0] + 0.2 * np.ptp(bound))],
        cliponaxis=False,
        customdata=[[n] for n in names],
        textfont={"size": 10, "color": theme.muted},
        marker={"color": theme.series[0], "size": 6},
        hovertemplate="%{customdata[0]}<br>exact %{x:.3f}<br>attribution %{y:.3f}<extra></extra>",
    )
    return style(figure, theme, 340, xaxis_title="exact effect (node ablated)", yaxis_title="attribution (estimate)", showlegend=False)


def correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Pearson's r; not a number when one side is constant."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True)
class Series:
    """One line of the faithfulness curve, ordered by the number of nodes."""

    name: str
    n_nodes: np.ndarray
    faithfulness: np.ndarray
    low: np.ndarray
    high: np.ndarray


def faithfulness_curve(series: Sequence[Series], theme: Palette, size: int | None = None) -> go.Figure:
    """Faithfulness against circuit size with 95 % bands; 1 is the whole model, 0 the fully ablated one; the chosen size marked."""
    figure = go.Figure()
    for i, line in enumerate(series):
        colour = theme.muted if line.name.startswith("random") else theme.series[i % len(theme.series)]
        dash = "dot" if line.name.startswith("random") else "solid"
        x = np.concatenate([line.n_nodes, line.n_nodes[::-1]])
        figure.add_scatter(
            x=x,
            y=np.concatenate([line.high, line.low[::-1]]),
            fill="toself",
            mode="lines",
            fillcolor=translucent(colour, 0.15),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=line.n_nodes, y=line.faithfulness, mode="lines+markers", name=label(line.name), line={"color": colour, "dash": dash},
            hovertemplate="%{x} nodes: %{y:.3f}", marker={"size": 5},
        )  # fmt: skip
    for level in (0.0, 1.0):
        figure.add_hline(level, line={"color": theme.muted, "width": 1, "dash": "dash"})
    if size is not None:
        figure.add_vline(size, line={"color": theme.positive, "width": 2}, annotation_text=f"{size} nodes", annotation_position="top right")
    return style(figure, theme, 380, xaxis_title="nodes kept (all others ablated)", yaxis_title="faithfulness", hovermode="x unified")
