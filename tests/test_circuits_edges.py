"""Edges: the graph, the masked forward and the scores against the literal twin, in float64, on three kinds of decoder.

RMSNorm of transformers computes in float32 whatever the type of the model, so Llama agrees to 1e-6 and no better.
"""

from pathlib import Path

import pytest
import torch
from circuit_twin import metric as twin
from circuit_twin import written
from test_circuits_toy import Toy, double

from interp.circuits.ablation import Outputs, outputs, replacement
from interp.circuits.forward import clean_metric, corrupt_metric, metrics
from interp.circuits.graph import Graph, graph
from interp.circuits.methods import Acdc, Attribution, Eap, EapIg, EapIgActivations, ExactEdges, RelP
from interp.circuits.methods.eap import path
from interp.models.bridge import Model
from interp.tasks import Pairs

KINDS = ["tiny_llama", "tiny_gpt2", "tiny_neox"]


@pytest.fixture(params=KINDS)
def tiny(request: pytest.FixtureRequest) -> Model:
    return double(request.getfixturevalue(request.param))


@pytest.fixture
def llama(tiny_llama: Path) -> Model:
    return double(tiny_llama)


def toy(n: int = 3) -> Pairs:
    return Toy().pairs(None, n, 0, None)


@pytest.mark.parametrize(
    ("shape", "edges"),
    [
        (Graph(12, 12, 12), 32_491),
        (Graph(4, 8, 8, mlps=False), 1_281),
        (Graph(2, 8, 8, mlps=False), 257),
        (Graph(4, 1, 1, pos=True), 94),
        (Graph(2, 1, 1, pos=True), 32),
        (Graph(6, 4, 4), 1_108),
        (Graph(30, 9, 9), 123_211),
        (Graph(30, 9, 3), 70_651),
        (Graph(24, 14, 14), 179_749),
        (Graph(24, 14, 2), 79_813),
        (Graph(32, 32, 32), 1_592_881),
        (Graph(32, 32, 8), 805_681),
    ],
)
def test_published_models_have_their_number_of_edges(shape: Graph, edges: int) -> None:
    assert shape.n_edges == int(shape.valid.sum()) == len(shape.edges) == edges
    assert shape.valid.shape == (len(shape.sources), len(shape.destinations)) == (len(shape.sources), len(shape.owners))


def test_random_circuits_equal_the_literal_twin(tiny: Model) -> None:
    rng = torch.Generator().manual_seed(1)
    for whole in (graph(tiny), graph(tiny, kv="per_query_head")):
        masks = torch.rand(5, *whole.valid.shape, generator=rng) < torch.tensor([0.5, 0.9, 0.98, 0.1, 0.995])[:, None, None]
        values, pairs = replacement(tiny, whole, toy(), "resample"), toy()
        found = metrics(tiny, Toy(), pairs, whole, masks, values)
        away = written(tiny, whole, pairs)
        for mask, own in zip(masks, found, strict=True):
            assert torch.allclose(own, twin(tiny, Toy(), pairs, whole, mask.double(), away), atol=1e-6)
    assert tiny.hook_count() == 0


def test_all_edges_are_the_clean_run_and_none_the_corrupt_one(tiny: Model) -> None:
    whole, pairs = graph(tiny), toy()
    masks = torch.stack((whole.valid, torch.zeros_like(whole.valid)))
    found = metrics(tiny, Toy(), pairs, whole, masks, replacement(tiny, whole, pairs, "resample"))
    assert torch.allclose(found[0], clean_metric(tiny, Toy(), pairs), atol=1e-6)
    assert torch.allclose(found[1], corrupt_metric(tiny, Toy(), pairs), atol=1e-6)


def test_a_node_is_ablated_alike_by_its_output_and_by_its_edges(tiny: Model) -> None:
    whole, pairs = graph(tiny), toy()
    values = replacement(tiny, whole, pairs, "resample")
    by_node = whole.keeping([[n for n in whole.nodes if n != node] for node in whole.nodes[3:7]])
    # One more edge cut that carries nothing makes them circuits of edges: from a node into the logits, where the node is gone already.
    by_edge = by_node.clone()
    embed = by_edge[:, :1].clone()
    found = metrics(tiny, Toy(), pairs, whole, by_node, values)
    away = written(tiny, whole, pairs)
    for mask, own in zip(by_edge, found, strict=True):
        assert torch.allclose(own, twin(tiny, Toy(), pairs, whole, mask.double(), away), atol=1e-6)
    assert embed.all()


def test_eap_is_the_slope_of_the_twin_in_each_edge(tiny: Model) -> None:
    pairs = toy()
    for kv in ("grouped", "per_query_head"):
        whole = graph(tiny, kv=kv)
        found = Eap()(tiny, Toy(), pairs, whole, replacement(tiny, whole, pairs, "resample"))
        expected = _slopes(tiny, whole, pairs, (0.0,), (1.0,))
        assert found.per_example is not None
        assert torch.allclose(found.per_example.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["midpoint", "left", "right", "gauss"])
def test_integrated_gradients_equal_the_literal_double_loop(llama: Model, rule: str) -> None:
    pairs, whole = toy(), graph(llama)
    found = EapIg(3, rule)(llama, Toy(), pairs, whole, replacement(llama, whole, pairs, "resample"))
    expected = _slopes(llama, whole, pairs, *path(3, rule))
    assert found.per_example is not None
    assert torch.allclose(found.per_example.double(), expected, rtol=1e-4, atol=1e-5)


def _slopes(model: Model, whole: Graph, pairs: Pairs, points: tuple[float, ...], weights: tuple[float, ...]) -> torch.Tensor:
    """Scores [pair, edge]: slopes of the twin in 1 - mask along the input path, differences held at the clean point."""
    own, away = outputs(model, whole, pairs.clean), replacement(model, whole, pairs, "resample")
    difference = away.minus(own).written(model, whole)
    total = torch.zeros(len(pairs), whole.n_edges, dtype=torch.float64)
    source, destination = whole.edges.T
    for point, weight in zip(points, weights, strict=True):
        embed = own.embed[0] + point * (away.embed[0] - own.embed[0])
        for i in range(len(pairs)):
            one, here = pairs.rows(slice(i, i + 1)), embed[i : i + 1]
            mask = torch.ones(whole.valid.shape, dtype=torch.float64, requires_grad=True)
            # a_u is set so that a_u - y_u is the difference at the clean point, whatever y_u is here
            moved = _Moved([d[i : i + 1] for d in difference])
            slope = torch.autograd.grad(twin(model, Toy(), one, whole, mask, moved, here)[0], mask)[0]
            total[i] -= weight * slope[source, destination]
    return total


class _Moved(list):
    """Sources whose replacement is their own output plus a difference; `a_u - y_u` of the twin is then that difference."""

    def __getitem__(self, u: int):
        return _Plus(super().__getitem__(u))


class _Plus:
    def __init__(self, difference: torch.Tensor) -> None:
        self.difference = difference

    def __sub__(self, own: torch.Tensor) -> torch.Tensor:
        return self.difference


def test_the_path_of_inputs_is_complete(llama: Model) -> None:
    pairs, whole = toy(), graph(llama)
    values = replacement(llama, whole, pairs, "resample")
    total = (corrupt_metric(llama, Toy(), pairs) - clean_metric(llama, Toy(), pairs)).mean()
    errors = []
    for steps in (4, 32):
        found = EapIg(steps)(llama, Toy(), pairs, whole, values)
        embed = found.matrix()[0].sum().double()
        errors.append(float((embed - total).abs() / total.abs()))
    assert errors[1] < 0.02
    assert errors[1] < errors[0]


@pytest.mark.slow
def test_paths_of_outputs_are_slopes_with_only_that_source_moved(llama: Model) -> None:
    pairs, whole = toy(2), graph(llama)
    values = replacement(llama, whole, pairs, "resample")
    found = EapIgActivations(64)(llama, Toy(), pairs, whole, values).matrix()
    # Along its whole path a source's edges add up to what ablating it alone does.
    for row, node in list(zip(range(whole.n_embeddings, len(whole.sources)), whole.nodes, strict=True))[4:9]:
        masks = whole.keeping([[n for n in whole.nodes if n != node]])
        effect = (metrics(llama, Toy(), pairs, whole, masks, values)[0] - clean_metric(llama, Toy(), pairs)).mean()
        assert float(found[row].sum()) == pytest.approx(float(effect), rel=0.02, abs=1e-4)


def test_grouped_scores_are_sums_of_their_group(llama: Model) -> None:
    pairs = toy()
    scores = {}
    for kv in ("grouped", "per_query_head"):
        whole = graph(llama, kv=kv)
        scores[kv] = (whole, Eap()(llama, Toy(), pairs, whole, replacement(llama, whole, pairs, "resample")).matrix())
    whole, grouped = scores["grouped"]
    apart, each = scores["per_query_head"]
    for column, owners in enumerate(whole.owners[:-1]):
        name = whole.destinations[column]
        parts = [name] if ".g" not in name else [f"{apart.sources[owner]}.{name[-1]}" for owner in owners]
        summed = each[:, [apart.destinations.index(part) for part in parts]].sum(1)
        assert torch.allclose(grouped[:, column], summed, rtol=1e-4, atol=1e-5)


def test_edges_of_a_source_add_up_to_its_attribution(tiny: Model) -> None:
    pairs, whole = toy(), graph(tiny)
    values = replacement(tiny, whole, pairs, "resample")
    nodes = Attribution()(tiny, Toy(), pairs, whole, values).mean
    assert torch.allclose(Eap()(tiny, Toy(), pairs, whole, values).matrix().sum(1)[1:], nodes, rtol=1e-4, atol=1e-5)


def test_exact_edges_equal_the_twin_with_one_edge_cut(tiny: Model) -> None:
    pairs, whole = toy(2), graph(tiny)
    found = ExactEdges()(tiny, Toy(), pairs, whole, replacement(tiny, whole, pairs, "resample"))
    away, clean = written(tiny, whole, pairs), clean_metric(tiny, Toy(), pairs)
    assert found.per_example is not None
    for edge in range(0, whole.n_edges, 41):
        mask = torch.ones(whole.valid.shape, dtype=torch.float64)
        mask[tuple(whole.edges[edge].tolist())] = 0
        expected = twin(tiny, Toy(), pairs, whole, mask, away) - clean
        assert torch.allclose(found.per_example[:, edge].double(), expected, atol=1e-6)


@pytest.mark.parametrize("ablation", ["mean", "mean_all", "zero"])
def test_every_ablation_replaces_by_what_it_says(tiny: Model, ablation: str) -> None:
    pairs, reference, whole = toy(), toy(12), graph(tiny)
    values = replacement(tiny, whole, pairs, ablation, reference)
    expected = _literal(tiny, whole, pairs, reference, ablation)
    # Behind the last token of a short prompt there is only padding, which no reading position sees.
    real = pairs.real()
    assert torch.allclose(values.written(tiny, whole)[:, real], expected[:, real], atol=1e-6)
    mask = torch.rand(1, *whole.valid.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    found = metrics(tiny, Toy(), pairs, whole, mask, values)[0]
    assert torch.allclose(found, twin(tiny, Toy(), pairs, whole, mask[0].double(), list(values.written(tiny, whole))), atol=1e-6)


def _literal(model: Model, whole: Graph, pairs: Pairs, reference: Pairs, ablation: str) -> torch.Tensor:
    """Replacements [source, pair, pos, d_model], prompt by prompt."""
    each = [outputs(model, whole, reference.corrupt[i : i + 1]).written(model, whole)[:, 0] for i in range(len(reference))]
    out = torch.zeros(len(whole.sources), *pairs.clean.shape, model.d_model, dtype=torch.float64)
    for i in range(len(pairs)):
        if ablation == "mean":
            same = [one for one, group in zip(each, reference.group.tolist(), strict=True) if group == int(pairs.group[i])]
            out[:, i] = sum(same) / len(same)
        if ablation == "mean_all":
            means = [one[:, : int(end) + 1].mean(1) for one, end in zip(each, reference.end, strict=True)]
            out[:, i] = (sum(means) / len(means))[:, None]
    return out


@pytest.mark.parametrize("tau", [*(pytest.param(tau, marks=pytest.mark.slow) for tau in (0.0, 0.01, 0.1)), 1.0])
def test_speculative_acdc_keeps_the_edges_of_sequential_acdc(llama: Model, tau: float) -> None:
    pairs, whole = toy(2), graph(llama)
    values = replacement(llama, whole, pairs, "resample")
    fast, slow = (Acdc((tau,), speculate=s)(llama, Toy(), pairs, whole, values) for s in (True, False))
    assert torch.equal(fast.mean, slow.mean)
    assert fast.notes["evaluations"] == slow.notes["evaluations"] == slow.notes["passes"]
    assert fast.notes["passes"] <= slow.notes["passes"]


def test_relevance_patching_changes_no_value_and_its_edges_add_up(tiny: Model) -> None:
    pairs, whole = toy(), graph(tiny)
    before = clean_metric(tiny, Toy(), pairs)
    scores = RelP()(tiny, Toy(), pairs, whole, replacement(tiny, whole, pairs, "resample"))
    assert torch.equal(clean_metric(tiny, Toy(), pairs), before)
    assert scores.mean.abs().sum() > 0


def test_circuits_hold_the_edges_on_a_path(tiny: Model) -> None:
    whole = graph(tiny)
    lonely = torch.zeros_like(whole.valid)
    lonely[0, 0] = True
    assert not whole.connected(lonely).any()
    lonely[1, -1] = True
    assert whole.connected(lonely).sum() == 2


def test_outputs_behave_as_values(tiny: Model) -> None:
    pairs, whole = toy(), graph(tiny)
    own = outputs(tiny, whole, pairs.clean)
    assert isinstance(own, Outputs)
    assert torch.equal(own.rows(slice(1, 2)).written(tiny, whole), own.written(tiny, whole)[:, 1:2])
