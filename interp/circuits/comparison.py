"""Two circuits of one model: which units they share, whether scores agree, and which does better on the same prompts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import hypergeom, rankdata

from interp.circuits.audit import pearson
from interp.circuits.hypotheses import paired
from saes.errors import InputError

# Units of each list that are named in the summary; units.parquet has all.
NAMED = 10
# What two runs must have alike, from their configs: otherwise their metrics are no numbers of one kind.
ALIKE = ("model", "model_revision", "dtype", "kv", "ablation", "objective", "bos")


@dataclass(frozen=True)
class Side:
    """One circuit run, as its files have it."""

    name: str
    config: dict[str, Any]
    unit: str
    scores: dict[str, float]
    """Of every node or edge."""
    circuit: frozenset[str]
    """Those in view."""
    prompts: tuple[tuple[Any, ...], ...]
    """Clean, corrupt and answers of the prompts that circuits are measured on."""
    examples: list[dict[str, Any]]
    """The metric on each of them."""


def require_alike(a: Side, b: Side) -> None:
    """Raises InputError, in one sentence, for runs that cannot be held against each other."""
    if a.name == b.name:
        raise InputError(f"{a.name} was given twice; give two circuit runs")
    for field in ALIKE:
        own, other = a.config.get(field), b.config.get(field)
        if own != other:
            raise InputError(f"{a.name} has {field} {own} and {b.name} has {other}; give both one --{_option(field)}")
    if a.unit != b.unit or a.scores.keys() != b.scores.keys():
        raise InputError(
            f"{a.name} scores {len(a.scores):,} {a.unit}s and {b.name} {len(b.scores):,} {b.unit}s, which are two graphs; "
            "give two runs of methods that score the same units"
        )
    if a.prompts != b.prompts:
        raise InputError(
            f"{a.name} and {b.name} were measured on different prompts; make both with the same task, --pairs, --reference, --seed, "
            "--corruption and --options"
        )


def unit_rows(a: Side, b: Side) -> list[dict[str, Any]]:
    """Rows of units.parquet: every unit with both scores, and which circuits it is in."""
    return [
        {"unit": name, "score_a": score, "score_b": b.scores[name], "in_a": name in a.circuit, "in_b": name in b.circuit}
        for name, score in a.scores.items()
    ]


def example_rows(a: Side, b: Side) -> list[dict[str, Any]]:
    """Rows of examples.parquet: the metric of the whole model and of both circuits on each prompt."""
    return [
        {"pair": own["pair"], "clean": own["clean"], "ablated": own["ablated"], "circuit_a": own["circuit"], "circuit_b": other["circuit"]}
        for own, other in zip(a.examples, b.examples, strict=True)
    ]


def figures(a: Side, b: Side) -> dict[str, Any]:
    """The summary. `p_shared`: that two circuits drawn at random share so many units; the difference is a - b, with a 95 % interval."""
    shared, only_a, only_b = a.circuit & b.circuit, a.circuit - b.circuit, b.circuit - a.circuit
    n, worth = len(a.scores), {name: max(abs(a.scores[name]), abs(b.scores[name])) for name in a.scores}
    first, second = (np.array([side.scores[name] for name in a.scores]) for side in (a, b))
    metric_a, metric_b = (np.array([row["circuit"] for row in side.examples]) for side in (a, b))
    clean, ablated = (float(np.mean([row[name] for row in a.examples])) for name in ("clean", "ablated"))
    test = paired(metric_a, metric_b)

    def named(units: frozenset[str]) -> list[str]:
        return sorted(units, key=lambda name: (-worth[name], name))[:NAMED]

    return {
        "unit": a.unit,
        "size_a": len(a.circuit),
        "size_b": len(b.circuit),
        "shared": len(shared),
        "only_a": len(only_a),
        "only_b": len(only_b),
        "jaccard": len(shared) / len(a.circuit | b.circuit),
        "shared_by_chance": len(a.circuit) * len(b.circuit) / n,
        "p_shared": float(hypergeom.sf(len(shared) - 1, n, len(a.circuit), len(b.circuit))),
        "spearman": pearson(rankdata(first), rankdata(second)),
        "pearson": pearson(first, second),
        "faithfulness_a": (float(metric_a.mean()) - ablated) / (clean - ablated),
        "faithfulness_b": (float(metric_b.mean()) - ablated) / (clean - ablated),
        "prompts": len(metric_a),
        "difference": test.difference,
        "difference_low": test.low,
        "difference_high": test.high,
        "p_difference_t": test.p_t,
        "p_difference_flip": test.p_flip,
        "units_shared": named(shared),
        "units_only_a": named(only_a),
        "units_only_b": named(only_b),
    }


def _option(field: str) -> str:
    return "model" if field == "model_revision" else field
