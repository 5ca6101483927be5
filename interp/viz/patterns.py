"""Attention patterns: one head as a heat map, all heads of a layer as thumbnails."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8

from interp.viz.charts import label, style
from interp.viz.colours import Palette, colourscale
from interp.viz.html import Html, element
from interp.viz.strip import visible


def attention(pattern: Float[np.ndarray, "query key"], texts: Sequence[str], theme: Palette, query: int | None = None) -> go.Figure:
    """Weights of each query (row) over its keys (columns); keys after the query are left blank; the chosen query is outlined."""
    n = len(pattern)
    weights = np.where(np.tri(n, dtype=bool), pattern.astype(float), np.nan)
    # Few fonts have the picture of a line end.
    names = [f"{i} {label(visible(t)[:14].replace('␊', '↵'))}" for i, t in enumerate(texts)]
    heat = go.Heatmap(
        z=weights,
        zmin=0,
        zmax=1,
        colorscale=colourscale((theme.background, *theme.sequential)),
        colorbar={"title": {"text": "weight", "side": "right", "font": {"size": 11}}, "thickness": 10},
        customdata=[[[names[q], names[k]] for k in range(n)] for q in range(n)],
        xgap=1,
        ygap=1,
        hovertemplate="query %{customdata[0]}<br>key %{customdata[1]}<br>weight %{z:.3f}<extra></extra>",
    )
    figure = go.Figure(heat)
    if query is not None:
        figure.add_shape(type="rect", x0=-0.5, x1=query + 0.5, y0=query - 0.5, y1=query + 0.5, line={"color": theme.positive, "width": 2})
    ticks = {"tickvals": list(range(n)), "ticktext": names, "showgrid": False}
    return style(
        figure, theme, max(420, 130 + 15 * n), xaxis={"title": "key (attended to)", "tickangle": -60, **ticks},
        yaxis={"title": "query (attending)", "autorange": "reversed", **ticks}, margin={"l": 110, "r": 10, "t": 10, "b": 110},
        plot_bgcolor=theme.line,
    )  # fmt: skip


def received(pattern: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " key"]:
    """Mean weight that each key gets from the queries at or after it."""
    weights = np.tril(pattern.astype(float))
    return weights.sum(0) / np.arange(len(pattern), 0, -1)


def thumbnail(pattern: Float[np.ndarray, "query key"], theme: Palette) -> Html:
    """A pattern as a small picture, one pixel a weight."""
    scale = (theme.background, *theme.sequential)
    steps = np.clip((pattern.astype(float) * len(scale)).astype(int), 0, len(scale) - 1)
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in scale], np.uint8)
    blank = np.array([int(theme.line[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    pixels = np.where(np.tri(len(pattern), dtype=bool)[..., None], colours[steps], blank)
    source = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    return element("img", src=source, alt=f"attention pattern of {len(pattern)} tokens", class_="thumb")


def png(pixels: UInt8[np.ndarray, "rows columns 3"]) -> bytes:
    """An RGB image as a PNG file (ISO/IEC 15948): header, one deflated block of unfiltered rows, end."""
    rows, columns, _ = pixels.shape
    body = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
