"""What ablated sources write instead of their own output, and the outputs that they replace.

resample    the activation of the pair's own corrupt prompt
mean        the mean activation of corrupt prompts at the same position, over prompts of the same group (same words there)
mean_all    the mean activation of corrupt prompts over all positions
zero        nothing
optimal     a constant trained to do least harm (`interp.circuits.optimal`)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.graph import Graph
from interp.hooks import record
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Pairs
from saes.errors import InputError

Ablation = Literal["resample", "mean", "mean_all", "zero", "optimal"]
# Reference prompts recorded at once: every stream of every layer is held, so fewer.
MEAN_ROWS = 32
# Relative error of the sum of all sources against the last residual stream.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of all sources as they are recorded: heads before W_O, where a layer takes d_model numbers a token and not as many a head."""

    embed: Float[Tensor, "embedding pair pos d_model"]
    z: tuple[Float[Tensor, "pair pos head d_head"], ...]
    mlp: tuple[Float[Tensor, "pair pos d_model"], ...]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Outputs":
        """Every tensor changed, pairs and positions in front."""
        embed = change(self.embed.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
        return Outputs(embed, tuple(map(change, self.z)), tuple(map(change, self.mlp)))

    def rows(self, which: slice | Sequence[int]) -> "Outputs":
        """Those of some pairs."""
        return self.each(lambda tensor: tensor[which])

    def minus(self, other: "Outputs") -> "Outputs":
        """The difference, source by source."""
        pairs = (zip(mine, others, strict=True) for mine, others in ((self.z, other.z), (self.mlp, other.mlp)))
        z, mlp = (tuple(a - b for a, b in each) for each in pairs)
        return Outputs(self.embed - other.embed, z, mlp)

    def written(self, model: Model, graph: Graph, first: int = 0, last: int | None = None) -> Float[Tensor, "source pair pos d_model"]:
        """What the sources add to the residual stream: embeddings, and the nodes of layers `first` to `last` (not included)."""
        parts = [self.embed] if first == 0 else []
        for layer in range(first, graph.n_layers if last is None else last):
            parts.append(torch.einsum("bphd,hde->hbpe", self.z[layer], model.w_o(layer)))
            parts += [self.mlp[layer][None]] if graph.mlps else []
        return torch.cat(parts)


def outputs(model: Model, graph: Graph, tokens: Tensor) -> Outputs:
    """What every source writes on these tokens.

    Raises InputError for a model whose residual stream is not the sum of its sources (norms after attention or MLP, scaled residuals).
    """
    layers = range(graph.n_layers)
    written = [Site(layer, stream) for layer in layers for stream in (("z", "mlp_out") if graph.mlps else ("z",))]
    return seen(model, graph, record(model, tokens, [Site(0, "resid_pre"), *written, Site(graph.n_layers - 1, "resid_post")]))


def seen(model: Model, graph: Graph, found: Mapping[Site, Tensor]) -> Outputs:
    """Outputs from activations that a run has recorded: the first resid_pre, the last resid_post, every z and mlp_out.

    Raises InputError as `outputs` does; one prompt is enough to tell.
    """
    layers, resid, last = range(graph.n_layers), found[Site(0, "resid_pre")], found[Site(graph.n_layers - 1, "resid_post")][:1]
    z = tuple(found[Site(layer, "z")] for layer in layers)
    mlp = tuple(found[Site(layer, "mlp_out")] for layer in layers) if graph.mlps else ()
    total = resid[:1] + sum(_attention(model, layer, z[layer][:1]) for layer in layers) + sum(one[:1] for one in mlp)
    off = float((total - last).abs().amax() / last.abs().amax())
    if not off <= TOLERANCE[model.dtype]:
        raise InputError(
            f"the heads and MLPs of {model.name} add up to its residual stream within {off:.1%} only: a norm, a scale or a codebook "
            "stands behind them (Gemma 2, OLMo 2, Granite), so edges are not defined; use a model that only adds, such as --model smollm2"
        )
    return Outputs(_embeddings(model, graph, resid), z, mlp)


def replacement(model: Model, graph: Graph, pairs: Pairs, ablation: Ablation, reference: Pairs | None = None) -> Outputs:
    """What ablated sources write for each pair; the means are taken over the corrupt prompts of `reference`.

    Raises InputError when a group of pairs has no reference prompt.
    """
    corrupt = outputs(model, graph, pairs.corrupt)
    if ablation == "resample":
        return corrupt
    if ablation == "zero":
        return corrupt.each(torch.zeros_like)
    assert ablation != "optimal", "optimal constants are trained: call interp.circuits.optimal"
    assert reference is not None, f"{ablation} ablation needs reference prompts"
    return _means(model, graph, pairs, reference, ablation).each(lambda tensor: tensor.to(model.dtype))


def _means(model: Model, graph: Graph, pairs: Pairs, reference: Pairs, ablation: Ablation) -> Outputs:
    weights = _by_group(pairs, reference) if ablation == "mean" else torch.full((len(pairs), len(reference)), 1 / len(reference))
    width = pairs.clean.shape[1]
    total: Outputs | None = None
    for part in torch.arange(len(reference)).split(MEAN_ROWS):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        some = reference.rows(rows)
        share, real = weights[:, rows].to(some.clean.device), some.real()

        def mean(tensor: Tensor, share: Tensor = share, real: Tensor = real) -> Tensor:
            tensor = tensor.double()
            if ablation == "mean":
                return torch.einsum("pr,r...->p...", share.double(), tensor)
            over = (tensor * (real / real.sum(1, keepdim=True)).reshape(*real.shape, *[1] * (tensor.ndim - 2))).sum(1)
            return torch.einsum("pr,r...->p...", share.double(), over)[:, None].expand(-1, width, *tensor.shape[2:])

        found = outputs(model, graph, some.corrupt).each(mean)
        total = found if total is None else total.minus(found.each(torch.neg))
    assert total is not None
    return total


def _by_group(pairs: Pairs, reference: Pairs) -> Float[Tensor, "pair reference"]:
    same = (pairs.group[:, None] == reference.group).float()
    if not bool(same.any(1).all()):
        raise InputError(f"{len(reference)} reference prompts leave a group of pairs without a mean; use --reference {4 * len(reference)}")
    return same / same.sum(1, keepdim=True)


def _attention(model: Model, layer: int, z: Float[Tensor, "pair pos head d_head"]) -> Float[Tensor, "pair pos d_model"]:
    out, bias = torch.einsum("bphd,hde->bpe", z, model.w_o(layer)), model.b_o(layer)
    return out if bias is None else out + bias


def _embeddings(model: Model, graph: Graph, resid: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, "embedding pair pos d_model"]:
    if not graph.pos:
        return resid[None]
    positions = model.w_pos()[: resid.shape[1]].expand_as(resid)
    return torch.stack((resid - positions, positions))
