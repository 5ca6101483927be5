"""Layer by head grids as ECharts options: plain data, and unlike plotly's heat map a click on a cell is reported.

ECharts hands back only the index in the drawn list, so the list of cells and their names are made by one function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.viz.colours import Palette, ink, sample

# Above this many cells a row the numbers would not be readable; they stay in the tooltip and in the table.
MOST_LABELLED = 16


@dataclass(frozen=True)
class Grid:
    """An ECharts option and what each drawn cell stands for, in drawing order."""

    option: dict[str, Any]
    cells: tuple[str, ...]
    height: int


def head_grid(values: Float[np.ndarray, "layers heads"], theme: Palette, top: float, picked: str) -> Grid:
    """A sequential grid from 0 to `top`; cell `3.1` is head 1 of layer 3."""
    names = [[f"{layer}.{head}" for head in range(values.shape[1])] for layer in range(values.shape[0])]
    return _grid(values, names, [str(h) for h in range(values.shape[1])], theme.sequential, (0.0, top), frozenset((picked,)), theme)


def node_grid(
    values: Float[np.ndarray, "layers columns"],
    columns: Sequence[str],
    names: Sequence[Sequence[str]],
    theme: Palette,
    picked: frozenset[str],
) -> Grid:
    """A diverging grid of signed effects, symmetric around 0."""
    bound = float(np.nanmax(np.abs(values), initial=1e-9))
    return _grid(values, names, columns, theme.diverging, (-bound, bound), picked, theme)


def _grid(
    values: Float[np.ndarray, "layers columns"], names: Sequence[Sequence[str]], columns: Sequence[str], colours: Sequence[str],
    bounds: tuple[float, float], picked: frozenset[str], theme: Palette,
) -> Grid:  # fmt: skip
    places = [place for place in np.ndindex(*values.shape) if not np.isnan(values[place])]
    cells = tuple(str(names[place[0]][place[1]]) for place in places)
    span = max(bounds[1] - bounds[0], 1e-12)
    data = [_cell(place, float(values[place]), sample(colours, (float(values[place]) - bounds[0]) / span), theme) for place in places]
    outlines = [_outline(place, theme) for place, name in zip(places, cells, strict=True) if name in picked]
    option = _option((data, outlines), columns, values.shape[0], colours, bounds, theme)
    return Grid(option, cells, max(220, 78 + 23 * values.shape[0]))


def _cell(place: tuple[int, ...], value: float, colour: str, theme: Palette) -> dict[str, Any]:
    return {
        "value": [place[1], place[0], round(value, 4)],
        "itemStyle": {"color": colour, "borderColor": theme.background, "borderWidth": 1},
        "label": {"color": ink(colour), "formatter": short(value)},
    }


def _outline(place: tuple[int, ...], theme: Palette) -> dict[str, Any]:
    border = {"color": "rgba(0,0,0,0)", "borderColor": theme.positive, "borderWidth": 3}
    return {"value": [place[1], place[0], 0], "itemStyle": border}


def short(value: float) -> str:
    """Two decimals without the leading zero, as in tables of scores: .83, -.07, 1.20."""
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _option(
    series: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    columns: Sequence[str],
    layers: int,
    colours: Sequence[str],
    bounds: tuple[float, float],
    theme: Palette,
) -> dict[str, Any]:
    axis = {
        "type": "category",
        "axisTick": {"show": False},
        "axisLine": {"show": False},
        "axisLabel": {"color": theme.muted},
        "nameTextStyle": {"color": theme.muted},
    }
    return {
        "animation": False,
        "grid": {"left": 46, "right": 86, "top": 40, "bottom": 12},
        "tooltip": {"trigger": "item"},
        "xAxis": {**axis, "data": list(columns), "position": "top", "name": "head", "nameLocation": "middle", "nameGap": 24},
        "yAxis": {
            **axis,
            "data": [str(layer) for layer in range(layers)],
            "inverse": True,
            "name": "layer",
            "nameLocation": "middle",
            "nameGap": 28,
        },
        "visualMap": {
            "min": round(bounds[0], 3),
            "max": round(bounds[1], 3),
            "calculable": False,
            "orient": "vertical",
            "right": 6,
            "top": "middle",
            "precision": 2,
            "dimension": 2,
            "seriesIndex": [],
            "text": [short(bounds[1]), short(bounds[0])],
            "textStyle": {"color": theme.muted},
            "inRange": {"color": list(colours)},
            "itemHeight": 120,
        },
        "series": [
            {
                "type": "heatmap",
                "data": series[0],
                "selectedMode": "single",
                "label": {"show": len(columns) <= MOST_LABELLED, "fontSize": 11},
                "emphasis": {"itemStyle": {"borderColor": theme.text, "borderWidth": 2}},
                "select": {"itemStyle": {"borderColor": theme.positive, "borderWidth": 3}},
            },
            # Outlines lie above all cells and let clicks through; inside the first series they would change its order.
            {"type": "heatmap", "data": series[1], "silent": True, "z": 3, "label": {"show": False}, "tooltip": {"show": False}},
        ],
    }
