"""Toys for the tests of circuits (random prompts for tiny models in float64), and tests of `Graph` and `Scores` themselves."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from interp.circuits.graph import Graph, Scores, graph
from interp.models.bridge import Model
from interp.models.hub import Local, load_local
from interp.sites import Node, Site
from interp.tasks import Pairs


@dataclass(frozen=True)
class Toy:
    """Random prompts of several lengths; the corrupt one differs in the two tokens before the last. No rounding to float32."""

    NAME: ClassVar[str] = "toy"

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


def test_a_graph_has_every_head_and_mlp_once_in_the_order_of_the_model(tiny: Model) -> None:
    nodes = graph(tiny).nodes
    assert len(nodes) == len(set(nodes)) == tiny.n_layers * (tiny.n_heads + 1)
    assert [str(n) for n in nodes[:6]] == ["0.z.0", "0.z.1", "0.z.2", "0.z.3", "0.mlp_out", "1.z.0"]
    assert all(Node.parse(str(n)) == n for n in nodes)
    assert len(graph(tiny).heads().nodes) == tiny.n_layers * tiny.n_heads


def test_columns_of_the_streams_cover_the_graph_once(tiny: Model) -> None:
    whole = graph(tiny)
    columns = torch.cat([whole.columns(site) for site in whole.streams()])
    assert sorted(columns.tolist()) == list(range(len(whole.nodes)))
    assert [whole.nodes[i].site.head for i in whole.columns(Site(1, "z")).tolist()] == [0, 1, 2, 3]


def test_top_ranks_by_absolute_score_and_breaks_ties_in_the_order_of_the_model() -> None:
    nodes = tuple(Node(Site(0, "z", head)) for head in range(4))
    scores = Scores(nodes, torch.tensor([[1.0, -3.0, 1.0, 0.0], [1.0, -3.0, -3.0, 0.0]]))
    assert scores.mean().tolist() == [1.0, -3.0, -1.0, 0.0]
    assert scores.top(3) == (nodes[1], nodes[0], nodes[2])
    assert scores.top(3, "helping") == (nodes[1], nodes[2], nodes[3])
    assert scores.among(Graph(1, nodes[2:])).mean().tolist() == [-1.0, 0.0]


def test_kept_marks_the_nodes_of_each_circuit_and_no_other() -> None:
    nodes = tuple(Node(Site(0, "z", head)) for head in range(3))
    assert Graph(1, nodes).kept([(), nodes[1:2], nodes]).tolist() == [[False] * 3, [False, True, False], [True] * 3]
