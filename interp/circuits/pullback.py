"""Gradients of the metric at what destinations read, on the unmodified model: one forward and one backward for all of them.

With residual x, norm weight w, r = sqrt(mean(x^2) + eps) and xh = x / r (LayerNorm: x less its mean first), the gradient p at the
normalised input becomes, with b = w * p,

    RMSNorm    G = (b - xh * mean(b * xh)) / r
    LayerNorm  G = (b - mean(b) - xh * mean(b * xh)) / r

p is W_Q g_q for a query, likewise for keys and values, and what reaches `mlp_in` for the MLP, so neither split inputs nor results of single
heads are needed. Keys and values of single query heads follow from g_z, the pattern A and the rotation R that the model gives keys:

    g_v = A^T g_z      dS = A * (dA - sum_j dA * A) * scale, dA = g_z v^T      g_k = R^T (dS^T (R q))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.forward import logits_at
from interp.circuits.graph import Graph
from interp.models.bridge import Hook, Model
from interp.sites import Site
from interp.tasks import Pairs, Task
from saes.errors import InputError

# Relative error of identities that hold exactly in exact numbers; RMSNorm of transformers computes in float32 whatever the model's type.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
# Below this the slope of a metric is the rounding of its two sides.
FLAT = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-4}


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm as the formula above has it: measured from the module, whatever it calls its parameters."""

    centred: bool
    eps: float | None
    """None: there is no norm."""
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]

    def normalised(self, x: Float[Tensor, "*batch d_model"]) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch 1"]]:
        """xh and 1 / r."""
        if self.eps is None:
            return x, torch.ones_like(x[..., :1])
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        inverse = (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return x * inverse, inverse


# Weights never change, so a norm is measured once; a model that nobody uses any more is not kept for it.
_MEASURED: WeakKeyDictionary[Model, dict[Site, Norm]] = WeakKeyDictionary()


def measured(model: Model, site: Site) -> Norm:
    """The norm in front of a site; raises InputError when it is neither RMSNorm, LayerNorm nor none."""
    known = _MEASURED.setdefault(model, {})
    if site not in known:
        known[site] = _measure(model, site)
    return known[site]


def _measure(model: Model, site: Site) -> Norm:
    rng = torch.Generator().manual_seed(0)
    probe, other = (torch.randn(1, model.d_model, generator=rng, dtype=torch.float64) + 0.5 for _ in range(2))
    probe, other = (x.to(model.device, model.dtype) for x in (probe, other))
    up, down, seen = (model.norm(site, x) for x in (probe, -probe, other))
    bias = ((up + down) / 2)[0]
    for centred, eps in ((False, None), (False, model.eps), (True, model.eps)):
        bare = Norm(centred, eps, torch.ones_like(bias), torch.zeros_like(bias))
        weight = torch.ones_like(bias) if eps is None else ((up - bias) / bare.normalised(probe)[0])[0]
        found = Norm(centred, eps, weight, bias)
        if torch.allclose(found.normalised(other)[0] * weight + bias, seen, rtol=1e-3, atol=TOLERANCE[model.dtype] / 10):
            return found
    raise InputError(
        f"the norm in front of {site} of {model.name} is neither RMSNorm nor LayerNorm; use a method without gradients, such as exact"
    )


@dataclass(frozen=True, eq=False)
class Backward:
    """Activations and gradients of one forward and backward over rows of pairs."""

    values: Mapping[Site, Tensor]
    gradients: Mapping[Site, Tensor]
    metric: Float[Tensor, " row"]


def backward(
    model: Model,
    task: Task,
    pairs: Pairs,
    graph: Graph,
    resid: Float[Tensor, "row pos d_model"] | None = None,
    hooks: Mapping[Site, Hook] | None = None,
) -> Backward:
    """Run the clean prompts, or the residual streams that enter layer 0, and pull the metric of each row back to all sites of the graph.

    `resid` holds rows [run * pair]. Raises InputError where the metric has no slope at the clean prompts; along a path that is an answer:
    a source that changes nothing leaves the metric where it is best.
    """
    values: dict[Site, Tensor] = {}
    wanted = _sites(graph)
    seen_too = [Site(layer, "pattern") for layer in range(graph.n_layers)] if graph.n_kv != model.n_kv_heads else []
    own = dict(hooks or {})

    def see(site: Site) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            changed = own[site](activation) if site in own else None
            activation = activation if changed is None else changed
            if site == Site(0, "resid_pre") and not activation.requires_grad:
                activation = activation.detach().requires_grad_()
            if site.stream == "mlp_in":
                # Where there is no norm this is the residual stream itself, whose gradient is that of all its readers.
                activation = activation.view_as(activation)
            values[site] = activation
            return activation

        return hook

    with torch.enable_grad(), model.hooked({site: see(site) for site in (*wanted, *seen_too, *(own.keys() - {*wanted, *seen_too}))}):
        run = (lambda: model(pairs.clean)) if resid is None else (lambda: model.forward_from(0, resid))
        metric = task.metric(logits_at(model, run, pairs.read), pairs).flatten()
        found = torch.autograd.grad(metric.sum(), [values[site] for site in wanted], allow_unused=True)
    gradients = {site: torch.zeros_like(values[site]) if g is None else g for site, g in zip(wanted, found, strict=True)}
    last = gradients[Site(graph.n_layers - 1, "resid_post")]
    if resid is None and not float(last.abs().max()) > FLAT[model.dtype]:
        raise InputError(
            "the metric has no slope at the clean prompts (KL to the model's own output is smallest there), so every first-order score is "
            "zero; use --method eap-ig, whose path leaves that point, or exact"
        )
    return Backward({site: value.detach() for site, value in values.items()}, gradients, metric.detach())


def _sites(graph: Graph) -> list[Site]:
    streams = ["resid_pre", "q", "k", "v", "z"]
    if graph.mlps:
        streams += ["mlp_in", "mlp_out"] if graph.parallel else ["resid_mid", "mlp_in", "mlp_out"]
    sites = [Site(layer, stream) for layer in range(graph.n_layers) for stream in streams]  # pyright: ignore[reportArgumentType]
    return [*sites, Site(graph.n_layers - 1, "resid_post")]


@dataclass(frozen=True)
class Reader:
    """Pulls gradients of a graph's destinations back to the residual stream, layer by layer."""

    model: Model
    graph: Graph
    frozen_norm: bool = False
    """Hold r constant: its slope is left out (RelP, and frozen-norm attribution)."""

    def __call__(self, back: Backward, layer: int, positions: slice) -> Float[Tensor, "destination row pos d_model"]:
        """G of the layer's queries, keys, values and MLP, at these positions."""
        resid = back.values[Site(layer, "resid_pre")][:, positions]
        norm = measured(self.model, Site(layer, "q"))
        normalised, inverse = norm.normalised(resid)
        parts = []
        for stream in ("q", "k", "v"):
            weight, bias = self.model.projection(layer, stream)
            gradient, value = self._heads(back, layer, stream, positions)
            if len(weight) != gradient.shape[2]:
                size = gradient.shape[2] // len(weight)
                weight, bias = weight.repeat_interleave(size, 0), None if bias is None else bias.repeat_interleave(size, 0)
            value = value if bias is None else value - bias
            parts.append(self._through(norm, gradient * inverse[:, :, None], value, weight, normalised))
        if self.graph.mlps:
            parts.append(self._mlp(back, layer, positions))
        return torch.cat(parts)

    def logits(self, back: Backward, positions: slice) -> Float[Tensor, "destination row pos d_model"]:
        """The gradient at the last residual stream."""
        return back.gradients[Site(self.graph.n_layers - 1, "resid_post")][None, :, positions]

    def _through(
        self, norm: Norm, gradient: Tensor, value: Tensor, weight: Tensor, normalised: Tensor
    ) -> Float[Tensor, "head row pos d_model"]:
        """G of heads: `gradient` is already divided by r. mean(b * xh) is <g, q - bias> / d_model, with the bias that the norm adds."""
        inward = weight * norm.weight[:, None]
        if norm.centred:
            inward = inward - inward.mean(1, keepdim=True)
        out = torch.einsum("bphd,hed->hbpe", gradient, inward)
        if norm.eps is None or self.frozen_norm:
            return out
        of_bias = torch.einsum("e,hed->hd", norm.bias, weight)
        slope = (gradient * (value - of_bias)).sum(-1) / self.model.d_model
        return out.addcmul_(normalised, slope.permute(2, 0, 1)[..., None], value=-1)

    def _mlp(self, back: Backward, layer: int, positions: slice) -> Float[Tensor, "one row pos d_model"]:
        stream = "resid_pre" if self.graph.parallel else "resid_mid"
        norm = measured(self.model, Site(layer, "mlp_in"))
        normalised, inverse = norm.normalised(back.values[Site(layer, stream)][:, positions])
        b = norm.weight * back.gradients[Site(layer, "mlp_in")][:, positions]
        if norm.centred:
            b = b - b.mean(-1, keepdim=True)
        if norm.eps is not None and not self.frozen_norm:
            b = b - normalised * (b * normalised).mean(-1, keepdim=True)
        return (b * inverse)[None]

    def _heads(self, back: Backward, layer: int, stream: str, positions: slice) -> tuple[Tensor, Tensor]:
        """Gradient and value of q, k or v, [row, pos, head, d_head], for each destination of the graph."""
        site = Site(layer, stream)  # pyright: ignore[reportArgumentType]
        gradient, value = back.gradients[site], back.values[site]
        if stream != "q" and self.graph.n_kv != value.shape[2]:
            gradient = self._per_query_head(back, layer, stream)
            value = value.repeat_interleave(self.graph.n_kv // value.shape[2], 2)
        return gradient[:, positions], value[:, positions]

    def _per_query_head(self, back: Backward, layer: int, stream: str) -> Float[Tensor, "row pos head d_head"]:
        size = self.graph.n_heads // self.model.n_kv_heads
        pattern, out = back.values[Site(layer, "pattern")], back.gradients[Site(layer, "z")]
        if stream == "v":
            found = torch.einsum("bhqk,bqhd->bkhd", pattern, out)
        else:
            value = back.values[Site(layer, "v")].repeat_interleave(size, 2)
            slope = torch.einsum("bqhd,bkhd->bhqk", out, value)
            scores = pattern * (slope - (slope * pattern).sum(-1, keepdim=True)) * self.model.score_scale
            query = back.values[Site(layer, "q")]
            turns = self.model.rotation(layer, query.shape[1])
            if turns is None:
                found = torch.einsum("bhqk,bqhd->bkhd", scores, query)
            else:
                turned = torch.einsum("bhqk,bqhd->bkhd", scores, torch.einsum("pij,bphj->bphi", turns, query))
                found = torch.einsum("pij,bphi->bphj", turns, turned)
        whole = back.gradients[Site(layer, stream)]  # pyright: ignore[reportArgumentType]
        off = float((found.unflatten(2, (-1, size)).sum(3) - whole).norm() / whole.norm().clamp(min=1e-30))
        if off > TOLERANCE[self.model.dtype] and bool(whole.any()):
            raise InputError(
                f"{stream} gradients of single query heads of {self.model.name} do not add up to their group's (off by {off:.1%}): "
                "its attention does more than rotate and scale (norms on queries, capped scores); use --kv grouped"
            )
        return found


def of_nodes(graph: Graph, away: Outputs, back: Backward) -> Float[Tensor, "row node"]:
    """<a - y, gradient at the output> of every head and MLP, for rows [run * pair]."""
    parts = []
    for layer in range(graph.n_layers):
        z = back.gradients[Site(layer, "z")].unflatten(0, (-1, len(away.z[layer])))
        parts.append((z * away.z[layer]).sum((2, 4)).flatten(0, 1))
        if graph.mlps:
            mlp = back.gradients[Site(layer, "mlp_out")].unflatten(0, (-1, len(away.mlp[layer])))
            parts.append((mlp * away.mlp[layer]).sum((2, 3)).flatten(0, 1)[:, None])
    return torch.cat(parts, 1)
