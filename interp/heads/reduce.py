"""Reduce activations the moment they appear, so that no pass ever holds more than one site of them.

`interp.hooks.record` keeps what it records; the patterns of all layers would be [batch, layer, head, query, key]. Here a function shrinks
each one inside its hook, and the model stops at the last site.
"""

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp.models.bridge import Hook, Model
from interp.sites import Site


class _Enough(Exception):
    """The last site has fired; the rest of the model need not run."""


def reduced(model: Model, sites: Sequence[Site], reduction: Callable[[Tensor], Tensor], run: Callable[[], object]) -> list[Tensor]:
    """`reduction` of each site's activation during `run()`, in the order of the sites; `run` is cut off at the last one."""
    found: dict[Site, Tensor] = {}

    def keep(site: Site) -> Hook:
        def hook(activation: Tensor) -> None:
            found[site] = reduction(activation)
            if len(found) == len(sites):
                raise _Enough

        return hook

    with torch.no_grad(), model.hooked({site: keep(site) for site in sites}), contextlib.suppress(_Enough):
        run()
    return [found[site] for site in sites]
