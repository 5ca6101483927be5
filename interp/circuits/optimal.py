"""Optimal ablation (Li and Janson 2024, arXiv:2409.09951): each source is replaced by the constant that does least harm.

    a_u = argmin_a E KL(model || model with u held at a)

A mean is a point that the model need never have seen; the constant that harms least leaves only what the source says about the prompt
at hand. The paper trains each constant with its source ablated alone. Here every row ablates a random share of all sources and the
constants are trained together, from the mean over all positions, so that the cost does not grow with the number of sources.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.forward import logits_at
from interp.circuits.graph import Graph
from interp.hooks import Edit, patched
from interp.models.bridge import Model
from interp.progress import bar
from interp.sites import Site
from interp.tasks import Pairs

# Share of the sources that a row ablates, pairs of a step, steps and step size in units of a source's own spread.
SHARE, BATCH, STEPS, STEP = 0.05, 16, 100, 0.1


def optimal(model: Model, graph: Graph, pairs: Pairs, start: Outputs, seed: int = 0) -> Outputs:
    """Constants for heads and MLPs, trained on the clean prompts of `pairs` from their means in `start`; embeddings keep their means."""
    layers = range(graph.n_layers)
    z = [start.z[layer][0, 0].float().clone().requires_grad_() for layer in layers]
    mlp = [start.mlp[layer][0, 0].float().clone().requires_grad_() for layer in layers if graph.mlps]
    own = outputs(model, graph, pairs.rows(range(min(BATCH, len(pairs)))).clean)
    scales = [float(output.flatten(0, 1).float().std(0).mean()) for output in (*own.z, *own.mlp)]
    groups = [{"params": [c], "lr": STEP * scale} for c, scale in zip((*z, *mlp), scales, strict=True)]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, STEPS)
    rng = torch.Generator().manual_seed(seed)
    with bar(STEPS, "steps", "optimal constants") as progress:
        for _ in range(STEPS):
            some = pairs.rows(torch.randperm(len(pairs), generator=rng)[:BATCH].tolist())
            gone = (torch.rand(len(some), len(graph.nodes), generator=rng) < SHARE).to(model.device)
            loss = _divergence(model, graph, some, gone, z, mlp)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress.set_postfix_str(f"KL {loss.item():.3g}", refresh=False)
            progress.update()
    heads, mlps = (_expanded(own, olds) for own, olds in ((z, start.z), (mlp, start.mlp)))
    return Outputs(start.embed, heads, mlps)


def _expanded(constants: list[Tensor], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(constant.detach().to(old.dtype).expand_as(old) for constant, old in zip(constants, like, strict=True))


def _divergence(model: Model, graph: Graph, pairs: Pairs, gone: Bool[Tensor, "pair node"], z: list[Tensor], mlp: list[Tensor]) -> Tensor:
    """KL of the run in which each prompt lacks its own sources, in nats at the positions that are read."""
    with torch.no_grad():
        target = logits_at(model, lambda: model(pairs.clean), pairs.read)[0].float().log_softmax(-1)
    with patched(model, _edits(graph, gone, z, mlp)):
        found = logits_at(model, lambda: model(pairs.clean), pairs.read)[0].float().log_softmax(-1)
    return (target.exp() * (target - found)).sum(-1).mean()


def _edits(graph: Graph, gone: Bool[Tensor, "pair node"], z: list[Tensor], mlp: list[Tensor]) -> dict[Site, Edit]:
    edits: dict[Site, Edit] = {}
    for layer in range(graph.n_layers):
        first = graph.first_source(layer) - graph.n_embeddings
        heads = gone[:, None, first : first + graph.n_heads, None]
        edits[Site(layer, "z")] = lambda own, lost=heads, constant=z[layer]: torch.where(lost, constant.to(own), own)
        if graph.mlps:
            lost = gone[:, None, first + graph.n_heads, None]
            edits[Site(layer, "mlp_out")] = lambda own, lost=lost, constant=mlp[layer]: torch.where(lost, constant.to(own), own)
    return edits
