"""What a training says about itself: its rows of metrics, and a warning with advice when something goes wrong."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from interp.runs import written
from saes.architectures import CrossLayerDictionary, Module
from saes.train import Row

# Before this share of the steps has passed, latents are still finding their place.
SETTLED = 0.3
DEAD, DENSE = 0.1, 0.02


@dataclass(frozen=True, eq=False)
class Log:
    """Rows of metrics: a line of JSON each while training, a tidy table afterwards."""

    path: Path
    rows: list[dict[str, int | float]]

    @staticmethod
    def open(path: Path, steps: int, resumed: int) -> "Log":
        """Begin, or keep the rows up to the step resumed from; a last line cut short is dropped."""
        rows = []
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        rows = [row for row in rows if row["step"] <= resumed]
        with written(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in ({"steps": steps}, *rows)))
        return Log(path, rows)

    def append(self, row: Row, rate: float) -> None:
        """Add a row; the file is there for whoever watches."""
        self.rows.append({"step": row.step, "tokens": row.tokens, **row.metrics, "tokens_per_s": round(rate, 1)})
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")

    def table(self) -> pa.Table:
        """step, tokens, name, value; the speed stays out, so that equal trainings give equal files."""
        names = [name for name in self.rows[0] if name not in ("step", "tokens", "tokens_per_s")]
        flat = [(int(row["step"]), int(row["tokens"]), name, row[name]) for row in self.rows for name in names]
        steps, tokens, labels, values = zip(*flat, strict=True)
        columns = [
            pa.array(steps, pa.int64()),
            pa.array(tokens, pa.int64()),
            pa.array(labels).dictionary_encode(),
            pa.array(values, pa.float32()),
        ]
        return pa.table(columns, names=["step", "tokens", "name", "value"])


def warnings(row: Row, steps: int, said: set[str]) -> list[str]:
    """What is wrong and what to do about it, each said once in a training."""
    if row.step < SETTLED * steps:
        return []
    found = {
        "dead": (row.metrics["dead_share"] > DEAD, f"{row.metrics['dead_share']:.0%} of the latents are dead: lower --lr, raise"
                 " --aux-coefficient, train on more tokens or take fewer latents (--width)"),
        "dense": (row.metrics["dense_share"] > DENSE, f"{row.metrics['dense_share']:.1%} of the latents fire on over a tenth of the tokens:"
                  " take a smaller k, or look at them first (`interp describe`, sorted by density)"),
    }  # fmt: skip
    new = {name: sentence for name, (wrong, sentence) in found.items() if wrong and name not in said}
    said.update(new)
    return list(new.values())


def span(values: Iterable[float]) -> str:
    """One value, or the smallest and the largest."""
    ordered = sorted(values)
    if not ordered:
        return "–"
    low, high = f"{ordered[0]:.3g}", f"{ordered[-1]:.3g}"
    return low if low == high else f"{low}–{high}"


def thresholds(dictionary: Module) -> dict[str, float]:
    """Deciles of the thresholds of a dictionary that has them, in the units it was trained in."""
    layers = dictionary.each() if isinstance(dictionary, CrossLayerDictionary) else [dictionary]
    found = [layer.get_parameter("threshold").detach() for layer in layers if hasattr(layer, "threshold")]
    if not found:
        return {}
    values = torch.cat(found).quantile(torch.tensor([0.1, 0.5, 0.9], device=found[0].device))
    return {f"threshold_p{name}": float(value) for name, value in zip((10, 50, 90), values, strict=True)}
