"""The rules by which published circuits list their edges, from classes of heads and MLPs to edges.

Two circuits of GPT-2 small come from a rule (Conmy et al. 2023, arXiv:2304.14997, who turned the prose of the original papers into edges):

    ioi            every edge with an MLP at one end between nodes of the circuit, embed to logits, and the connections between classes
    greater_than   connections between groups of heads and MLPs, and chains of MLPs

A rule takes the classes as they stand in `data/circuits`, so the same rule serves a variant with other heads. The other circuits are short
lists without a rule. Most edges of both rules end in an MLP, and nobody tested those one by one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from interp.circuits.names import Edge, Shape, parse

Classes = Mapping[str, Sequence[str]]

# Wang et al. 2022, arXiv:2211.00593, figure 2: who reads whom, and through which of q, k and v.
MOVERS = ("name mover", "backup name mover", "negative name mover")
IOI_CONNECTIONS = (
    *((None, to, "qkv") for to in ("previous token", "duplicate token")),
    (None, "s-inhibition", "q"),
    *((None, to, "kv") for to in MOVERS),
    ("previous token", "induction", "kv"),
    *((start, "s-inhibition", "kv") for start in ("induction", "duplicate token")),
    *(("s-inhibition", to, "q") for to in MOVERS),
)


def ioi(classes: Classes, shape: Shape) -> frozenset[Edge]:
    """Indirect object identification: head to head as the classes say, everything to and from MLPs."""
    heads = [head for members in classes.values() for head in members]
    mlps = [f"m{layer}" for layer in range(shape.n_layers)]
    edges = set(_join(["embed", *heads, *mlps], mlps, shape)) | set(_join(mlps, _inputs(heads, "qkv"), shape))
    edges |= {("embed", "logits"), *((mlp, "logits") for mlp in mlps)}
    for start, end, sides in IOI_CONNECTIONS:
        edges |= set(_join(["embed"] if start is None else classes[start], _inputs(classes[end], sides), shape))
    return frozenset(edges | {(head, "logits") for name in MOVERS for head in classes[name]})


def greater_than(classes: Classes, shape: Shape) -> frozenset[Edge]:
    """Greater-than (Hanna et al. 2023, arXiv:2305.00586): early heads and MLPs to mid heads, mid heads to late MLPs and the logits.

    Two chains are wider than the groups: every MLP feeds every later MLP below the layer of the highest mid head, and the queries of the
    mid heads read every MLP before them.
    """
    first, pair, early, mid, late = (classes[name] for name in ("0.1", "0.3 and 0.5", "early MLPs", "mid heads", "late MLPs"))
    end = max(parse(head).layer or 0 for head in mid)
    mlps = [f"m{layer}" for layer in range(shape.n_layers)]
    return frozenset(
        {
            *_join(["embed"], [*_inputs([*first, *pair], "qkv"), *early], shape),
            *_join(first, early, shape),
            *_join([*first, *pair, *early], _inputs(mid, "qkv"), shape),
            *_join(mid, late, shape),
            *_join([*mid, *late], ["logits"], shape),
            *_join(early, early, shape),
            *_join(late, late, shape),
            *_join(mlps[:end], mlps[:end], shape),
            *_join(mlps, _inputs(mid, "q"), shape),
        }
    )


RULES: dict[str, Callable[[Classes, Shape], frozenset[Edge]]] = {"ioi": ioi, "greater_than": greater_than}


def _inputs(heads: Iterable[str], sides: str) -> list[str]:
    return [f"{head}.{side}" for head in heads for side in sides]


def _join(sources: Iterable[str], destinations: Sequence[str], shape: Shape) -> list[Edge]:
    """Every edge from one of these to one of those that runs later."""
    return [(source, to) for source in sources for to in destinations if shape.legal((source, to))]
