"""What all plotly figures share: fonts, margins, axes, and labels that cannot carry markup."""

import html
from typing import Any

import plotly.graph_objects as go

from interp.viz.colours import Palette


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
