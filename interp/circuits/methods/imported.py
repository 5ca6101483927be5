"""Scores that another program found, so that its circuit is measured by our curves and tests: EAP-IG and MIB graphs, ACDC's edges.

No forward is run. Programs differ in sign and files do not say theirs: here a negative score means that the edge helps (ablating it
lowers the metric), as EAP-IG writes when it is handed a metric where larger is better; ACDC's effects and scores of a loss are `flipped`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from interp.circuits.ablation import Outputs
from interp.circuits.exported import imported, on_graph
from interp.circuits.graph import Graph, Scores, Unit
from interp.models.bridge import Model
from interp.tasks import Pairs, Task
from saes.errors import InputError


@dataclass(frozen=True)
class Imported:
    """Scores of a file."""

    NAME: ClassVar[str] = "imported"
    ABOUT: ClassVar[str] = "takes the scores of a file"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "edge"

    path: str = ""
    """A JSON file: a graph as EAP-IG or MIB write it (also circuit.json of a run), or ACDC's list of edges."""
    flipped: bool = False
    """The file's sign is the other one: there a positive score means that the edge helps."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """The scores of the file, the same for each example; 0 for edges that it lacks."""
        mean, notes = on_graph(imported(self._file()), graph)
        return Scores(graph, "edge", -mean if self.flipped else mean, mean * 0, torch.ones_like(mean), len(pairs), notes=notes)

    def identity(self) -> dict[str, Any]:
        """What the scores depend on beyond the options: the content of the file."""
        return {"imported_sha256": hashlib.sha256(self._file().read_bytes()).hexdigest()}

    def _file(self) -> Path:
        if not self.path or not Path(self.path).is_file():
            raise InputError(
                f"--path {self.path or '(none)'} is no file; give the JSON of a graph, for example --method imported --path circuit.json"
            )
        return Path(self.path)
