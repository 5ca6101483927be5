"""The literal twin of the masked forward: one circuit, one pair, one destination after the other, in plain torch."""

import torch
from torch import Tensor

from interp.circuits.ablation import outputs, replacement
from interp.circuits.graph import Graph
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Pairs, Task


def written(model: Model, graph: Graph, pairs: Pairs, values=None) -> list[Tensor]:
    """What replaces each source: [pair, pos, d_model] for every source."""
    values = replacement(model, graph, pairs, "resample") if values is None else values
    return list(values.written(model, graph))


def metric(
    model: Model, task: Task, pairs: Pairs, graph: Graph, weights: Tensor, away: list[Tensor], embed: Tensor | None = None
) -> Tensor:
    """The metric of each pair when destination t reads x + sum_u (1 - m_ut) (a_u - y_u)."""
    own = list(outputs(model, graph, pairs.clean).embed) if embed is None else [embed]
    biases = torch.zeros_like(own[0])

    def read(site: Site, column: int, n: int) -> Tensor:
        x = biases + sum(own[:n])
        for u in range(n):
            x = x + (1 - weights[u, column]) * (away[u] - own[u])
        return model.norm(site, x)

    for layer in range(graph.n_layers):
        n = graph.first_source(layer)
        qkv = {}
        for stream in ("q", "k", "v"):
            site = Site(layer, stream)
            weight, bias = model.projection(layer, stream)
            columns = range(len(graph.destinations))[graph.columns(site)]
            qkv[stream] = []
            for i, column in enumerate(columns):
                head = i * len(weight) // len(columns)
                made = read(site, column, n) @ weight[head]
                qkv[stream].append(made if bias is None else made + bias[head])
        turn = _rotation(model, layer, own[0].shape[1])
        heads = []
        for h in range(graph.n_heads):
            q = qkv["q"][h]
            k, v = (qkv[s][h * len(qkv[s]) // graph.n_heads] for s in ("k", "v"))
            if turn is not None:
                q, k = (torch.einsum("pij,bpj->bpi", turn, x) for x in (q, k))
            scores = (q @ k.transpose(1, 2)) * model.d_head**-0.5
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
            heads.append(scores.softmax(-1) @ v @ model.w_o(layer)[h])
        after = biases if model.b_o(layer) is None else biases + model.b_o(layer)
        if graph.mlps:
            site = Site(layer, "mlp_in")
            if not graph.parallel:
                own, biases = [*own, *heads], after
            seen = read(site, graph.columns(site).start, int(graph.reach[graph.columns(site).start]))
            out = model.bridge.blocks[layer].mlp.original_component(seen)
            own = [*own, out] if not graph.parallel else [*own, *heads, out]
        else:
            own = [*own, *heads]
        biases = after
    last = Site(graph.n_layers - 1, "resid_post")
    logits = read(last, -1, len(own)) @ model.w_u()
    picked = logits[torch.arange(len(pairs))[:, None], pairs.read]
    return task.metric(picked[None], pairs)[0]


def _rotation(model: Model, layer: int, n_pos: int) -> Tensor | None:
    """[pos, d_head, d_head]; from transformers itself for NeoX, which turns the first dimensions of a head."""
    neox = getattr(model.bridge.original_model, "gpt_neox", None)
    if neox is None:
        return model.rotation(layer, n_pos)
    cos, sin = neox.rotary_emb(torch.zeros(1, n_pos, 1, dtype=model.dtype), torch.arange(n_pos)[None])
    n = cos.shape[-1]
    turn = torch.eye(model.d_head, dtype=model.dtype).repeat(n_pos, 1, 1)
    half = torch.zeros(n, n, dtype=model.dtype)
    half[: n // 2, n // 2 :], half[n // 2 :, : n // 2] = -torch.eye(n // 2), torch.eye(n // 2)
    turn[:, :n, :n] = torch.diag_embed(cos[0]) + sin[0][:, :, None] * half
    return turn
