"""Path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969): what a sender tells a receiver.

Two forwards for each sender. In the first the sender writes its corrupt output, all other heads are held at the clean run, MLPs are
recomputed or held as well, and what the receivers read is recorded. In the second, clean, only those readings are put in place.

    score(sender) = M(second run) - M(clean)

With MLPs held this is the exact patch of the edges from sender to receivers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.forward import clean_metric, logits_at
from interp.circuits.graph import Graph, Scores, Unit
from interp.hooks import Edit, patched
from interp.models.bridge import Hook, Model
from interp.progress import bar
from interp.sites import Node, Site
from interp.tasks import Pairs, Task
from saes.errors import InputError

# Rows of one forward.
ROWS = 128


@dataclass(frozen=True)
class PathPatching:
    """Score senders by what they tell some receivers."""

    NAME: ClassVar[str] = "path-patching"
    ABOUT: ClassVar[str] = "ablates what each node tells some receivers"
    EFFECTS: ClassVar[bool] = True
    UNIT: ClassVar[Unit] = "node"

    receivers: tuple[str, ...] = ("logits",)
    """logits, or queries, keys and values of heads: 23.0.q 23.1.q."""
    hold_mlps: bool = False
    """Hold MLPs at the clean run too, so that only the residual stream carries the message."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Change of the metric through the direct path from each node; 0 for nodes behind every receiver."""
        parts = _receivers(self.receivers, graph)
        own, clean = outputs(model, graph, pairs.clean), clean_metric(model, task, pairs)
        last = max(site.layer for site in parts)
        scores = torch.zeros(len(pairs), len(graph.nodes))
        senders = [(i, node) for i, node in enumerate(graph.nodes) if node.site.layer <= last]
        size = max(1, ROWS // len(pairs))
        with bar(len(senders), "senders", f"path patching to {' '.join(self.receivers)}") as progress:
            for first in range(0, len(senders), size):
                some = senders[first : first + size]
                metric = self._message(model, task, pairs, graph, [node for _, node in some], own, values, parts)
                scores[:, [i for i, _ in some]] = (metric - clean).T.float().cpu()
                progress.update(len(some))
        return Scores.of(graph, "node", scores)

    def _message(
        self,
        model: Model,
        task: Task,
        pairs: Pairs,
        graph: Graph,
        senders: list[Node],
        own: Outputs,
        values: Outputs,
        parts: dict[Site, list[int]],
    ) -> Tensor:
        """The metric [sender, pair] when only what the receivers read of each sender is corrupt."""
        heard: dict[Site, Tensor] = {}
        tokens = pairs.clean.repeat(len(senders), 1)
        hooks: dict[Site, Hook] = dict(_first(graph, senders, own, values, self.hold_mlps))
        hooks |= {site: lambda activation, site=site: heard.__setitem__(site, activation.clone()) for site in parts}
        with torch.no_grad(), model.hooked(hooks):
            if any(site.stream == "resid_post" for site in parts):
                return task.metric(logits_at(model, lambda: model(tokens), pairs.read), pairs)
            model(tokens)
        with torch.no_grad(), patched(model, {site: _hear(heard[site], heads) for site, heads in parts.items()}):
            return task.metric(logits_at(model, lambda: model(tokens), pairs.read), pairs)

    def passes(self, graph: Graph, n_pairs: int) -> float:
        """Forwards over the pairs: two a sender."""
        return 2.0 * len(graph.nodes)


def _receivers(names: tuple[str, ...], graph: Graph) -> dict[Site, list[int]]:
    """Sites of the receivers and the heads that listen there; raises InputError for an unknown name, or logits beside heads."""
    found: dict[Site, list[int]] = {}
    for name in names:
        if name not in graph.destinations or name.startswith("m") or (name == "logits" and len(names) > 1):
            raise InputError(f"{name!r} is no receiver here; give logits alone, or heads' inputs such as {graph.destinations[0]}")
        if name == "logits":
            return {Site(graph.n_layers - 1, "resid_post"): []}
        layer, part, stream = name.split(".")
        found.setdefault(Site(int(layer), stream), []).append(int(part.removeprefix("g")))  # pyright: ignore[reportArgumentType]
    return found


def _first(graph: Graph, senders: list[Node], own: Outputs, values: Outputs, hold_mlps: bool) -> dict[Site, Edit]:
    """Every head, and MLPs where they are held, at the clean run; each row's sender at its replacement."""
    edits: dict[Site, Edit] = {}
    for layer in range(graph.n_layers):
        z = own.z[layer].expand(len(senders), *own.z[layer].shape).clone()
        mlp = own.mlp[layer].expand(len(senders), *own.mlp[layer].shape).clone() if graph.mlps else None
        sends = False
        for row, node in enumerate(senders):
            if node.site.layer == layer and node.site.head is not None:
                z[row, :, :, node.site.head] = values.z[layer][:, :, node.site.head]
            elif node.site.layer == layer and mlp is not None:
                mlp[row], sends = values.mlp[layer], True
        edits[Site(layer, "z")] = _fixed(z.flatten(0, 1))
        if mlp is not None and hold_mlps:
            edits[Site(layer, "mlp_out")] = _fixed(mlp.flatten(0, 1))
        elif mlp is not None and sends:
            rows = torch.tensor([node.site == Site(layer, "mlp_out") for node in senders], device=mlp.device)
            edits[Site(layer, "mlp_out")] = _some(mlp, rows)
    return edits


def _fixed(value: Tensor) -> Edit:
    return lambda activation: value


def _some(value: Tensor, rows: Tensor) -> Callable[[Tensor], Tensor]:
    def edit(activation: Tensor) -> Tensor:
        own = activation.unflatten(0, (len(rows), -1))
        return torch.where(rows[:, None, None, None], value, own).flatten(0, 1)

    return edit


def _hear(heard: Tensor, heads: list[int]) -> Edit:
    def edit(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[:, :, heads] = heard[:, :, heads]
        return changed

    return edit
