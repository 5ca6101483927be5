"""Circuits that are known, from `data/circuits`, each with what it holds for (`interp.circuits.verdicts` scores methods against them).

A truth belongs to an ablation, to a kind of data and to positions: the compiled program that reverses a sequence needs 11 edges when a cut
edge carries zero, 9 of those when every sequence has full length, and 2 when it carries the activation of another sequence. So a truth says
what it holds for, and `require` refuses a method that ran under another ablation. Ablations are named

    zero, mean (over positions), mean_per_position, resample (the corrupt prompt), learned (a trained constant)

Where either of two parts is enough, `alternatives` lists further sets that are circuits as well.
"""

import json
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from interp.circuits.names import Edge, Shape, parse, touches_mlp
from interp.circuits.published import RULES
from saes.errors import InputError

Granularity = Literal["edge", "node"]
ABLATIONS = ("zero", "mean", "mean_per_position", "resample", "learned")
SCHEMA = 1


@dataclass(frozen=True)
class Evidence:
    """Why a circuit is believed."""

    grade: Literal["exhaustive", "measured", "reproduced", "read", "derived", "weak"]
    """exhaustive: every edge removed exactly on every input. measured: every edge resampled alone, and all others together, on a sample of
    inputs. reproduced: the authors' code returns it. read: stands in their code or text.
    derived: their heads, joined by a rule of others. weak: nobody tested it."""
    how: str


@dataclass(frozen=True)
class Truth:
    """One published or certified circuit."""

    circuit: str
    variant: str
    about: str
    shape: Shape
    edges: frozenset[Edge]
    """Residual edges; empty where only nodes are known."""
    direct: frozenset[Edge]
    """Direct edges, which only ACDC counts."""
    listed: frozenset[str]
    """Nodes, where no edges are known."""
    alternatives: tuple[frozenset[Edge], ...]
    """Other sets of edges that are a circuit as well."""
    ablations: tuple[str, ...]
    """Ablations under which the edges are true."""
    condition: str
    """What the data must be like."""
    positions: Mapping[str, tuple[str, ...]]
    """Spans that matter, of a node, of a destination, or of an edge written `source->destination`."""
    classes: Mapping[str, tuple[str, ...]]
    evidence: Evidence
    sources: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]
    rule: str | None = None

    @property
    def name(self) -> str:
        """How tables cite it."""
        return f"{self.circuit}/{self.variant}"

    @property
    def granularity(self) -> Granularity:
        return "edge" if self.edges else "node"

    @property
    def nodes(self) -> frozenset[str]:
        """The ends of its edges, with q, k and v apart from the output of a head; an MLP is one node whether it reads or writes."""
        return frozenset(end for edge in self.edges for end in edge) | self.listed

    @property
    def heads(self) -> frozenset[str]:
        """Its attention heads."""
        return frozenset(name for name in self.nodes if parse(name).kind == "head")

    def without_mlps(self) -> "Truth":
        """The edges with no MLP at either end: of the 963 of indirect object identification, the 183 that an experiment speaks for."""
        sets = tuple(frozenset(edge for edge in edges if not touches_mlp(edge)) for edges in (self.edges, *self.alternatives))
        return replace(self, edges=sets[0], alternatives=sets[1:])

    def require(self, ablation: str | None) -> None:
        """Raises InputError for a method that ran under an ablation this truth says nothing about; None: the method ablates nothing."""
        if ablation is None or ablation in self.ablations:
            return
        allowed = " or ".join(self.ablations) or "no ablation at all"
        known = "" if ablation in ABLATIONS else f" (ablations are {', '.join(ABLATIONS)})"
        raise InputError(
            f"{self.name} is the circuit under {allowed}, not under {ablation!r}{known}: its edges need not matter there; "
            f"run the method under {allowed}, or load another variant: {', '.join(variants(self.circuit, ablation)) or 'there is none'}"
        )


def folder() -> Path:
    """Where the files are: in a checkout, or in the data of an installed wheel."""
    checkout = Path(__file__).resolve().parents[2] / "data" / "circuits"
    return checkout if checkout.is_dir() else Path(sysconfig.get_path("data")) / "share" / "interp-workbench" / "circuits"


def circuits() -> tuple[str, ...]:
    """Names that `load` knows."""
    return tuple(sorted(path.stem for path in folder().glob("*.json")))


def variants(circuit: str, ablation: str | None = None) -> tuple[str, ...]:
    """The variants of a circuit, the default first; only those true under an ablation, where one is given."""
    record = _record(circuit)
    names = sorted(record["variants"], key=lambda name: name != record["default"])
    return tuple(name for name in names if ablation is None or ablation in record["variants"][name]["ablations"])


def load(circuit: str, variant: str | None = None) -> Truth:
    """A published circuit; raises InputError for a name or a variant that does not exist."""
    record = _record(circuit)
    chosen = str(variant or record["default"])
    if chosen not in record["variants"]:
        raise InputError(f"{circuit} has no variant {variant!r}; there are {', '.join(record['variants'])}")
    model, fields = record["model"], record["variants"][chosen]
    shape = Shape(*(model[name] for name in ("n_layers", "n_heads", "n_kv_heads", "mlps", "positions_apart")))
    return Truth(
        circuit=circuit,
        variant=chosen,
        about=fields["about"],
        shape=shape,
        edges=_edges(fields.get("edges", {})),
        direct=frozenset((name, name) for name in fields.get("direct", "").split()),
        listed=frozenset(fields.get("nodes", "").split()),
        alternatives=tuple(_edges(edges) for edges in fields["alternatives"]),
        ablations=tuple(fields["ablations"]),
        condition=fields["condition"],
        positions={name: tuple(spans) for name, spans in fields.get("positions", {}).items()},
        classes={name: tuple(members.split()) for name, members in fields.get("classes", {}).items()},
        evidence=Evidence(**fields["evidence"]),
        sources=tuple(fields["sources"]),
        notes=tuple(fields.get("notes", ())),
        rule=fields["rule"]["name"] if "rule" in fields else None,
    )


def rebuilt(truth: Truth) -> frozenset[Edge]:
    """The edges as its rule gives them; raises InputError where it has none."""
    if truth.rule is None:
        raise InputError(f"{truth.name} is a list without a rule; those with one: {', '.join(RULES)}")
    return RULES[truth.rule](truth.classes, truth.shape)


def _edges(by_destination: Mapping[str, str]) -> frozenset[Edge]:
    return frozenset((source, to) for to, sources in by_destination.items() for source in sources.split())


def _record(circuit: str) -> dict[str, Any]:
    path = folder() / f"{circuit}.json"
    if circuit not in circuits():
        raise InputError(f"{circuit!r} is no known circuit; there are {', '.join(circuits())}")
    record = json.loads(path.read_text())
    if record["schema"] != SCHEMA:
        raise InputError(f"{path.name} has schema {record['schema']}, this version reads {SCHEMA}; take the file of this version")
    return record
