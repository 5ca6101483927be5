"""Circuits of latents: the latents of a dictionary at a site, and its error, as nodes that are kept or ablated.

With x the activation, z = E(x) its code, D(z) = b + sum_i z_i d_i and the error e = x - D(z), a circuit m runs the model with

    x_m = D(m z + (1 - m) a) + m_e e + (1 - m_e) a_e

at every position, and a, a_e what replaces them: code and error of the corrupt prompt (resample), their means over the corrupt prompts of
the pair's group at that position (mean), or nothing (zero). All latents and the error are the clean run, whatever the dictionary. The
score of a latent is the first-order change of the metric when it alone is ablated (sparse feature circuits, Marks et al. 2024, arXiv
2403.19647, equations 2 to 4),

    s_i = sum_pos <g, d_i> (a_i - z_i)        s_e = sum_pos <g, a_e - e>

with g the gradient of the metric at x, or its mean over `steps` points between x and the ablated x. Negative: it helps. Codes of a
codebook are latents like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.faithfulness import Point, faithfulness, ratio_intervals, require_effect, sizes
from interp.circuits.forward import ROWS, clean_metric, logits_at
from interp.hooks import patched, record
from interp.models.bridge import Model
from interp.progress import bar
from interp.sites import Site
from interp.tasks import Pairs, Task
from saes.dictionary import Dictionary

LatentAblation = Literal["resample", "mean", "zero"]


@dataclass(frozen=True, eq=False)
class Latents:
    """Codes and errors of the clean prompts, and what replaces them. The units are the latents in order, then the error."""

    site: Site
    dictionary: Dictionary
    resid: Float[Tensor, "pair pos d_model"]
    """What enters the site's layer: circuits start there."""
    x: Float[Tensor, "pair pos d"]
    away: Float[Tensor, "pair pos d_dict"]
    """a - z."""
    error_away: Float[Tensor, "pair pos d"]
    """a_e - e."""
    active: Bool[Tensor, " unit"]
    """Units that ablation changes on some pair: all others change nothing."""

    @property
    def n_units(self) -> int:
        return self.away.shape[-1] + 1

    def changed(self, kept: Float[Tensor, "circuit unit"]) -> Float[Tensor, "circuit pair pos d"]:
        """x_m of circuits; what is kept may be a share."""
        gone = 1 - kept.to(self.x)
        latents = torch.einsum("cf,bpf,fd->cbpd", gone[:, :-1], self.away, self.dictionary.directions().detach())
        return self.x + latents + gone[:, -1, None, None, None] * self.error_away

    def names(self) -> list[str]:
        """`10.resid_post#41`, and `10.resid_post#error`."""
        return [*(f"{self.site}#{i}" for i in range(self.n_units - 1)), f"{self.site}#error"]


@torch.no_grad()
def latents(model: Model, dictionary: Dictionary, site: Site, pairs: Pairs, ablation: LatentAblation) -> Latents:
    """Encode clean and corrupt prompts."""
    start = Site(site.layer, "resid_pre")
    resid = record(model, pairs.clean, [start])[start]
    x, z, e = _split(model, dictionary, site, pairs.clean)
    _, a, a_e = _split(model, dictionary, site, pairs.corrupt)
    if ablation == "zero":
        a, a_e = torch.zeros_like(a), torch.zeros_like(a_e)
    elif ablation == "mean":
        same = (pairs.group[:, None] == pairs.group).to(a)
        a, a_e = (torch.einsum("pr,rsd->psd", same / same.sum(1, keepdim=True), tensor) for tensor in (a, a_e))
    away, error_away = a - z, a_e - e
    real = pairs.real()
    active = torch.cat([(away[real] != 0).any(0), (error_away[real] != 0).any()[None]])
    return Latents(site, dictionary, resid, x, away, error_away, active)


def metrics(
    model: Model, task: Task, pairs: Pairs, nodes: Latents, kept: Bool[Tensor, "circuit unit"], label: str = "circuits of latents"
) -> Float[Tensor, "circuit pair"]:
    """The metric of each circuit on each pair."""
    parts = []
    with torch.no_grad(), bar(len(kept), "circuits", label) as progress:
        for some in kept.split(max(1, ROWS // len(pairs))):
            parts.append(task.metric(_logits(model, pairs, nodes, nodes.changed(some.to(nodes.x))), pairs))
            progress.update(len(some))
    return torch.cat(parts)


def exact(
    model: Model, task: Task, pairs: Pairs, nodes: Latents, effect: Float[Tensor, " unit"], n: int, seed: int
) -> tuple[Int[Tensor, " sampled"], Float[Tensor, "pair sampled"]]:
    """The effect of ablating single units, none left out: the error, and of the latents that ablation changes n in all, one half of them
    those with the largest scores, the other half drawn from the rest."""
    latents = nodes.active[:-1].nonzero()[:, 0].cpu()
    ranked = latents[effect[latents].abs().sort(descending=True, stable=True).indices]
    rest = ranked[n - n // 2 :]
    drawn = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: n // 2]]
    which = torch.cat([ranked[: n - n // 2], drawn, torch.tensor([nodes.n_units - 1])])
    kept = torch.ones(1 + len(which), nodes.n_units, dtype=torch.bool)
    kept[torch.arange(len(which)), which] = False
    metric = metrics(model, task, pairs, nodes, kept, "exact effects of latents")
    return which, (metric[:-1] - metric[-1:]).T.cpu()


def scores(model: Model, task: Task, pairs: Pairs, nodes: Latents, steps: int = 1) -> Float[Tensor, "pair unit"]:
    """First-order effect of ablating each unit alone; along a path of many `steps` they add up to the effect of ablating everything."""
    total: Tensor = torch.zeros_like(nodes.x)
    away = nodes.changed(torch.zeros(1, nodes.n_units))[0] - nodes.x
    for step in range(steps):
        # One step: the slope at the clean prompt. More: midpoints.
        share = 0.0 if steps == 1 else (step + 0.5) / steps
        x = (nodes.x + share * away).requires_grad_()
        with torch.enable_grad():
            metric = task.metric(_logits(model, pairs, nodes, x[None]), pairs).sum()
            total += torch.autograd.grad(metric, x)[0] / steps
    along = torch.einsum("bpd,fd->bpf", total, nodes.dictionary.directions().detach())
    return torch.cat([(along * nodes.away).sum(1), (total * nodes.error_away).sum((1, 2))[:, None]], 1)


def curve(
    model: Model,
    task: Task,
    pairs: Pairs,
    nodes: Latents,
    ablation: LatentAblation,
    effect: Float[Tensor, " unit"],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    keep_error: bool = False,
) -> list[Point]:
    """Faithfulness of the n latents that help most, by scores from other pairs, and of random ones that are active here.

    Raises InputError when ablation changes nothing.
    """
    among = nodes.active.clone()
    among[-1] &= not keep_error
    ranked = _order(effect, among)
    series = [("method", 0, ranked)]
    series += [("random", seed, ranked[torch.randperm(len(ranked), generator=torch.Generator().manual_seed(seed))]) for seed in seeds]
    counts = sizes(len(ranked))
    kept = torch.stack([_kept(nodes, among, order[:n]) for _, _, order in series for n in counts])
    own = kept[: len(counts)]
    complements = (~own & among) | ~among
    metric = metrics(model, task, pairs, nodes, torch.cat([kept, complements]))
    empty, full = metric[0], metric[len(counts) - 1]
    _require_clean(model, task, pairs, full)
    require_effect(full, empty)
    f = faithfulness(metric.mean(1), full.mean(), empty.mean())
    low, high = ratio_intervals(metric, full, empty)
    points = []
    for row, (name, seed, n) in enumerate((name, seed, n) for name, seed, _ in series for n in counts):
        rest = metric[len(kept) + row].mean().item() if name == "method" else None
        where = (name, seed, "latent", "kept" if keep_error else "all", ablation, n, n, n / len(ranked))
        points.append(Point(*where, f[row].item(), low[row].item(), high[row].item(), metric[row].mean().item(), rest))
    return points


def _order(effect: Float[Tensor, " unit"], among: Bool[Tensor, " unit"]) -> Int[Tensor, " ranked"]:
    """Units that ablation can change, the most helpful first; equal ones in their own order."""
    order = effect.cpu().sort(stable=True).indices
    return order[among.cpu()[order]]


def _kept(nodes: Latents, among: Bool[Tensor, " unit"], chosen: Int[Tensor, " n"]) -> Bool[Tensor, " unit"]:
    kept = ~among.cpu()
    kept[chosen] = True
    return kept.to(nodes.x.device)


def _split(
    model: Model, dictionary: Dictionary, site: Site, tokens: Int[Tensor, "pair pos"]
) -> tuple[Float[Tensor, "pair pos d"], Float[Tensor, "pair pos d_dict"], Float[Tensor, "pair pos d"]]:
    """x, z and e, in the type that the dictionary computes in. A bottleneck of the model reads one thing and writes another: its codes are
    those of what it reads, and x is what it writes, which leaves no error."""
    kind = next(iter(dictionary.parameters())).dtype  # pyright: ignore[reportAttributeAccessIssue]
    x = record(model, tokens, [site])[site].flatten(2).to(kind)
    read = record(model, tokens, [site], before=True)[site].flatten(2).to(kind) if site in model.codebooks else x
    code = dictionary.encode(read)
    return x, code, x - dictionary.decode(code)


def _logits(model: Model, pairs: Pairs, nodes: Latents, x: Float[Tensor, "circuit pair pos d"]) -> Float[Tensor, "circuit pair read vocab"]:
    """Logits with the site's activation replaced, row by row."""

    def put(activation: Tensor) -> Tensor:
        return x.flatten(0, 1).to(activation.dtype).view_as(activation)

    resid = nodes.resid.repeat(len(x), 1, 1)
    with patched(model, {nodes.site: put}):
        return logits_at(model, lambda: model.forward_from(nodes.site.layer, resid), pairs.read)


def _require_clean(model: Model, task: Task, pairs: Pairs, full: Float[Tensor, " pair"]) -> None:
    """All latents and the error are the clean run."""
    off = (full - clean_metric(model, task, pairs).to(full)).abs().max()
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.2}[model.dtype]
    assert off < tolerance, f"all latents and the error differ from the clean run by {off:.2g}"
