import pytest
import torch
from test_circuits_toy import Toy, literal_activations, literal_metric, tiny

from interp.circuits import ablation
from interp.circuits.graph import Graph, graph
from interp.circuits.methods import Attribution, Exact, Method, Random, Scorer
from interp.models.bridge import Model
from interp.sites import Node, Site
from interp.tasks import Pairs

__all__ = ["tiny"]
METHODS: list[Method] = [Attribution(), Exact(), Random(3)]


def _towards(site: Site, head: int | None, target: torch.Tensor, step: float):
    """A hook that moves one node `step` of the way from where it is to the target."""

    def hook(activation: torch.Tensor) -> torch.Tensor:
        moved = activation.clone()
        part = (..., slice(None)) if head is None else (slice(None), slice(None), head)
        moved[part] = activation[part] + step * (target[part] - activation[part])
        return moved

    return {site: hook}


def _literal(model: Model, node: Node, i: int, pairs: Pairs, corrupt: dict[Site, torch.Tensor], step: float) -> float:
    stream = Site(node.site.layer, node.site.stream)
    return literal_metric(model, pairs, i, pairs.clean, _towards(stream, node.site.head, corrupt[stream], step))


def test_attribution_equals_the_literal_double_loop_of_finite_differences(tiny: Model) -> None:
    pairs = Toy().pairs(None, 2, 0, None)
    scores = Attribution()(tiny, Toy(), pairs, graph(tiny))
    # transformers computes norms in float32 in any case, so steps are large and the stencil is of fourth order.
    step = 0.02
    for i in range(len(pairs)):
        corrupt = literal_activations(tiny, pairs, i, pairs.corrupt)
        for j, node in enumerate(scores.nodes):
            far, near = (_literal(tiny, node, i, pairs, corrupt, s) - _literal(tiny, node, i, pairs, corrupt, -s) for s in (2 * step, step))
            slope = (8 * near - far) / (12 * step)
            assert scores.per_example[i, j].item() == pytest.approx(slope, abs=3e-4, rel=3e-4), f"{node} on pair {i}"
    assert scores.per_example.abs().max() > 0.01


def test_exact_equals_one_patched_full_forward_of_one_prompt_at_a_time(tiny: Model) -> None:
    pairs = Toy().pairs(None, 3, 1, None)
    scores = Exact()(tiny, Toy(), pairs, graph(tiny))
    for i in range(len(pairs)):
        clean = literal_metric(tiny, pairs, i, pairs.clean)
        corrupt = literal_activations(tiny, pairs, i, pairs.corrupt)
        for j, node in enumerate(scores.nodes):
            change = _literal(tiny, node, i, pairs, corrupt, 1.0) - clean
            assert scores.per_example[i, j].item() == pytest.approx(change, abs=1e-6), f"{node} on pair {i}"
    assert scores.per_example.abs().max() > 0.01


def test_a_node_scores_the_same_in_a_graph_of_some_nodes_only(tiny: Model) -> None:
    pairs, nodes = Toy().pairs(None, 3, 1, None), graph(tiny)
    some = Graph(tiny.n_layers, nodes.nodes[1::3])
    assert {node.site.head for node in some.nodes} > {None, 1}
    whole = Exact()(tiny, Toy(), pairs, nodes).among(some)
    assert torch.allclose(Exact()(tiny, Toy(), pairs, some).per_example, whole.per_example, atol=1e-9)


def test_the_size_of_a_batch_does_not_change_exact_scores(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Toy().pairs(None, 4, 2, None)
    whole = Exact()(tiny, Toy(), pairs, graph(tiny)).per_example
    monkeypatch.setattr(ablation, "ROWS", 1)
    assert torch.allclose(Exact()(tiny, Toy(), pairs, graph(tiny)).per_example, whole, atol=1e-6)


def test_attribution_of_the_heads_of_a_layer_sums_to_that_of_its_attention_output(tiny: Model) -> None:
    pairs = Toy().pairs(None, 5, 3, None)
    scores = Attribution()(tiny, Toy(), pairs, graph(tiny))
    outputs = Attribution()(
        tiny, Toy(), pairs, Graph(tiny.n_layers, tuple(Node(Site(layer, "attn_out")) for layer in range(tiny.n_layers)))
    )
    for layer in range(tiny.n_layers):
        heads = scores.per_example[:, graph(tiny).columns(Site(layer, "z"))].sum(1)
        assert torch.allclose(heads, outputs.per_example[:, layer], atol=1e-5)


def test_clean_and_corrupt_activations_agree_up_to_their_first_different_token(tiny: Model) -> None:
    pairs = Toy().pairs(None, 3, 4, None)
    corrupt = literal_activations(tiny, pairs, 0, pairs.corrupt)
    clean = literal_activations(tiny, pairs, 0, pairs.clean)
    first = int(pairs.first_difference()[0])
    assert first >= 3
    for site, activation in clean.items():
        assert torch.allclose(activation[:, :first], corrupt[site][:, :first])
        assert not torch.allclose(activation[:, first:], corrupt[site][:, first:])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.NAME)
def test_every_method_scores_every_node_and_leaves_no_hook(method: Method, tiny: Model) -> None:
    assert isinstance(method, Scorer)
    pairs = Toy().pairs(None, 4, 5, None)
    before = tiny(pairs.clean)
    scores = method(tiny, Toy(), pairs, graph(tiny))
    assert scores.nodes == graph(tiny).nodes
    assert scores.per_example.shape == (4, len(scores.nodes))
    assert tiny.hook_count() == 0
    assert torch.equal(tiny(pairs.clean), before)


def test_random_orders_depend_on_the_seed_alone_and_differ_between_seeds(tiny: Model) -> None:
    nodes = graph(tiny)
    rankings = [Random(seed)(tiny, Toy(), Toy().pairs(None, n, n, None), nodes).ranking() for seed, n in ((0, 2), (0, 5), (1, 2))]
    assert rankings[0] == rankings[1] != rankings[2]
    assert set(rankings[0]) == set(nodes.nodes)
