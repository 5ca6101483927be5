import pytest
import torch
from test_circuits_toy import Toy, literal_activations, literal_metric, resampled, tiny

from interp.circuits import forward
from interp.circuits.graph import Scores, graph
from interp.circuits.methods import Attribution, Exact, Method, PathPatching, Random
from interp.models.bridge import Model
from interp.sites import Node, Site
from interp.tasks import Pairs

__all__ = ["tiny"]


def scored(method: Method, model: Model, pairs: Pairs) -> Scores:
    return method(model, Toy(), pairs, graph(model), resampled(model, pairs, graph(model)))


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
    scores = scored(Attribution(), tiny, pairs)
    # transformers computes norms in float32 in any case, so steps are large and the stencil is of fourth order.
    step = 0.02
    for i in range(len(pairs)):
        corrupt = literal_activations(tiny, pairs, i, pairs.corrupt)
        for j, node in enumerate(scores.graph.nodes):
            far, near = (_literal(tiny, node, i, pairs, corrupt, s) - _literal(tiny, node, i, pairs, corrupt, -s) for s in (2 * step, step))
            slope = (8 * near - far) / (12 * step)
            assert scores.per_example[i, j].item() == pytest.approx(slope, abs=3e-4, rel=3e-4), f"{node} on pair {i}"
    assert scores.per_example.abs().max() > 0.01


def test_exact_equals_one_patched_full_forward_of_one_prompt_at_a_time(tiny: Model) -> None:
    pairs = Toy().pairs(None, 3, 1, None)
    scores = scored(Exact(), tiny, pairs)
    for i in range(len(pairs)):
        clean = literal_metric(tiny, pairs, i, pairs.clean)
        corrupt = literal_activations(tiny, pairs, i, pairs.corrupt)
        for j, node in enumerate(scores.graph.nodes):
            change = _literal(tiny, node, i, pairs, corrupt, 1.0) - clean
            assert scores.per_example[i, j].item() == pytest.approx(change, abs=1e-6), f"{node} on pair {i}"
    assert scores.per_example.abs().max() > 0.01


def test_the_size_of_a_batch_does_not_change_exact_scores(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Toy().pairs(None, 4, 2, None)
    whole = scored(Exact(), tiny, pairs).per_example
    monkeypatch.setattr(forward, "ROWS", 1)
    assert torch.allclose(scored(Exact(), tiny, pairs).per_example, whole, atol=1e-6)


def test_clean_and_corrupt_activations_agree_up_to_their_first_different_token(tiny: Model) -> None:
    pairs = Toy().pairs(None, 3, 4, None)
    corrupt = literal_activations(tiny, pairs, 0, pairs.corrupt)
    clean = literal_activations(tiny, pairs, 0, pairs.clean)
    first = int(pairs.first_difference()[0])
    assert first >= 3
    for site, activation in clean.items():
        assert torch.allclose(activation[:, :first], corrupt[site][:, :first])
        assert not torch.allclose(activation[:, first:], corrupt[site][:, first:])


def test_random_orders_depend_on_their_number_alone(tiny: Model) -> None:
    orders = [scored(Random(order=number), tiny, Toy().pairs(None, n, n, None)).order() for number, n in ((0, 2), (0, 5), (1, 2))]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert sorted(orders[0].tolist()) == list(range(len(graph(tiny).nodes)))


def test_path_patching_to_the_logits_with_mlps_held_is_the_edge_into_the_logits(tiny: Model) -> None:
    pairs, whole = Toy().pairs(None, 2, 3, None), graph(tiny)
    found = scored(PathPatching(hold_mlps=True), tiny, pairs)
    direct = whole.valid.repeat(len(whole.nodes), 1, 1)
    direct[torch.arange(len(whole.nodes)), torch.arange(len(whole.nodes)) + 1, -1] = False
    metric = forward.metrics(tiny, Toy(), pairs, whole, direct, resampled(tiny, pairs, whole))
    expected = (metric - forward.clean_metric(tiny, Toy(), pairs)).mean(1)
    assert torch.allclose(found.mean.double(), expected, atol=1e-5)


def test_path_patching_to_a_query_is_the_edge_into_it(tiny: Model) -> None:
    pairs, whole = Toy().pairs(None, 2, 3, None), graph(tiny)
    found = scored(PathPatching(receivers=("2.1.q",), hold_mlps=True), tiny, pairs)
    column = whole.destinations.index("2.1.q")
    for i in (0, 4, 7):
        mask = whole.valid.clone()
        mask[i + 1, column] = False
        metric = forward.metrics(tiny, Toy(), pairs, whole, mask[None], resampled(tiny, pairs, whole))[0]
        expected = (metric - forward.clean_metric(tiny, Toy(), pairs)).mean()
        assert float(found.mean[i]) == pytest.approx(float(expected), abs=1e-5)
    assert found.mean[whole.index([n for n in whole.nodes if n.site.layer == 2 and n.site.head is not None])].abs().max() < 1e-9
