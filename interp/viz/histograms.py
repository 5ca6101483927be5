"""Distributions: activations and logit weights of a latent, densities and maxima of a dictionary."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Integer

from interp.viz.charts import log_axis, style, translucent
from interp.viz.colours import Palette, colourscale
from interp.viz.html import number

BANDS = 5


def centres(low: float, high: float, bins: int) -> Float[np.ndarray, " bins"]:
    edges = np.linspace(low, high, bins + 1)
    return (edges[:-1] + edges[1:]) / 2


def activation_histogram(counts: Integer[np.ndarray, " bins"], highest: float, theme: Palette) -> go.Figure:
    """Counts of active tokens over the activation, logarithmic; dotted lines bound the bands of examples."""
    x = centres(0.0, highest, len(counts))
    figure = go.Figure(go.Bar(x=x, y=counts, marker_color=theme.series[0], hovertemplate="activation %{x:.3g}: %{y} tokens<extra></extra>"))
    for i in range(1, BANDS):
        figure.add_vline(highest * i / BANDS, line={"color": theme.muted, "dash": "dot", "width": 1})
    # A bar of one token would have no height on a logarithmic axis that starts at one.
    top = np.log10(max(2, counts.max(initial=1))) * 1.05
    return style(figure, theme, 190, xaxis_title="activation", yaxis={"title": "tokens", "type": "log", "range": [-0.3, top], "dtick": 1})


def logit_histogram(counts: Integer[np.ndarray, " bins"], low: float, high: float, theme: Palette) -> go.Figure:
    """How the decoder direction moves the logits of the whole vocabulary; negative blue, positive orange."""
    x = centres(low, high, len(counts))
    colours = [theme.negative if v < 0 else theme.positive for v in x]
    figure = go.Figure(go.Bar(x=x, y=counts, marker_color=colours, hovertemplate="logit weight %{x:.3g}: %{y} tokens<extra></extra>"))
    return style(figure, theme, 170, xaxis_title="logit weight", yaxis={"title": "vocabulary", "type": "log", "dtick": 1})


def density_histogram(densities: Float[np.ndarray, " latents"], theme: Palette, chosen: tuple[float, float] | None = None) -> go.Figure:
    """log10 of the share of tokens on which each live latent is active; the chosen range shaded."""
    live = np.log10(densities[densities > 0])
    counts, edges = np.histogram(live, 60, (-7.0, 0.0))
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            marker_color=theme.series[0],
            hovertemplate="density 10^%{x:.2f}: %{y} latents<extra></extra>",
        )
    )
    if chosen:
        figure.add_vrect(chosen[0], chosen[1], fillcolor=translucent(theme.series[1], 0.12), line_width=0)
    low = float(np.floor(live.min())) if live.size else -7.0
    ticks = list(range(int(low), 1))
    return style(
        figure,
        theme,
        230,
        xaxis={
            "title": "density (share of tokens)",
            "range": [low, 0],
            **_powers_of_ten(ticks, ticks),
        },
        yaxis_title="latents",
    )


def _powers_of_ten(powers: list[int], places: Sequence[int | float]) -> dict[str, object]:
    """Ticks at the powers, written as `charts.log_axis` writes them."""
    return {"tickvals": list(places), "ticktext": [f"{10.0**p:g}" for p in powers]}


def latent_scatter(
    ids: Integer[np.ndarray, " n"],
    values: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    titles: tuple[str, str],
    theme: Palette,
) -> go.Figure:
    """Latents by density, and by height and colour of those titles; the id travels in `customdata`, because row numbers shift."""
    (x, y, colour), (y_title, colour_title) = values, titles
    bar = {"title": {"text": colour_title, "side": "right", "font": {"size": 11}}, "thickness": 10}
    scale = colourscale(theme.sequential)
    marker = {"color": colour, "colorscale": scale, "size": 6, "opacity": 0.85, "colorbar": bar}
    lines = ("number %{customdata[0]}", "density %{x:.3g}", f"{y_title} %{{y:.3g}}", f"{colour_title} %{{marker.color:.3g}}")
    hover = "<br>".join(lines) + "<extra></extra>"
    figure = go.Figure(go.Scattergl(x=x, y=y, mode="markers", customdata=ids[:, None], marker=marker, hovertemplate=hover))
    axis = {"title": "density (share of tokens)", **log_axis(float(x.min(initial=1)), float(x.max(initial=1e-7)))}
    return style(figure, theme, 230, xaxis=axis, yaxis_title=y_title, showlegend=False)


def spoken(counts: Integer[np.ndarray, " bins"], low: float, high: float, name: str) -> str:
    """A histogram in words, from its data."""
    if not counts.any():
        return f"{name}: empty"
    width = (high - low) / len(counts)
    mode = low + width * int(counts.argmax())
    extent = f"{len(counts)} bins from {number(low)} to {number(high)}"
    return f"{name}: {extent}, most in {number(mode)} to {number(mode + width)}, {int(counts.sum())} in all"
