"""Information flow routes (Ferrando and Voita 2024, arXiv:2403.00824): how much of what a destination reads each source has written.

    share(u -> t) = max(0, |x|_1 - |x - y_u|_1), divided by its sum over u

x is the residual stream that t reads; shares are averaged over the prompt's positions. One forward, no metric, no corrupt prompt: a route
is used, which does not say that the task needs it. Scores are negative, as those of edges that help are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.hooks import record
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class FlowRoutes:
    """Share of each source in what a destination reads."""

    NAME: ClassVar[str] = "flow-routes"
    ABOUT: ClassVar[str] = "takes minus the share of each source in what a destination reads, whatever the task"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "edge"

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the share of each edge, averaged over the positions of the clean prompt."""
        found = [_shares(model, graph, pairs.rows(slice(i, i + 1))) for i in range(len(pairs))]
        source, destination = graph.edges.T
        return Scores.of(graph, "edge", -torch.stack(found)[:, source, destination].float().cpu())


def _shares(model: Model, graph: Graph, pair: Pairs) -> torch.Tensor:
    tokens = pair.clean[:, : int(pair.end[0]) + 1]
    written = outputs(model, graph, tokens).written(model, graph)[:, 0]
    out = written.new_zeros(graph.valid.shape)
    sites = [Site(layer, "resid_pre") for layer in range(graph.n_layers)] + [Site(graph.n_layers - 1, "resid_post")]
    sites += [] if graph.parallel or not graph.mlps else [Site(layer, "resid_mid") for layer in range(graph.n_layers)]
    streams = {site: stream[0] for site, stream in record(model, tokens, sites).items()}
    for layer in range(graph.n_layers):
        first, mlp = graph.first_destination(layer), graph.columns(Site(layer, "mlp_in"))
        before = _of_stream(written[: graph.first_source(layer)], streams[Site(layer, "resid_pre")])
        out[: len(before), first : mlp.start] = before[:, None]
        if graph.mlps:
            n = int(graph.reach[mlp.start])
            read = streams[Site(layer, "resid_pre" if graph.parallel else "resid_mid")]
            out[:n, mlp] = _of_stream(written[:n], read)[:, None]
    out[:, -1] = _of_stream(written, streams[Site(graph.n_layers - 1, "resid_post")])
    return out


def _of_stream(written: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    near = (read.abs().sum(-1) - (read - written).abs().sum(-1)).clamp(min=0)
    return (near / near.sum(0).clamp(min=1e-30)).mean(1)
