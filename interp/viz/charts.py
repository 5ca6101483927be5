"""What all plotly figures share: fonts, margins, axes, and labels that cannot carry markup."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.viz.colours import Palette

# Ticks of a logarithmic axis, in hundredths of a decade's first number: the first of these that gives at least three. (1, 10, 100), (1, 2,
# 5), whole numbers, then steps of .5, .2, .1, .05, .02 and .01.
_MANTISSAS = ((100,), (100, 200, 500), *(tuple(range(100, 1000, step)) for step in (100, 50, 20, 10, 5, 2, 1)))
_MOST_TICKS = 10


def label(text: object) -> str:
    """Text for an axis, a legend or a tooltip: plotly renders `<b>` and `<a>`, so they are escaped."""
    return html.escape(str(text).encode("utf-8", "backslashreplace").decode(), quote=False)


def style(figure: go.Figure, theme: Palette, height: int, **layout: Any) -> go.Figure:
    """The common look; `layout` overrides it."""
    axis = {"gridcolor": theme.line, "zerolinecolor": theme.line, "linecolor": theme.line, "tickfont": {"color": theme.muted}}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    common: dict[str, Any] = {
        "height": height, "margin": {"l": 48, "r": 12, "t": 28, "b": 40}, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme.text, "size": 12}, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
        "hoverlabel": {"bgcolor": theme.background, "font": {"color": theme.text}}, "bargap": 0.04, "colorway": list(theme.series),
    }  # fmt: skip
    figure.update_layout(**{**common, **layout})
    return figure


def translucent(colour: str, alpha: float) -> str:
    """`#rrggbb` as `rgba(...)`, for bands."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, few enough to be read."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for mantissas in _MANTISSAS:
        found = [float(f"{m * 10.0 ** (d - 2):.3g}") for d in decades for m in mantissas if low <= m * 10.0 ** (d - 2) <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // _MOST_TICKS) or 1]


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis around `low` to `high` with round numbers on it; plotly would write only their first digits."""
    if not 0 < low <= high:
        return {"type": "log"}
    margin = max(1.05, (high / low) ** 0.05, 1.2 / (high / low))
    low, high = low / margin, high * margin
    ticks = log_ticks(low, high)
    return {"type": "log", "range": [np.log10(low), np.log10(high)], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def signed_log(values: np.ndarray, unit: float) -> np.ndarray:
    """Where signed values stand on an axis that is linear within `unit` of zero and logarithmic beyond it."""
    return np.sign(values) * np.log10(1 + np.abs(values) / unit)


def signed_log_axis(values: np.ndarray) -> tuple[float, dict[str, Any]]:
    """The `unit` of an axis that holds values of very different size, the median of their sizes, and plotly's layout of the axis."""
    sizes = np.abs(values[values != 0])
    # Sizes so far below the largest that no axis could tell them from zero do not set its unit.
    unit = max(float(np.median(sizes)), 1e-9 * float(sizes.max())) if len(sizes) else 1.0
    top = float(sizes.max(initial=unit))
    powers = [10.0**k for k in range(int(np.ceil(np.log10(unit))), int(np.floor(np.log10(top))) + 1)] or [float(f"{top:.1g}")]
    powers = powers[-4:]
    ticks = [
        tick
        for tick in (*(-p for p in reversed(powers)), 0.0, *powers)
        if values.min(initial=0) * 1.3 <= tick <= values.max(initial=0) * 1.3
    ]
    ends = signed_log(np.array([values.min(initial=0.0), values.max(initial=0.0)]), unit)
    margin = 0.06 * max(float(np.ptp(ends)), 1e-9)
    places = signed_log(np.array(ticks), unit).tolist()
    layout = {"tickvals": places, "ticktext": [f"{tick:g}" for tick in ticks], "range": [ends[0] - margin, ends[1] + margin]}
    return unit, layout | {"zeroline": True}
