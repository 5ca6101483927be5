"""The masked forward: the metric of many circuits on the same prompts, in batches. Patching, ACDC, every curve and mask training run on it.

A row is one circuit on one pair. Each destination t of a row reads, in place of the residual stream x,

    x_t = x + sum_u (1 - m_ut) (a_u - y_u)

x and the outputs y_u as the row itself computes them, a_u what replaces an ablated source, m the circuit's mask; the destination's norm is
recomputed. The model runs as it is: q, k and v of single heads, the input of the MLP and the last residual stream are edited through hooks.
Keys and values of single query heads, which a model with grouped queries does not have, take one copy of the row for each head of a group.

A row starts at the layer of its first cut, from the clean residual stream that was recorded once, and stops at the last residual; only
the positions that the metric reads are unembedded.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.graph import Graph
from interp.hooks import Edit, patched, record
from interp.models.bridge import Hook, Model
from interp.sites import Site
from interp.tasks import Pairs, Task

# Rows of one batch: enough to fill the matrix products, small enough for 100 MB of activations at 16 tokens and d_model 576.
ROWS = 160
# Bytes of what the sources of a batch write, each by itself.
SOURCE_BYTES = 400_000_000


class _Stop(Exception):
    """The last residual stream is known; unembedding all positions would be waste."""


def logits_at(model: Model, run: Callable[[], object], read: Int[Tensor, "pair read"]) -> Float[Tensor, "run pair read vocab"]:
    """Logits at the positions `read` of a forward of [run * pair] rows."""
    found: list[Tensor] = []

    def stop(resid: Tensor) -> None:
        found.append(resid.unflatten(0, (-1, len(read)))[:, torch.arange(len(read), device=read.device)[:, None], read])
        raise _Stop

    with model.hooked({Site(model.n_layers - 1, "resid_post"): stop}), contextlib.suppress(_Stop):
        run()
    return model.unembed(found[0])


def clean_metric(model: Model, task: Task, pairs: Pairs) -> Float[Tensor, " pair"]:
    """The metric of the whole model on the clean prompts."""
    with torch.no_grad():
        return task.metric(logits_at(model, lambda: model(pairs.clean), pairs.read), pairs)[0]


def corrupt_metric(model: Model, task: Task, pairs: Pairs) -> Float[Tensor, " pair"]:
    """The metric, answers as in the clean prompts, of the whole model on the corrupt prompts."""
    with torch.no_grad():
        return task.metric(logits_at(model, lambda: model(pairs.corrupt), pairs.read), pairs)[0]


def metrics(
    model: Model,
    task: Task,
    pairs: Pairs,
    graph: Graph,
    masks: Bool[Tensor, "circuit source destination"],
    values: Outputs,
    progress: "tqdm[Any] | None" = None,
) -> Float[Tensor, "circuit pair"]:
    """The metric of each circuit: where a mask leaves an edge out, its destination reads the source's replacement in `values`.

    `progress` advances by the passes that `passes` counts.
    """
    masks = masks | ~graph.valid
    result = torch.empty(len(masks), len(pairs), dtype=_precision(model))
    nodewise = of_nodes(graph, masks)
    with torch.no_grad():
        for run, which in ((_node_metrics, nodewise), (_edge_metrics, ~nodewise)):
            chosen = which.nonzero().flatten()
            if len(chosen):
                result[chosen] = run(model, task, pairs, graph, masks[chosen], values, progress).to(result)
    return result


def _precision(model: Model) -> torch.dtype:
    """Metrics are float32 at least."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def of_nodes(graph: Graph, masks: Bool[Tensor, "circuit source destination"]) -> Bool[Tensor, " circuit"]:
    """Which masks keep or ablate whole nodes; every embedding is kept."""
    whole = (masks | ~graph.valid).all(2)
    none = ~(masks & graph.valid).any(2)
    return (whole | none).all(1) & whole[:, : graph.n_embeddings].all(1)


def first_layers(graph: Graph, masks: Bool[Tensor, "circuit source destination"]) -> Int[Tensor, " circuit"]:
    """The layer of each circuit's first destination with a cut edge; `n_layers` when only edges into the logits are cut, or none."""
    cut = ~(masks | ~graph.valid).all(1)
    layers = torch.arange(cut.shape[1] - 1) // (graph.n_heads + 2 * graph.n_kv + graph.mlps)
    return torch.where(cut[:, :-1], layers, graph.n_layers).amin(1)


def passes(graph: Graph, masks: Bool[Tensor, "circuit source destination"]) -> float:
    """What the circuits cost, in forwards of all layers over all pairs."""
    return float((graph.n_layers - _starts(graph, masks)).sum() / graph.n_layers)


def _starts(graph: Graph, masks: Bool[Tensor, "circuit source destination"]) -> Int[Tensor, " circuit"]:
    """The layer a circuit is run from. Ablated nodes are edited where they write, one layer before most that read them."""
    starts = first_layers(graph, masks)
    per_layer = graph.n_heads + graph.mlps
    gone = ~(masks & graph.valid).any(2)[:, graph.n_embeddings :]
    written = torch.where(gone, torch.arange(gone.shape[1]) // per_layer, graph.n_layers).amin(1)
    return torch.where(of_nodes(graph, masks), written, starts).clamp(max=graph.n_layers - 1)


def _batches(starts: Int[Tensor, " circuit"], size: int) -> Iterator[tuple[int, Int[Tensor, " part"]]]:
    """Circuits of one start layer together, `size` at a time."""
    for layer in starts.unique().tolist():
        for batch in (starts == layer).nonzero().flatten().split(size):
            yield layer, batch


# ---- circuits of nodes: an ablated node's output is replaced where it is written


def _node_metrics(
    model: Model, task: Task, pairs: Pairs, graph: Graph, masks: Tensor, values: Outputs, progress: "tqdm[Any] | None"
) -> Float[Tensor, "circuit pair"]:
    kept = (masks & graph.valid).any(2)
    starts = _starts(graph, masks)
    clean = record(model, pairs.clean, [Site(layer, "resid_pre") for layer in starts.unique().tolist()])
    result = torch.empty(len(masks), len(pairs), device=pairs.clean.device, dtype=_precision(model))
    for start, batch in _batches(starts, max(1, ROWS // len(pairs))):
        resid = clean[Site(start, "resid_pre")].repeat(len(batch), 1, 1)
        with patched(model, _node_edits(graph, kept[batch].to(resid.device), values, start)):
            logits = logits_at(model, lambda start=start, resid=resid: model.forward_from(start, resid), pairs.read)
        result[batch] = task.metric(logits, pairs).to(result)
        if progress is not None:
            progress.update(passes(graph, masks[batch]))
    return result


def _node_edits(graph: Graph, kept: Bool[Tensor, "circuit source"], values: Outputs, start: int) -> dict[Site, Edit]:
    """Edits of z and mlp_out from layer `start` on where some circuit ablates a node."""
    edits = {}
    for layer in range(start, graph.n_layers):
        for site, value in ((Site(layer, "z"), values.z), (Site(layer, "mlp_out"), values.mlp)):
            own = kept[:, graph.rows(site)]
            if own.shape[1] and not bool(own.all()):
                edits[site] = _node_edit(own, value[layer])
    return edits


def _node_edit(kept: Bool[Tensor, "circuit part"], value: Float[Tensor, "pair pos *dims"]) -> Edit:
    def edit(activation: Float[Tensor, "row pos *dims"]) -> Float[Tensor, "row pos *dims"]:
        rows = activation.unflatten(0, (len(kept), -1))
        # [circuit, pair, pos, head, 1] for z, [circuit, pair, pos, 1] for mlp_out, whose only part broadcasts over d_model
        mask = kept[:, None, None, :, None] if value.ndim == 4 else kept[:, None, None, :]
        return torch.where(mask, rows, value).flatten(0, 1)

    return edit


# ---- circuits of edges: every destination has an input of its own


def _edge_metrics(
    model: Model, task: Task, pairs: Pairs, graph: Graph, masks: Tensor, values: Outputs, progress: "tqdm[Any] | None"
) -> Float[Tensor, "circuit pair"]:
    element = torch.empty(0, dtype=model.dtype).element_size()
    per_pair = len(graph.sources) * pairs.clean.shape[1] * model.d_model * element
    size = max(1, min(len(pairs), SOURCE_BYTES // per_pair))
    result = torch.empty(len(masks), len(pairs), device=pairs.clean.device, dtype=_precision(model))
    starts = _starts(graph, masks)
    for first in range(0, len(pairs), size):
        part = slice(first, first + size)
        some = pairs.rows(part)
        clean = cleanly(model, graph, some, values.rows(part), starts.unique().tolist())
        rows = max(1, min(ROWS // len(some), SOURCE_BYTES // (per_pair * len(some))))
        for start, batch in _batches(starts, rows):
            logits = edge_logits(model, graph, some, masks[batch].to(result), clean, start)
            result[batch, part] = task.metric(logits, some).to(result)
            if progress is not None:
                progress.update(passes(graph, masks[batch]) * len(some) / len(pairs))
    return result


@dataclass(frozen=True, eq=False)
class Clean:
    """The clean run of some pairs: where rows start, and how far its sources are from what replaces them."""

    resid: dict[int, Float[Tensor, "pair pos d_model"]]
    """The stream that enters each layer at which rows start."""
    difference: Float[Tensor, "source pair pos d_model"]
    """a_u - y_u of every source below the last of those layers."""
    values: Outputs


def cleanly(model: Model, graph: Graph, pairs: Pairs, values: Outputs, starts: list[int]) -> Clean:
    """Record the clean run for rows that start at these layers."""
    with torch.no_grad():
        own = outputs(model, graph, pairs.clean)
        difference = values.minus(own).written(model, graph, 0, max(starts))
        resid = record(model, pairs.clean, [Site(layer, "resid_pre") for layer in starts])
    return Clean({site.layer: stream for site, stream in resid.items()}, difference, values)


def edge_logits(
    model: Model, graph: Graph, pairs: Pairs, weights: Float[Tensor, "row source destination"], clean: Clean, start: int
) -> Float[Tensor, "row pair read vocab"]:
    """Logits of circuits whose edges carry the share `weights` of the source's own output; differentiable in the weights."""
    run = _EdgeRun(model, graph, weights.to(model.dtype), clean, start)
    with model.hooked(run.hooks()):
        resid = clean.resid[start].repeat(run.copies * len(weights), 1, 1)
        logits = logits_at(model, lambda: model.forward_from(start, resid), pairs.read)
    return logits[: len(weights)]


@dataclass(eq=False)
class _EdgeRun:
    """Hooks of one batch. State lives for one forward: the streams passed so far and what each source wrote."""

    model: Model
    graph: Graph
    weights: Float[Tensor, "row source destination"]
    clean: Clean
    start: int
    stream: Tensor = field(init=False)
    """Residual stream before the destination at hand, [row pair pos d_model]."""
    differences: list[Tensor] = field(init=False)
    """a_u - y_u, [row source pair pos d_model], in parts."""

    def __post_init__(self) -> None:
        self.differences = [self.clean.difference[: self.graph.first_source(self.start)].expand(len(self.weights), -1, -1, -1, -1)]

    @property
    def copies(self) -> int:
        """Copies of each row: one for every query head of a group whose keys and values are apart."""
        return self.graph.n_kv // self.model.n_kv_heads

    def hooks(self) -> dict[Site, Hook]:
        hooks: dict[Site, Hook] = {}
        for layer in range(self.start, self._last() + 1):
            hooks[Site(layer, "resid_pre")] = self._see
            for stream in ("q", "k", "v"):
                hooks[Site(layer, stream)] = self._read_by_heads(Site(layer, stream))
            hooks[Site(layer, "z")] = self._written_by_heads(layer)
            if self.graph.mlps:
                if not self.graph.parallel:
                    hooks[Site(layer, "resid_mid")] = self._see
                hooks[Site(layer, "mlp_in")] = self._read_by_mlp(Site(layer, "mlp_in"))
                hooks[Site(layer, "mlp_out")] = self._written_by_mlp(layer)
        if self._last() == self.graph.n_layers - 1:
            hooks[Site(self.graph.n_layers - 1, "resid_post")] = self._read_by_logits
        return hooks

    def _last(self) -> int:
        """The last layer in which a row has a cut edge; what later sources write need not be known."""
        if self.weights.requires_grad or bool((self.weights[:, :, -1] != 1).any()):
            return self.graph.n_layers - 1
        cut = (self.weights != 1).any(0).any(0)[:-1].unflatten(0, (self.graph.n_layers, -1)).any(1)
        return int(cut.nonzero().max()) if bool(cut.any()) else self.start

    def _see(self, resid: Tensor) -> None:
        self.stream = self._own(resid)

    def _own(self, activation: Tensor) -> Float[Tensor, "row pair pos *dims"]:
        """The first copy, rows and pairs apart."""
        return activation.unflatten(0, (self.copies, len(self.weights), -1))[0]

    def _inputs(self, site: Site) -> tuple[Float[Tensor, "row destination pair pos d_model"], Bool[Tensor, "row destination"]] | None:
        """What the destinations of a site read, and which read something else than the stream; None when none does."""
        columns = self.graph.columns(site)
        n = int(self.graph.reach[columns.start])
        cut = 1 - self.weights[:, :n, columns].transpose(1, 2)
        changed = (cut != 0).any(2)
        if not (cut.requires_grad or bool(changed.any())):
            return None
        written = torch.cat(self.differences, 1) if len(self.differences) > 1 else self.differences[0]
        self.differences = [written]
        moved = (cut @ written[:, :n].flatten(2)).unflatten(2, written.shape[2:])
        return self.stream[:, None] + moved, changed

    def _read_by_heads(self, site: Site) -> Hook:
        def hook(activation: Float[Tensor, "copy_row_pair pos head d_head"]) -> Tensor | None:
            given = self._inputs(site)
            if given is None:
                return None
            inputs, changed = given
            weight, bias = self.model.projection(site.layer, site.stream)
            if inputs.shape[1] != len(weight):
                weight, bias = (None if t is None else t.repeat_interleave(self.copies, 0) for t in (weight, bias))
            made = torch.einsum("rtbpe,ted->rbptd", self.model.norm(site, inputs), weight)
            made = made if bias is None else made + bias
            own = activation.unflatten(0, (self.copies, len(self.weights), -1))
            heads = activation.shape[2]
            # [copy, row, pair, pos, head, d_head]: copy c holds the key that the c-th query head of each group reads
            made = made.unflatten(3, (heads, -1)).movedim(4, 0)
            changed = changed.unflatten(1, (heads, -1)).movedim(2, 0)[:, :, None, None, :, None]
            return torch.where(changed, made.expand_as(own), own).flatten(0, 2)

        return hook

    def _written_by_heads(self, layer: int) -> Hook:
        def hook(z: Float[Tensor, "copy_row_pair pos head d_head"]) -> Tensor | None:
            copies, groups = self.copies, self.model.n_kv_heads
            if copies > 1:
                each = z.unflatten(0, (copies, len(self.weights), -1)).unflatten(4, (groups, copies))
                own = each.diagonal(dim1=0, dim2=5).movedim(-1, 4).flatten(3, 4)
            else:
                own = self._own(z)
            away = self.clean.values.z[layer] - own
            self.differences.append(torch.einsum("rbphd,hde->rhbpe", away, self.model.w_o(layer)))
            return own.expand(copies, *own.shape).flatten(0, 2) if copies > 1 else None

        return hook

    def _read_by_mlp(self, site: Site) -> Hook:
        def hook(activation: Tensor) -> Tensor | None:
            given = self._inputs(site)
            if given is None:
                return None
            inputs = self.model.norm(site, given[0][:, 0])
            own = torch.where(given[1][:, :, None, None], inputs, self._own(activation))
            return own.expand(self.copies, *own.shape).flatten(0, 2).reshape(activation.shape)

        return hook

    def _written_by_mlp(self, layer: int) -> Hook:
        def hook(out: Tensor) -> None:
            self.differences.append((self.clean.values.mlp[layer] - self._own(out))[:, None])

        return hook

    def _read_by_logits(self, resid: Tensor) -> Tensor | None:
        self._see(resid)
        given = self._inputs(Site(self.graph.n_layers - 1, "resid_post"))
        if given is None:
            return None
        return given[0].expand(-1, self.copies, -1, -1, -1).transpose(0, 1).reshape(resid.shape)
