"""What each head writes on a prompt as one vector: its outputs after W_O, averaged over positions or taken at some of them.

mean           over the prompt's real tokens, BOS included where there is one (arXiv 2405.12522)
after-first    the same without position 0: BOS, or the token that heads with nothing to do rest on
end            the last token
a span         the position that the task knows by that name, such as S2
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph
from interp.models.bridge import Model
from interp.tasks import Pairs
from saes.errors import InputError


def pooled(
    model: Model, graph: Graph, written: Outputs, pairs: Pairs, pool: Sequence[str], mlps: bool = False
) -> Float[Tensor, "pair unit d"]:
    """One vector for each head, or for each of `graph.nodes` with `mlps`; poolings are concatenated. Raises InputError for others."""
    return torch.cat([_written(model, graph, written, _shares(pairs, name), mlps) for name in pool], 2)


def _shares(pairs: Pairs, name: str) -> Float[Tensor, "pair pos"]:
    """How much each position counts; sums to 1."""
    real = pairs.real()
    if name in ("mean", "after-first"):
        counted = real & (torch.arange(real.shape[1], device=real.device) >= (name == "after-first"))
        return counted / counted.sum(1, keepdim=True)
    if name != "end" and name not in pairs.spans:
        names = ", ".join(("mean", "after-first", "end", *(span for span in pairs.spans if span != "end")))
        raise InputError(f"{name!r} is no pooling of this task; choose among {names}")
    at = pairs.end if name == "end" else pairs.spans[name]
    return torch.nn.functional.one_hot(at, real.shape[1]).float()


def _written(model: Model, graph: Graph, written: Outputs, share: Float[Tensor, "pair pos"], mlps: bool) -> Float[Tensor, "pair unit d"]:
    """Averages are taken before W_O, where a token takes d_model numbers a layer and not one for each head."""
    found = []
    for layer in range(graph.n_layers):
        z = torch.einsum("bphd,bp->bhd", written.z[layer], share.to(written.z[layer]))
        found.append(torch.einsum("bhd,hde->bhe", z, model.w_o(layer)))
        if mlps and graph.mlps:
            found.append(torch.einsum("bpe,bp->be", written.mlp[layer], share.to(written.mlp[layer]))[:, None])
    return torch.cat(found, 1)
