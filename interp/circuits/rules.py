"""Backward rules of relevance patching (Jafari et al. 2025, arXiv:2508.21258), as contexts: no value changes, gradients do.

norm              r is constant
attention         the pattern is constant
activation        x * constant, the constant act(x) / x
gate              each of the two factors takes half of the gradient
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from interp.circuits.pullback import measured
from interp.models.bridge import Hook, Model
from interp.sites import Site, Stream


@contextlib.contextmanager
def relevance(model: Model) -> Iterator[None]:
    """All four rules while the context lasts."""
    streams: tuple[Stream, ...] = ("q",) if model.attn_only else ("q", "mlp_in")
    sites = [Site(layer, stream) for layer in range(model.n_layers) for stream in streams]
    norms = {site: measured(model, site) for site in (*sites, Site(model.n_layers - 1, "resid_post"))}

    def norm(site: Site, x: Tensor) -> Tensor:
        own = norms[site]
        inverse = own.normalised(x)[1].detach()
        return (x - x.mean(-1, keepdim=True) if own.centred else x) * inverse * own.weight + own.bias

    patterns: dict[Site, Hook] = {Site(layer, "pattern"): Tensor.detach for layer in range(model.n_layers)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(model.with_norms(norm))
        stack.enter_context(model.hooked(patterns))
        if not model.attn_only:
            stack.enter_context(model.with_activations(_linear))
        yield


def _linear(activation: Callable[[Tensor], Tensor], x: Tensor, gate: Tensor | None) -> Tensor:
    # Where x is 0 the output is too, and so is the relevance.
    constant = (activation(x) / torch.where(x == 0, torch.ones_like(x), x)).detach()
    out = x * constant
    return out if gate is None else (out * gate.detach() + out.detach() * gate) / 2
