"""The circuit in view as nodes and lines to draw."""

from dataclasses import dataclass

import numpy as np

from app import readers
from interp.circuits.names import parse
from interp.circuits.paths import Wiring, owners
from interp.viz.circuit_graph import Line, Vertex

# More edges than this nobody can follow.
MOST = 300
# A circuit of nodes has an edge between any two of its layers.
MOST_NODES = 24


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and the sentence that says what is not."""

    vertices: tuple[Vertex, ...]
    lines: tuple[Line, ...]
    said: str


def of_edges(edges: readers.Columns, wiring: Wiring, nodes: readers.Columns, order: np.ndarray, unit: str) -> Drawing:
    """The edges of a circuit that lie on a path from an embedding to the logits; of more than `MOST`, a smaller circuit."""
    kept = int(wiring.on_path(order).sum())
    drawn = wiring.largest(order, MOST) if kept > MOST else len(order)
    rows = order[:drawn][wiring.on_path(order[:drawn])]
    said = (
        f"{kept:,} of the {len(order):,} edges lie on a path from an embedding to the logits; the others change nothing and are not drawn."
    )
    if drawn < len(order):
        said += (
            f" Cut: drawn are the {len(rows)} such edges of the circuit of the first {drawn:,}, because more than {MOST} cannot be read."
        )
    behind = owners(wiring.sources, sorted(set(edges["destination"][rows])))
    sources = set(edges["source"][rows])
    lines = tuple(line for i in rows for line in _branches(edges, int(i), behind, sources, unit))
    return Drawing(_vertices(lines, nodes, unit), lines, said)


def _branches(edges: readers.Columns, i: int, behind: dict[str, tuple[str, ...]], sources: set[str], unit: str) -> list[Line]:
    """An edge as a line to its node; into a shared key or value, a line to each head of the group that is in the circuit."""
    source, to, value = str(edges["source"][i]), str(edges["destination"][i]), float(edges["score"][i])
    ends = [name for name in behind[to] if name in sources] if to != "logits" else ["logits"]
    text = f"<b>{source} → {to}</b><br>score {value:+.4f}{_interval(edges, i)} {unit}"
    if edges["exact"][i] == edges["exact"][i]:
        text += f"<br>exact {edges['exact'][i]:+.4f} {unit}"
    if edges["same_sign"][i] == edges["same_sign"][i]:
        text += f"<br>{100 * edges['same_sign'][i]:.0f} % of the prompts agree in sign"
    return [Line(source, end, text, value, parse(to).input or "") for end in ends]


def _interval(rows: readers.Columns, i: int) -> str:
    low, high = rows["score_low"][i], rows["score_high"][i]
    return "" if low != low else f" [{low:+.4f}, {high:+.4f}]"


def of_nodes(nodes: readers.Columns, kept: np.ndarray, by: str, unit: str) -> Drawing:
    """The nodes of a circuit, joined from layer to layer while they are few: all edges between kept nodes are kept."""
    names = [str(name) for name in nodes["name"][kept]]
    values = {name: float(nodes[by][i]) for name, i in zip(names, kept, strict=True)}
    said = "Nodes were scored, not edges: every edge between two of them is kept, drawn grey and without a score"
    said += " (from layer to layer; within one layer an MLP may also read its heads)."
    lines: list[Line] = []
    if len(names) <= MOST_NODES:
        ends = ["embed", *names, "logits"]
        lines = [Line(a, b, f"<b>{a} → {b}</b>") for a in ends for b in ends if layer_of(a) < layer_of(b) and (a, b) != ("embed", "logits")]
    else:
        said += f" Cut: the edges of more than {MOST_NODES} nodes would hide them, so only the nodes are drawn."
    text = {name: f"{by} {value:+.4f} {unit}" for name, value in values.items()}
    ends = (Vertex("embed", text="token embedding: always kept"), Vertex("logits", text="what the metric is read from"))
    return Drawing((*ends, *(Vertex(name, values[name], text[name]) for name in names)), tuple(lines), said)


def layer_of(name: str) -> float:
    parts = parse(name)
    return {"embed": -1.0, "logits": np.inf}.get(parts.kind, float(parts.layer or 0))


def _vertices(lines: tuple[Line, ...], nodes: readers.Columns, unit: str) -> tuple[Vertex, ...]:
    """The ends of the lines, with their own scores and how many lines meet there; the logits even where nothing leads to them."""
    score = dict(zip(nodes["name"].tolist(), nodes["score"].tolist(), strict=True))
    read, written = ({name: sum(getattr(line, side) == name for line in lines) for name in _ends(lines)} for side in ("to", "source"))
    return tuple(
        Vertex(
            name,
            score.get(name),
            (f"{score[name]:+.4f} {unit}, over all edges that leave it<br>" if name in score else "")
            + f"drawn: {read.get(name, 0)} lines in, {written.get(name, 0)} out",
        )
        for name in _ends(lines) or ("embed", "logits")
    )


def _ends(lines: tuple[Line, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for line in lines for name in (line.source, line.to)))
