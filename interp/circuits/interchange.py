"""Circuits from and for other programs: the graph JSON of EAP-IG and MIB, and the edge list of ACDC.

    EAP-IG     {"cfg": {...}, "nodes": {"a9.h6": {"in_graph"}}, "edges": {"m0->a9.h6<q>": {"score", "in_graph"}}}      input is our embed
    ACDC       [[[child, index, parent, index], effect], ...], hook names and indices such as blocks.9.hook_q_input and [null, null, 6]

What both formats hold survives a round trip. ACDC saves its list as a pickle, which runs code when it is opened: convert it where it was
made (`json.dump([[[c, list(i.hashable_tuple), p, list(j.hashable_tuple)], e] for (c, i, p, j), e in pickle.load(f)], ...)`).

Signs differ between programs and no file says its own: EAP-IG scores (corrupt - clean) . gradient of what it was handed, a metric or a
loss. `Table.scores` are as they stand in the file; `flipped` turns them round.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.circuits.names import Edge, Shape, edge_order, is_direct, owner, parse
from saes.errors import InputError

_EAP_HEAD = re.compile(r"a(\d+)\.h(\d+)")
_ACDC_HOOK = re.compile(r"blocks\.(\d+)\.(?:attn\.)?hook_(result|q_input|k_input|v_input|q|k|v|mlp_out|mlp_in|resid_pre|resid_post)")
Record = list[Any]


@dataclass(frozen=True)
class Table:
    """Edges with their scores, and the circuit chosen among them."""

    scores: Mapping[Edge, float | None]
    """None where the file has an edge without a score."""
    kept: frozenset[Edge]
    nodes: Mapping[str, bool]
    """Nodes, and whether the file keeps them; empty where the format has none."""
    cfg: Mapping[str, Any]
    """The model as the file describes it."""
    left_out: tuple[str, ...] = ()
    """What the file holds and this table does not, in words."""

    def flipped(self) -> "Table":
        """The scores with the other sign."""
        return replace(self, scores={edge: None if score is None else -score for edge, score in self.scores.items()})

    def within(self, graph: Collection[Edge]) -> "tuple[Table, tuple[Edge, ...]]":
        """The part of the table that a graph has, and the edges that it lacks: report those, they are no part of any count."""
        known = frozenset(graph)
        foreign = tuple(sorted(self.scores.keys() - known, key=edge_order))
        return replace(self, scores={edge: s for edge, s in self.scores.items() if edge in known}, kept=self.kept & known), foreign


def read_eap(data: Mapping[str, Any]) -> Table:
    """A graph as EAP-IG's `to_json` writes it; raises InputError for names it cannot have written.

    Fields of nodes and edges other than score and in_graph (neurons) are named in `left_out`.
    """
    if not {"cfg", "nodes", "edges"} <= data.keys():
        raise InputError(
            f"an EAP-IG graph has cfg, nodes and edges, this has {', '.join(map(str, data)) or 'nothing'}; save it with to_json"
        )
    pairs = [(_eap_edge(name), fields) for name, fields in data["edges"].items()]
    unread = {f"{key} of a node" for fields in data["nodes"].values() for key in fields if key != "in_graph"}
    unread |= {f"{key} of an edge" for _, fields in pairs for key in fields if key not in ("in_graph", "score")}
    return Table(
        scores={edge: fields.get("score") for edge, fields in pairs},
        kept=frozenset(edge for edge, fields in pairs if fields["in_graph"]),
        nodes={_from_eap(name): fields["in_graph"] for name, fields in data["nodes"].items()},
        cfg=dict(data["cfg"]),
        left_out=tuple(sorted(unread)),
    )


def write_eap(table: Table) -> dict[str, Any]:
    """The JSON that EAP-IG's `from_json` reads; raises InputError for what its graphs lack: positions apart, shared keys, direct edges."""
    edges = {
        _to_eap_edge(edge): ({} if score is None else {"score": score}) | {"in_graph": edge in table.kept}
        for edge, score in table.scores.items()
    }
    kept = set(_ends(table.kept))
    nodes = table.nodes or {name: name in kept for name in _ends(table.scores)}
    return {"cfg": dict(table.cfg), "nodes": {_to_eap(name): {"in_graph": keep} for name, keep in nodes.items()}, "edges": edges}


def read_acdc(records: Iterable[Sequence[Any]]) -> Table:
    """The edges that ACDC kept, direct ones as (`9.6.q`, `9.6.q`); its effects are the scores.

    Placeholder edges (from q, k and v to the result of a head, from the input of an MLP to its output) are no choice of the method: they
    are left out and counted in `left_out`. Raises InputError for hooks and positions that no edge here can have.
    """
    scores: dict[Edge, float | None] = {}
    placeholders = 0
    for (child, child_index, parent, parent_index), effect in records:
        if re.search(r"attn\.hook_result|hook_mlp_out", child):
            placeholders += 1
            continue
        edge = _acdc_name(parent, parent_index, writes=True), _acdc_name(child, child_index, writes=False)
        if parse(edge[0]).kind == "input" and not is_direct(edge):
            raise InputError(f"{parent} leads to its own q, k or v alone, not to {child} {list(child_index)}")
        scores[edge] = effect
    said = (f"{placeholders} placeholder edges",) if placeholders else ()
    return Table(scores, frozenset(scores), {}, {}, said)


def write_acdc(table: Table, shape: Shape) -> list[Record]:
    """The kept edges as ACDC's list, with the hook names of a model of this shape."""
    last = shape.n_layers - 1
    return [
        [[*_acdc_hook(edge[1], last, shape, "direct" if is_direct(edge) else "read"), *_acdc_hook(edge[0], last, shape, "write")], effect]
        for edge, effect in table.scores.items()
        if edge in table.kept
    ]


def _ends(edges: Iterable[Edge]) -> list[str]:
    """Nodes in the order of the model, heads without their inputs."""
    names = {owner(end) for edge in edges for end in edge}
    return sorted(names, key=lambda name: edge_order((name, name)))


def _eap_edge(text: str) -> Edge:
    source, arrow, to = text.partition("->")
    head, _, side = to.partition("<")
    if not arrow or (side and side not in ("q>", "k>", "v>")):
        raise InputError(f"{text!r} names no edge of EAP-IG; they look like m0->a9.h6<q>")
    return _from_eap(source), f"{_from_eap(head)}.{side[0]}" if side else _from_eap(head)


def _from_eap(name: str) -> str:
    if name == "input":
        return "embed"
    found = _EAP_HEAD.fullmatch(name)
    if not found and name != "logits" and not re.fullmatch(r"m\d+", name):
        raise InputError(f"{name!r} names no node of EAP-IG; they are input, a9.h6, m3 and logits")
    return f"{found[1]}.{found[2]}" if found else name


def _to_eap(name: str) -> str:
    parts = parse(name)
    if name == "pos" or ".g" in name:
        raise InputError(f"EAP-IG has no node for {name!r}: it knows one embedding, and keys and values head by head; export another graph")
    if parts.kind == "embed":
        return "input"
    return f"a{parts.layer}.h{parts.head}" if parts.kind in ("head", "input") else name


def _to_eap_edge(edge: Edge) -> str:
    if is_direct(edge):
        raise InputError(f"EAP-IG has no direct edges such as {edge[0]}; leave them out")
    side = parse(edge[1]).input
    return f"{_to_eap(edge[0])}->{_to_eap(edge[1])}" + (f"<{side}>" if side else "")


def _acdc_name(hook: str, index: Sequence[int | None], writes: bool) -> str:
    """The node at a hook; `index` is [null] for all of it and [null, null, head] for one head."""
    if hook in ("hook_embed", "hook_pos_embed"):
        return "embed" if hook == "hook_embed" else "pos"
    found = _ACDC_HOOK.fullmatch(hook)
    if found is None or any(place is not None for place in index[:2]) or len(index) not in (1, 3):
        raise InputError(f"{hook} {list(index)} is no node without positions; there are blocks.9.hook_q_input [null, null, 6] and the like")
    layer, kind, head = found[1], found[2], index[-1]
    if writes and kind in ("mlp_in", "resid_post", "q", "k", "v"):
        raise InputError(f"{hook} writes nothing to the residual stream; it cannot be the parent of an edge")
    whole = {"mlp_out": f"m{layer}", "mlp_in": f"m{layer}", "resid_pre": "embed", "resid_post": "logits", "result": f"{layer}.{head}"}
    return whole.get(kind, f"{layer}.{head}.{kind[0]}")


def _acdc_hook(name: str, last: int, shape: Shape, end: str) -> tuple[str, list[int | None]]:
    parts = parse(name)
    if ".g" in name:
        raise InputError(f"ACDC reads keys and values head by head, so {name!r} has no hook there; export a graph without groups")
    if parts.kind == "embed":
        together = "hook_pos_embed" if name == "pos" else "hook_embed"
        return (together if shape.positions_apart else "blocks.0.hook_resid_pre"), [None]
    if parts.kind == "logits":
        return f"blocks.{last}.hook_resid_post", [None]
    if parts.kind == "mlp":
        return f"blocks.{parts.layer}.hook_mlp_{'out' if end == 'write' else 'in'}", [None]
    index: list[int | None] = [None, None, parts.head]
    if parts.kind == "head":
        return f"blocks.{parts.layer}.attn.hook_result", index
    hook = f"attn.hook_{parts.input}" if end == "direct" else f"hook_{parts.input}_input"
    return f"blocks.{parts.layer}.{hook}", index
