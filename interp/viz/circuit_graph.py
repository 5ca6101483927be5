"""A circuit as a layered graph: embeddings below, logits on top, a column for each head and one for MLPs, so that a node never moves.

Edges are drawn in a few traces, one for each colour and width, because plotly slows down with the number of traces and not with that of
points. Between two nodes of one column an edge is an arc, and the queries, keys and values of one pair lie beside each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.circuits.names import parse
from interp.viz.charts import label, style, translucent
from interp.viz.colours import Palette

WIDTHS = (1.0, 1.6, 2.4, 3.6, 5.2)
# Points of an arc.
ARC = 9
# More names than this would lie on each other.
MOST_NAMED = 80
SYMBOLS = {"head": "circle", "mlp": "square", "embed": "square", "logits": "star"}
SIDE = {"q": -0.16, "k": 0.0, "v": 0.16}


@dataclass(frozen=True)
class Vertex:
    """A node of the drawn circuit."""

    name: str
    score: float | None = None
    text: str = ""
    """What the pointer is told, besides the name."""


@dataclass(frozen=True)
class Line:
    """An edge of the drawn circuit, or its branch to one head of a group."""

    source: str
    to: str
    """The node that it ends at: `9.6` for `9.6.q`."""
    text: str
    score: float | None = None
    """None where edges have no score of their own."""
    side: str = ""
    """q, k or v of an attention input."""


@dataclass(frozen=True)
class Frame:
    """Where nodes stand: a column for each head, then the MLPs; a row for each layer."""

    layers: int
    heads: int

    def place(self, name: str) -> tuple[float, float]:
        """x and y of a node; an MLP stands half a layer above the heads that it may read."""
        parts, centre = parse(name), (self.heads - 1) / 2
        if parts.kind == "embed":
            return centre + (name == "pos"), -1.2
        if parts.kind == "logits":
            return centre, self.layers + 0.7
        return (self.heads + 0.4, (parts.layer or 0) + 0.45) if parts.kind == "mlp" else (float(parts.head or 0), float(parts.layer or 0))

    @property
    def height(self) -> int:
        """Pixels."""
        return int(np.clip(150 + 21 * self.layers, 340, 980))


def layered(vertices: Sequence[Vertex], lines: Sequence[Line], frame: Frame, theme: Palette) -> go.Figure:
    """Width says |score|, blue helps and orange (dotted) hinders, grey lines have no score."""
    figure = go.Figure()
    top = max((abs(line.score) for line in lines if line.score is not None), default=0.0) or 1.0
    arcs = [arc(line, frame) for line in lines]
    for (sign, level), members in sorted(_groups(lines, top).items()):
        x, y = _joined([arcs[i] for i in members])
        figure.add_scatter(x=x, y=y, mode="lines", line=_pen(sign, level, theme), hoverinfo="skip", showlegend=False)
    if lines:
        middle = np.stack([arc[ARC // 2] for arc in arcs])
        figure.add_scatter(
            x=middle[:, 0], y=middle[:, 1], mode="markers", marker={"size": 9, "color": theme.muted, "opacity": 0},
            customdata=[[line.text] for line in lines], hovertemplate="%{customdata[0]}<extra></extra>", showlegend=False,
        )  # fmt: skip
    _draw_vertices(figure, vertices, frame, theme)
    return _styled(figure, vertices, frame, theme)


def _groups(lines: Sequence[Line], top: float) -> dict[tuple[int, int], list[int]]:
    """(sign, level of width) to the lines drawn so."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, line in enumerate(lines):
        share = 0.0 if line.score is None else float(np.sqrt(abs(line.score) / top))
        key = 0 if line.score is None else (-1 if line.score < 0 else 1), min(len(WIDTHS) - 1, int(share * len(WIDTHS)))
        found.setdefault(key, []).append(i)
    return found


def _pen(sign: int, level: int, theme: Palette) -> dict[str, Any]:
    if sign == 0:
        return {"color": translucent(theme.muted, 0.18), "width": 1}
    colour = theme.negative if sign < 0 else theme.positive
    return {"color": translucent(colour, 0.4 + 0.12 * level), "width": WIDTHS[level], "dash": "solid" if sign < 0 else "dot"}


def arc(line: Line, frame: Frame) -> Float[np.ndarray, "point 2"]:
    """A quadratic Bézier curve, bowed to the side where both ends stand in one column."""
    start, end = np.array(frame.place(line.source)), np.array(frame.place(line.to))
    same = abs(start[0] - end[0]) < 0.3
    outwards = 1.0 if start[0] > (frame.heads - 1) / 2 else -1.0
    bow = outwards * (0.15 + 0.05 * (end[1] - start[1])) * same + SIDE.get(line.side, 0.0)
    control = (start + end) / 2 + np.array([2 * bow, 0.0])
    t = np.linspace(0, 1, ARC)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def _joined(arcs: Sequence[np.ndarray]) -> tuple[list[float | None], list[float | None]]:
    """Curves behind each other, with a gap between them."""
    x: list[float | None] = []
    y: list[float | None] = []
    for arc in arcs:
        x += [*np.round(arc[:, 0], 3).tolist(), None]
        y += [*np.round(arc[:, 1], 3).tolist(), None]
    return x, y


def _draw_vertices(figure: go.Figure, vertices: Sequence[Vertex], frame: Frame, theme: Palette) -> None:
    places = [frame.place(v.name) for v in vertices]
    named = len(vertices) <= MOST_NAMED
    figure.add_scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="markers+text" if named else "markers",
        text=[f" {label(v.name)}" for v in vertices] if named else None,
        textposition="middle right",
        textfont={"size": 11, "color": theme.text},
        marker={
            "symbol": [SYMBOLS[parse(v.name).kind] for v in vertices],
            "size": _sizes(vertices),
            "opacity": 1,
            "color": [_colour(v, theme) for v in vertices],
            "line": {"width": 1, "color": theme.background},
        },
        customdata=[[label(v.name), v.text] for v in vertices],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
    )


def _sizes(vertices: Sequence[Vertex]) -> list[float]:
    """Pixels across, so that the area grows with |score|."""
    top = max((abs(v.score) for v in vertices if v.score is not None), default=0.0) or 1.0
    return [15.0 if v.score is None else 8.0 + 10.0 * float(np.sqrt(abs(v.score) / top)) for v in vertices]


def _colour(vertex: Vertex, theme: Palette) -> str:
    if vertex.score is None or vertex.score != vertex.score:
        return theme.muted
    return theme.negative if vertex.score < 0 else theme.positive


def _styled(figure: go.Figure, vertices: Sequence[Vertex], frame: Frame, theme: Palette) -> go.Figure:
    rows = [*range(0, frame.layers, 1 if frame.layers <= 16 else 2)]
    columns = [*range(0, frame.heads, 1 if frame.heads <= 16 else 4)]
    figure = style(figure, theme, frame.height, margin={"l": 66, "r": 16, "t": 44, "b": 10}, hovermode="closest", hoverdistance=14)
    figure.update_yaxes(
        tickvals=[-1.2, *rows, frame.layers + 0.7], ticktext=["embedding", *(str(row) for row in rows), "logits"],
        range=[-1.9, frame.layers + 1.4], zeroline=False, title="layer",
    )  # fmt: skip
    figure.update_xaxes(
        tickvals=[*columns, frame.heads + 0.4], ticktext=[*(str(column) for column in columns), "MLP"], side="top",
        range=[-0.9, frame.heads + 2.6], zeroline=False, showgrid=False, title="head",
    )  # fmt: skip
    return figure
