"""What the Circuit page draws and says: graphs of both kinds of run, words for every figure, task and corruption that a run can have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import Family, write_family

from app import circuit_graph, circuit_words, circuits
from app.circuit_tables import touching
from interp.circuits.ablation import Ablation
from interp.circuits.graph import Graph
from interp.circuits.methods import METHODS
from interp.circuits.paths import Wiring, owners
from interp.tasks import TASKS, TaskFile, corruptions
from saes.errors import InputError

GRAPHS = (Graph(3, 4, 2, True, False, False), Graph(3, 2, 2, False, False, True), Graph(2, 3, 1, True, True, False))


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    return write_family(tmp_path_factory.mktemp("runs"))


def wiring(graph: Graph) -> Wiring:
    return Wiring.of_table(*zip(*named(graph), strict=True))


def named(graph: Graph) -> list[tuple[str, str]]:
    return [(graph.sources[s], graph.destinations[d]) for s, d in graph.edges.tolist()]


def literally_on_path(graph: Graph, kept: list[tuple[str, str]]) -> list[bool]:
    """Walks edge by edge: forwards from the embeddings, backwards from the logits."""
    reads = {}
    for end in graph.destinations[:-1]:
        size = graph.n_heads // graph.n_kv
        layer, part, *_ = [*end.split("."), ""]
        shared = [f"{layer}.{h}" for h in range(int(part[1:]) * size, (int(part[1:]) + 1) * size)] if part.startswith("g") else []
        reads[end] = shared or [end if end.startswith("m") else f"{layer}.{part}"]
    forwards, backwards = set(), set()
    for _ in range(len(graph.destinations)):
        alive = {"embed", "pos"} | {name for _, end in forwards for name in reads.get(end, [])}
        forwards = {edge for edge in kept if edge[0] in alive}
        wanted = {"logits"} | {end for end, names in reads.items() if any(edge[0] in names for edge in backwards)}
        backwards = {edge for edge in kept if edge[1] in wanted}
    return [edge in forwards and edge in backwards for edge in kept]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(GRAPHS), st.floats(0.05, 0.9), st.integers(0, 2**31))
def test_edges_on_a_path_are_those_that_a_walk_finds(graph, share, seed):
    kept = np.flatnonzero(np.random.default_rng(seed).random(graph.n_edges) < share)
    mask = torch.zeros(graph.valid.shape, dtype=torch.bool)
    source, destination = graph.edges[kept].T
    mask[source, destination] = True
    expected = literally_on_path(graph, [named(graph)[i] for i in kept])
    assert wiring(graph).on_path(kept).tolist() == expected
    assert graph.connected(mask)[source, destination].tolist() == expected
    assert int(graph.connected(mask).sum()) == sum(expected)


def test_owners_are_the_heads_of_a_group_and_the_mlp_itself():
    found = owners(("embed", "0.0", "0.1", "m0"), ("0.0.q", "0.1.q", "0.g0.k", "0.g0.v", "m0", "logits"))
    assert found["0.1.q"] == ("0.1",)
    assert found["0.g0.k"] == found["0.g0.v"] == ("0.0", "0.1")
    assert (found["m0"], found["logits"]) == (("m0",), ())


@given(st.integers(0, 60), st.integers(0, 2**31))
def test_the_largest_circuit_is_the_last_that_is_not_above_the_limit(most, seed):
    one = wiring(GRAPHS[0])
    order = np.random.default_rng(seed).permutation(GRAPHS[0].n_edges)
    found = one.largest(order, most)
    counts = [int(one.on_path(order[:n]).sum()) for n in range(len(order) + 1)]
    assert counts[found] <= most
    assert found == len(order) or counts[found + 1] > most


@pytest.mark.parametrize("size", [0, 1, 50, 400, None])
def test_only_edges_on_a_path_are_drawn_and_few_enough(family, size):
    edges, nodes, one = circuits.edges_of(family.edges), circuits.nodes_of(family.edges), circuits.wiring_of(family.edges)
    order = circuits.entering(edges["score"], "helping")[:size]
    drawing = circuit_graph.of_edges(edges, one, nodes, order, "logits")
    texts = {line.text for line in drawing.lines}
    assert len(texts) <= circuit_graph.MOST
    assert ("Cut: " in drawing.said) == (one.on_path(order).sum() > circuit_graph.MOST)
    ends = {line.to for line in drawing.lines} | {line.source for line in drawing.lines}
    assert {v.name for v in drawing.vertices} == (ends or {"embed", "logits"})
    inner = ends - {"embed", "logits"}
    assert inner <= {line.source for line in drawing.lines} & {line.to for line in drawing.lines}
    if not drawing.lines:
        assert "0 of the" in drawing.said


def test_an_edge_into_a_shared_key_leads_to_the_heads_of_its_group_that_are_in_the_circuit():
    graph = GRAPHS[0]
    names = [(graph.sources[s], graph.destinations[d]) for s, d in graph.edges.tolist()]
    kept = np.array([names.index(edge) for edge in (("embed", "0.g0.k"), ("0.1", "m0"), ("m0", "logits"))])
    columns = {"source": np.array([s for s, _ in names]), "destination": np.array([d for _, d in names])}
    columns |= {name: np.full(len(names), -1.0) for name in ("score", "score_low", "score_high", "exact", "same_sign")}
    nodes = {"name": np.array(graph.sources[1:]), "score": np.zeros(len(graph.sources) - 1)}
    drawing = circuit_graph.of_edges(columns, wiring(graph), nodes, kept, "logits")
    assert [(line.source, line.to, line.side) for line in drawing.lines] == [("embed", "0.1", "k"), ("0.1", "m0", ""), ("m0", "logits", "")]
    choices = ["any", *graph.sources, "logits"]
    assert touching(columns, kept, "0.1", choices).tolist() == [True, True, False]
    assert touching(columns, kept, "0.0", choices).tolist() == [True, False, False]
    assert touching(columns, kept, "logits", choices).tolist() == [False, False, True]


def test_nodes_are_joined_from_layer_to_layer_and_only_while_they_are_few(family):
    nodes = circuits.nodes_of(family.circuit)
    order = circuits.entering(nodes["score"], "helping")
    few = circuit_graph.of_nodes(nodes, order[:10], "score", "logits")
    layer = {v.name: circuit_graph.layer_of(v.name) for v in few.vertices}
    assert all(layer[line.source] < layer[line.to] for line in few.lines)
    assert all(line.score is None for line in few.lines)
    assert {line.source for line in few.lines} >= {v.name for v in few.vertices} - {"logits"}
    many = circuit_graph.of_nodes(nodes, order, "score", "logits")
    assert not many.lines
    assert "Cut: " in many.said
    assert len(many.vertices) == len(order) + 2


def test_tasks_and_methods_say_what_they_are():
    for kind in (*TASKS.values(), TaskFile):
        assert kind.ABOUT.endswith((".", ")."))
        assert set(kind.CORRUPTIONS) == set(corruptions(kind))
        assert all(kind.METRIC)
    for method in METHODS.values():
        assert method.ABOUT
        assert isinstance(method.EFFECTS, bool)
    assert set(circuit_words.ABLATIONS) == set(Ablation.__args__)


def test_a_figure_at_a_size_names_its_scope():
    found = circuit_words.figure("top20_resample_method")
    assert found is not None
    assert found.title == "20 heads + all MLPs"
    assert "every MLP running" in found.meaning
    other = circuit_words.figure("edges0.5_mean_all_random")
    assert other is not None
    assert (other.title, other.series) == ("0.5 % of edges, mean_all", "random")
    assert circuit_words.figure("edges1_resample_method_low") is None
    assert circuit_words.figure("seconds") is None


def test_figures_stand_in_groups_with_their_intervals_units_and_orders():
    summary = {"metric_clean": 4.3, "same_sign": 0.97, "cpr_method": 0.85, "cpr_method_low": 0.6, "cpr_method_high": 1.1, "cpr_random": 0.2}
    groups = circuit_words.grouped(summary, "logits")
    assert {group: [(row.title, row.values) for row in rows] for group, rows in groups.items()} == {
        "Task": [("metric, clean", {"": "4.30 logits"})],
        "Agreement with exact effects": [("same sign", {"": "97 %"})],
        "Areas under the curve": [("CPR", {"method": "0.85 [0.60, 1.10]", "random": "0.20"})],
    }


def test_a_name_that_is_none_is_a_sentence():
    with pytest.raises(InputError, match="names no node"):
        Wiring.of_table(["embed"], ["attention"])
