"""How evenly codes are used, as a picture."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Integer

from interp.viz.charts import style
from interp.viz.colours import Palette

MOST_POINTS = 400


def rank_plot(books: Sequence[Integer[np.ndarray, " code"]], theme: Palette) -> go.Figure:
    """Active tokens of each live code over its rank, both logarithmic, a line for each book."""
    figure = go.Figure()
    for i, book in enumerate(books):
        used = np.sort(book[book > 0])[::-1]
        # Points that are as far apart on the logarithmic axis as the eye can tell.
        ranks = np.unique(np.geomspace(1, max(1, len(used)), MOST_POINTS).astype(int))[: len(used)]
        name = f"book {i}: " if len(books) > 1 else ""
        hover = f"{name}rank %{{x:,}}: %{{y:,}} tokens<extra></extra>"
        line = {"color": theme.series[i % len(theme.series)], "width": 1.5}
        figure.add_trace(go.Scatter(x=ranks, y=used[ranks - 1], mode="lines", line=line, hovertemplate=hover, showlegend=False))
    axes = {name: {"title": title, "type": "log", "dtick": 1} for name, title in (("xaxis", "rank"), ("yaxis", "active tokens"))}
    return style(figure, theme, 230, **axes)
