"""Pictures of the scores of a circuit: the strongest nodes or edges, and estimates held against exact effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.viz.charts import label, signed_log, signed_log_axis, style
from interp.viz.colours import Palette

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up")


@dataclass(frozen=True)
class Effects:
    """Scores with their intervals; negative means that the node or edge helps the task. An end that is not a number is not drawn."""

    value: Float[np.ndarray, " unit"]
    low: Float[np.ndarray, " unit"]
    high: Float[np.ndarray, " unit"]


def effect_bars(names: Sequence[str], effects: Effects, theme: Palette, title: str) -> go.Figure:
    """The strongest nodes or edges, the order as given, with 95 % intervals where there are any."""
    value = effects.value
    colours = [theme.negative if v < 0 else theme.positive for v in value]
    above, below = np.nan_to_num(effects.high - value), np.nan_to_num(value - effects.low)
    error = {"type": "data", "array": above, "arrayminus": below, "color": theme.muted, "thickness": 1, "visible": bool(above.any())}
    ends = [f" [{low:.3f}, {high:.3f}]" if low == low else "" for low, high in zip(effects.low, effects.high, strict=True)]
    bars = go.Bar(
        x=value, y=[label(n) for n in names], orientation="h", marker_color=colours, error_x=error,
        customdata=[[label(n), end] for n, end in zip(names, ends, strict=True)],
        hovertemplate="%{customdata[0]}: %{x:.3f}%{customdata[1]}<extra></extra>",
    )  # fmt: skip
    widest = max((len(n) for n in names), default=0)
    return style(
        go.Figure(bars),
        theme,
        70 + 18 * len(names),
        xaxis_title=label(title),
        yaxis={"autorange": "reversed", "type": "category", "dtick": 1},
        margin={"l": 24 + 7 * widest, "r": 10, "t": 8, "b": 44},
    )


@dataclass(frozen=True)
class Audited:
    """Nodes or edges of one kind with both of their numbers: the exact effect, or that of another run, and the score."""

    names: Sequence[str]
    exact: Float[np.ndarray, " unit"]
    score: Float[np.ndarray, " unit"]


def agreement(
    kinds: Mapping[str, Audited], theme: Palette, unit: str, titles: tuple[str, str] = ("exact effect of ablation", "score")
) -> go.Figure:
    """Score against exact effect, or whatever the axes are called, a colour and a shape for each kind; on the dotted line they are equal.

    Names are in the hover text. Most effects are tiny and a few large, so both axes are logarithmic away from zero, in the same way.
    """
    every = np.concatenate([np.concatenate([one.exact, one.score]) for one in kinds.values()])
    near, axis = signed_log_axis(every)
    bound, (x, y) = axis["range"], map(label, titles)
    figure = go.Figure()
    figure.add_scatter(
        x=bound, y=bound, mode="lines", line={"color": theme.muted, "dash": "dot"}, hoverinfo="skip", name="equal", showlegend=True
    )
    for i, (kind, one) in enumerate(kinds.items()):
        figure.add_scatter(
            x=signed_log(one.exact, near),
            y=signed_log(one.score, near),
            mode="markers",
            name=label(kind),
            customdata=[[label(n), exact, score] for n, exact, score in zip(one.names, one.exact, one.score, strict=True)],
            marker={"color": theme.series[i % len(theme.series)], "size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)], "opacity": 0.8},
            hovertemplate=f"%{{customdata[0]}}<br>{x} %{{customdata[1]:.4f}}<br>{y} %{{customdata[2]:.4f}}<extra></extra>",
        )
    measure = f" ({unit})" if unit else ""
    figure = style(figure, theme, 380, xaxis_title=x + label(measure), yaxis_title=y + label(measure))
    return figure.update_xaxes(**axis).update_yaxes(**axis)
