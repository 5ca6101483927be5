"""Toys for the tests of circuits (random prompts for tiny models in float64), and tests of `Graph` and `Scores` themselves."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from interp.circuits.ablation import Outputs, replacement
from interp.circuits.graph import Graph, Scores, graph
from interp.models.bridge import Model
from interp.models.hub import Local, load_local
from interp.sites import Node, Site
from interp.tasks import Pairs


@dataclass(frozen=True)
class Toy:
    """Random prompts of several lengths; the corrupt one differs in the two tokens before the last. No rounding to float32."""

    NAME: ClassVar[str] = "toy"
    ABOUT: ClassVar[str] = "Random prompts."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")

    def pairs(self, tokenizer: object, n: int, seed: int, bos: int | None) -> Pairs:
        rng = torch.Generator().manual_seed(seed)
        clean = torch.randint(10, 300, (n, 8), generator=rng)
        end = torch.arange(n) % 3 + 5
        corrupt = clean.clone()
        for i in range(n):
            corrupt[i, end[i] - 2 : end[i]] = torch.randint(10, 300, (2,), generator=rng)
            clean[i, end[i] :] = corrupt[i, end[i] :] = clean[i, end[i]]
        answer = torch.randint(10, 150, (n,), generator=rng)
        return Pairs(clean, corrupt, answer, answer[:, None] + 100, end[:, None], group=torch.arange(n) % 3, spans={})

    def metric(self, logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        rows = torch.arange(len(pairs))
        return logits[..., rows, 0, pairs.answer] - logits[..., rows, 0, pairs.wrong[:, 0]]


def double(folder: Path) -> Model:
    return load_local(Local(str(folder), name="tiny"), torch.float64, torch.device("cpu"))


def literal_metric(model: Model, pairs: Pairs, i: int, tokens: torch.Tensor, hooks: dict | None = None) -> float:
    """The metric of one prompt without padding, in a plain full forward."""
    with torch.no_grad(), model.hooked(hooks or {}):
        logits = model(tokens[i : i + 1, : pairs.end[i] + 1])[0, -1]
    return float(logits[pairs.answer[i]] - logits[pairs.wrong[i, 0]])


def literal_activations(model: Model, pairs: Pairs, i: int, tokens: torch.Tensor) -> dict[Site, torch.Tensor]:
    """z and mlp_out of every layer for one prompt without padding."""
    found: dict[Site, torch.Tensor] = {}
    sites = [Site(layer, stream) for layer in range(model.n_layers) for stream in ("z", "mlp_out")]
    with torch.no_grad(), model.hooked({site: lambda a, site=site: found.__setitem__(site, a.clone()) for site in sites}):
        model(tokens[i : i + 1, : pairs.end[i] + 1])
    return found


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def tiny(request: pytest.FixtureRequest) -> Model:
    return double(request.getfixturevalue(request.param))


def resampled(model: Model, pairs: Pairs, whole: Graph) -> Outputs:
    return replacement(model, whole, pairs, "resample")


def test_a_graph_has_every_head_and_mlp_once_in_the_order_of_the_model(tiny: Model) -> None:
    nodes = graph(tiny).nodes
    assert len(nodes) == len(set(nodes)) == tiny.n_layers * (tiny.n_heads + 1)
    assert [str(n) for n in nodes[:6]] == ["0.z.0", "0.z.1", "0.z.2", "0.z.3", "0.mlp_out", "1.z.0"]
    assert all(Node.parse(str(n)) == n for n in nodes)
    assert int(graph(tiny).is_head().sum()) == tiny.n_layers * tiny.n_heads


def test_rows_and_columns_of_the_sites_cover_the_graph_once(tiny: Model) -> None:
    whole = graph(tiny)
    layers = range(tiny.n_layers)
    rows = [i for layer in layers for stream in ("z", "mlp_out") for i in range(len(whole.sources))[whole.rows(Site(layer, stream))]]
    assert rows == list(range(1, len(whole.sources)))
    streams = ("q", "k", "v", "mlp_in")
    sites = [*(Site(layer, stream) for layer in layers for stream in streams), Site(tiny.n_layers - 1, "resid_post")]
    assert [i for site in sites for i in range(len(whole.destinations))[whole.columns(site)]] == list(range(len(whole.destinations)))
    assert whole.destinations[whole.columns(Site(1, "q"))] == ("1.0.q", "1.1.q", "1.2.q", "1.3.q")
    assert whole.sources[whole.rows(Site(1, "mlp_out"))] == ("m1",)


def test_order_is_by_absolute_score_and_breaks_ties_in_the_order_of_the_model() -> None:
    whole = Graph(1, 4, 4, mlps=False)
    scores = Scores.of(whole, "node", torch.tensor([[1.0, -3.0, 1.0, 0.0], [1.0, -3.0, -3.0, 0.0]]))
    assert scores.mean.tolist() == [1.0, -3.0, -1.0, 0.0]
    assert scores.agreement.tolist() == [1.0, 1.0, 0.5, 1.0]
    assert scores.order()[:3].tolist() == [1, 0, 2]
    assert scores.order("helping")[:3].tolist() == [1, 2, 3]
    assert scores.order("absolute", torch.tensor([False, False, True, True])).tolist() == [2, 3]
    assert scores.names() == ["0.0", "0.1", "0.2", "0.3"]


def test_circuits_keep_the_embedding_the_best_units_and_what_is_not_ranked() -> None:
    whole = Graph(1, 2, 2)
    scores = Scores.of(whole, "node", torch.tensor([[-1.0, -2.0, -3.0]]))
    none, one = scores.circuits((0, 1), "absolute", whole.is_head())
    assert [whole.sources[i] for i in none.any(1).nonzero().flatten()] == ["embed", "m0"]
    assert [whole.sources[i] for i in one.any(1).nonzero().flatten()] == ["embed", "0.1", "m0"]
    assert torch.equal(one, whole.keeping([[whole.nodes[1], whole.nodes[2]]])[0])
    edges = Scores.of(whole, "edge", -torch.arange(whole.n_edges)[None].float())
    assert edges.circuits((3,)).sum() == 3
    assert edges.circuits((whole.n_edges,))[0].equal(whole.valid)
