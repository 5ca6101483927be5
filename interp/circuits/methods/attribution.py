"""Attribution patching (Nanda 2023; Syed et al. 2023, arXiv:2310.10348): all nodes from two forwards and one backward.

    score(node) = <a_corrupt - a_clean, dM/da at the clean activation>

summed over positions and width: the first-order prediction of what exact patching measures, so negative means that the node helps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import logits_at, resample
from interp.circuits.graph import Graph, Scores
from interp.hooks import Edit, patched
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class Attribution:
    """Gradient times difference."""

    NAME: ClassVar[str] = "attribution"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph) -> Scores:
        """Predicted change of the metric when each node is resampled from the corrupt run."""
        corrupt = resample(model, graph, pairs)
        clean, gradient = clean_and_gradient(model, task, pairs, graph.streams())
        scores = torch.empty(len(pairs), len(graph.nodes))
        for site in graph.streams():
            product = (corrupt[site] - clean[site]).float() * gradient[site].float()
            scores[:, graph.columns(site)] = _per_part(site, product).cpu()
        return Scores(graph.nodes, scores)


def clean_and_gradient(model: Model, task: Task, pairs: Pairs, sites: tuple[Site, ...]) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
    """Clean activations, and the gradient of each example's metric at them."""
    activations: dict[Site, Tensor] = {}
    probes: dict[Site, Tensor] = {}

    # Weights take no gradient here, so a zero is added at each site that does: its gradient is that of the activation.
    def probe(site: Site) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            activations[site] = activation.detach()
            probes[site] = torch.zeros_like(activation, requires_grad=True)
            return activation + probes[site]

        return edit

    with torch.enable_grad(), patched(model, {site: probe(site) for site in sites}):
        metric = task.metric(logits_at(model, lambda: model(pairs.clean), pairs.read), pairs)
    # Examples do not meet in a forward, so the gradient of the sum holds each example's own.
    gradients = torch.autograd.grad(metric.sum(), list(probes.values()))
    return activations, dict(zip(probes, gradients, strict=True))


def _per_part(site: Site, product: Float[Tensor, "pair pos *dims"]) -> Float[Tensor, "pair part"]:
    return product.sum((1, 3)) if site.stream == "z" else product.sum((1, 2))[:, None]
