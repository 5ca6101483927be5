"""Scores and their audit in one safetensors file: a run that was interrupted goes on from them."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from interp.circuits.audit import Audit
from interp.circuits.graph import Graph, Scores, Unit
from interp.runs import written


def store(path: Path, scores: Scores, exact: Audit | None) -> None:
    """Write them; of edges without the scores of each example."""
    kept = {"mean": scores.mean, "deviation": scores.deviation, "agreement": scores.agreement}
    kept |= {} if scores.per_example is None or scores.unit == "edge" else {"per_example": scores.per_example}
    kept |= {} if exact is None else {"audited": exact.which, "exact": exact.per_example}
    kept |= {f"note_{name}": torch.tensor(value) for name, value in scores.notes.items()}
    with written(path) as aside:
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, aside)


def stored(path: Path, graph: Graph, unit: Unit, n: int) -> tuple[Scores, Audit | None]:
    """Read them back."""
    found = load_file(path)
    notes = {name.removeprefix("note_"): float(value) for name, value in found.items() if name.startswith("note_")}
    mean, deviation, agreeing = (found[name] for name in ("mean", "deviation", "agreement"))
    scores = Scores(graph, unit, mean, deviation, agreeing, n, found.get("per_example"), notes)
    return scores, Audit(found["audited"], found["exact"]) if "audited" in found else None
