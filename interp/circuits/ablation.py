"""The masked forward: the metric of many circuits on the same prompts, in batches. Exact patching and every curve run on it.

A row is one circuit on one pair. At each stream the kept nodes hold what the row itself computes and the ablated ones a replacement:

    resample    the activation of the pair's own corrupt prompt
    mean        the mean activation of corrupt prompts at the same position, over prompts of the same group (same words there)

A row starts at the layer of its first ablated node, from the clean residual stream that was recorded once, and stops at the last residual;
only the positions that the metric reads are unembedded.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from interp.circuits.graph import Graph
from interp.hooks import Edit, patched, record
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Pairs, Task
from saes.errors import InputError

Ablation = Literal["resample", "mean"]
Activations = Mapping[Site, Float[Tensor, "pair pos *dims"]]
# Rows of one batch: enough to fill the matrix products, small enough for 100 MB of activations at 16 tokens and d_model 576.
ROWS = 160
# Reference prompts recorded at once: every stream of every layer is held, so fewer.
MEAN_ROWS = 32


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


def resample(model: Model, graph: Graph, pairs: Pairs) -> Activations:
    """Each pair's own corrupt activations."""
    return record(model, pairs.corrupt, graph.streams())


def mean(model: Model, graph: Graph, pairs: Pairs, reference: Pairs) -> Activations:
    """Position by position, the mean corrupt activation of the reference prompts in the pair's group.

    Raises InputError when a group has no reference prompt.
    """
    same = (pairs.group[:, None] == reference.group).float()
    if not bool(same.any(1).all()):
        raise InputError(f"{len(reference)} reference prompts leave a group of pairs without a mean; use --reference {4 * len(reference)}")
    weights = same / same.sum(1, keepdim=True)
    total: dict[Site, Tensor] = {}
    for part in torch.arange(len(reference)).split(MEAN_ROWS):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        for site, corrupt in record(model, reference.corrupt[rows], graph.streams()).items():
            share = torch.einsum("pr,r...->p...", weights[:, rows], corrupt.float())
            total[site] = total[site] + share if site in total else share
    return {site: activation.to(model.dtype) for site, activation in total.items()}


def ablated_metric(
    model: Model,
    task: Task,
    pairs: Pairs,
    graph: Graph,
    kept: Bool[Tensor, "circuit node"],
    replacement: Activations,
    progress: "tqdm[Any] | None" = None,
) -> Float[Tensor, "circuit pair"]:
    """The metric of each circuit: nodes of the graph that a row of `kept` leaves out hold their replacement at every position.

    `progress` advances by the passes that `passes` counts.
    """
    # A circuit that keeps every node has no first ablated layer: it starts at the last.
    starts = first_layers(graph, kept).clamp(max=graph.n_layers - 1)
    clean = record(model, pairs.clean, [Site(layer, "resid_pre") for layer in starts.unique().tolist()])
    result = torch.empty(len(kept), len(pairs))
    with torch.no_grad():
        for start, batch in _batches(starts, max(1, ROWS // len(pairs))):
            resid = clean[Site(start, "resid_pre")].repeat(len(batch), 1, 1)
            with patched(model, _edits(graph, kept[batch].to(resid.device), replacement, start)):
                logits = logits_at(model, lambda start=start, resid=resid: model.forward_from(start, resid), pairs.read)
            result[batch] = task.metric(logits, pairs).to(result)
            if progress is not None:
                progress.update(passes(graph, kept[batch]))
    return result


def first_layers(graph: Graph, kept: Bool[Tensor, "circuit node"]) -> Int[Tensor, " circuit"]:
    """The layer of each circuit's first ablated node; `n_layers` when all nodes are kept."""
    layers = torch.tensor([node.site.layer for node in graph.nodes])
    return torch.where(kept, graph.n_layers, layers).amin(1)


def passes(graph: Graph, kept: Bool[Tensor, "circuit node"]) -> float:
    """What the circuits cost, in forwards of all layers over all pairs."""
    return float((graph.n_layers - first_layers(graph, kept)).clamp(min=1).sum() / graph.n_layers)


def _batches(starts: Int[Tensor, " circuit"], size: int) -> Iterator[tuple[int, Int[Tensor, " part"]]]:
    """Circuits of one start layer together, `size` at a time."""
    for layer in starts.unique().tolist():
        for batch in (starts == layer).nonzero().flatten().split(size):
            yield layer, batch


def _edits(graph: Graph, kept: Bool[Tensor, "circuit node"], replacement: Activations, start: int) -> dict[Site, Edit]:
    """Edits of the streams from `start` on in which some circuit ablates a node."""
    parts = {site: _parts(graph, kept, site, replacement[site]) for site in graph.streams() if site.layer >= start}
    return {site: _edit(part, replacement[site]) for site, part in parts.items() if not bool(part.all())}


def _parts(graph: Graph, kept: Bool[Tensor, "circuit node"], site: Site, replacement: Tensor) -> Bool[Tensor, "circuit part"]:
    """Which parts of a stream are kept: every head of `z`, those that are no node of the graph too, or all of a stream without heads."""
    columns = graph.columns(site)
    if replacement.ndim < 4:
        return kept[:, columns]
    parts = kept.new_ones(len(kept), replacement.shape[2])
    parts[:, [graph.nodes[column].site.head for column in columns.tolist()]] = kept[:, columns]
    return parts


def _edit(kept: Bool[Tensor, "circuit part"], replacement: Float[Tensor, "pair pos *dims"]) -> Edit:
    def edit(activation: Float[Tensor, "row pos *dims"]) -> Float[Tensor, "row pos *dims"]:
        rows = activation.unflatten(0, (len(kept), -1))
        # [circuit, pair, pos, head, 1] for z, [circuit, pair, pos, 1] for mlp_out, whose only part broadcasts over d_model
        mask = kept[:, None, None, :, None] if replacement.ndim == 4 else kept[:, None, None, :]
        return torch.where(mask, rows, replacement).flatten(0, 1)

    return edit
