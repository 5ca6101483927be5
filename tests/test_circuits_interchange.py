import json
from random import Random

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from interp.circuits.interchange import Table, read_acdc, read_eap, write_acdc, write_eap
from interp.circuits.names import Edge, Shape
from interp.circuits.truth import circuits, load, variants
from interp.circuits.verdicts import compare, edge_verdicts
from saes.errors import InputError

SMALL = Shape(2, 2, 2)
CFG = {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}


def _table(edges: tuple[Edge, ...], seed: int) -> Table:
    """Any scores, some missing, and any circuit."""
    rng = Random(seed)
    scores = {edge: rng.choice([None, 0.0, rng.uniform(-2, 2)]) for edge in edges}
    return Table(scores, frozenset(edge for edge in edges if rng.random() < 0.4), {}, CFG)


def test_a_published_graph_survives_the_round_trip() -> None:
    data = json.loads(shared("cases/mib/ioi-eap-ig.json").read_text())
    table = read_eap(data)
    assert write_eap(table) == data
    assert list(write_eap(table)["edges"]) == list(data["edges"])
    assert set(table.scores) == set(Shape(12, 12, 12).edges())
    assert (len(table.kept), len(table.nodes), sum(table.nodes.values())) == (756, 158, 81)
    assert table.left_out == ()


@pytest.mark.slow
def test_a_published_graph_is_scored_under_both_signs() -> None:
    """In this file negative helps: name movers feed the logits with negative scores, negative name movers with positive ones."""
    table = read_eap(json.loads(shared("cases/mib/ioi-eap-ig.json").read_text()))
    truth = load("ioi")
    for head in truth.classes["name mover"]:
        assert table.scores[head, "logits"] < 0
    for head in truth.classes["negative name mover"]:
        assert table.scores[head, "logits"] > 0
    ours, turned = ({row.ranking: row for row in edge_verdicts(truth, one.scores, "resample")} for one in (table, table.flipped()))
    assert ours["absolute"] == turned["absolute"]
    assert ours["helping"].auroc == pytest.approx(1 - turned["helping"].auroc)
    assert ours["absolute"].auroc > 0.6
    found = compare(table.kept, truth, table.scores, "resample")
    assert found.missing == found.foreign == ()
    assert len(found.true_positive) + len(found.false_positive) == 756


def test_the_sign_of_an_effect_is_that_of_an_and_gate() -> None:
    """AND(a, b) = relu(a + b - 1): cutting an input that helps lowers the metric, so its effect is negative and it ranks first."""

    def gate(a: float, b: float, spare: float) -> float:
        return max(a + b - 1, 0.0) - 0.1 * spare

    inputs = {("0.0", "m0"): "a", ("0.1", "m0"): "b", ("embed", "m0"): "spare"}
    on = {"a": 1.0, "b": 1.0, "spare": 1.0}
    effects = {edge: gate(**{**on, name: 0.0}) - gate(**on) for edge, name in inputs.items()}
    assert effects == pytest.approx({("0.0", "m0"): -1, ("0.1", "m0"): -1, ("embed", "m0"): 0.1})


@given(st.integers(0, 10**6))
def test_eap_graphs_survive_the_round_trip(seed: int) -> None:
    table = _table(SMALL.edges(), seed)
    back = read_eap(json.loads(json.dumps(write_eap(table))))
    assert (back.scores, back.kept, back.cfg) == (table.scores, table.kept, table.cfg)
    assert back.nodes == {name: any(name in (s, t.rsplit(".", 1)[0], t) for s, t in table.kept) for name in back.nodes}
    assert list(back.nodes) == [*SMALL.sources(), "logits"]
    assert write_eap(back) == write_eap(table)


@pytest.mark.parametrize("shape", [SMALL, Shape(2, 1, 1, positions_apart=True), Shape(2, 2, 2, mlps=False)])
@given(st.integers(0, 10**6))
def test_acdc_lists_survive_the_round_trip(shape: Shape, seed: int) -> None:
    table = _table((*shape.edges(), *shape.direct()), seed)
    back = read_acdc(json.loads(json.dumps(write_acdc(table, shape))))
    assert back.kept == table.kept
    assert back.scores == {edge: score for edge, score in table.scores.items() if edge in table.kept}


def test_hook_names_are_those_of_acdc() -> None:
    edges: dict[Edge, float | None] = {
        ("embed", "0.1.q"): 0.5,
        ("0.1", "m0"): None,
        ("m0", "1.0.k"): 0.25,
        ("1.0.k", "1.0.k"): 1.0,
        ("1.0", "logits"): 2.0,
    }
    assert write_acdc(Table(edges, frozenset(edges), {}, {}), SMALL) == [
        [["blocks.0.hook_q_input", [None, None, 1], "blocks.0.hook_resid_pre", [None]], 0.5],
        [["blocks.0.hook_mlp_in", [None], "blocks.0.attn.hook_result", [None, None, 1]], None],
        [["blocks.1.hook_k_input", [None, None, 0], "blocks.0.hook_mlp_out", [None]], 0.25],
        [["blocks.1.attn.hook_k", [None, None, 0], "blocks.1.hook_k_input", [None, None, 0]], 1.0],
        [["blocks.1.hook_resid_post", [None], "blocks.1.attn.hook_result", [None, None, 0]], 2.0],
    ]


@pytest.mark.parametrize("circuit", circuits())
def test_every_truth_leaves_and_returns_as_an_acdc_list(circuit: str) -> None:
    for truth in (load(circuit, variant) for variant in variants(circuit)):
        edges = truth.edges | truth.direct
        table = Table(dict.fromkeys(edges), edges, {}, {})
        assert read_acdc(write_acdc(table, truth.shape)).kept == edges


def test_placeholders_are_left_out_and_counted() -> None:
    head = [None, None, 1]
    table = read_acdc(
        [
            [["blocks.0.attn.hook_result", head, "blocks.0.attn.hook_q", head], None],
            [["blocks.0.hook_mlp_out", [None], "blocks.0.hook_mlp_in", [None]], None],
            [["blocks.0.hook_mlp_in", [None], "blocks.0.attn.hook_result", head], 0.5],
        ]
    )
    assert table.kept == {("0.1", "m0")}
    assert table.left_out == ("2 placeholder edges",)


def test_fields_without_a_place_are_named() -> None:
    data = write_eap(Table(dict.fromkeys(SMALL.edges(), 1.0), frozenset(), {}, CFG))
    data["nodes"]["m0"]["neurons"] = [1, 2]
    data["edges"]["m0->logits"]["weight"] = 3
    assert read_eap(data).left_out == ("neurons of a node", "weight of an edge")


def test_edges_that_a_graph_lacks_are_reported_and_never_found() -> None:
    truth = load("docstring")
    scores = {edge: -float(edge in truth.edges) for edge in truth.shape.edges()}
    table = Table(scores, truth.edges, {}, {})
    graph = [edge for edge in truth.shape.edges() if edge[1] != "logits"]
    within, foreign = table.within(graph)
    assert {edge for edge in foreign if edge in truth.edges} == {("3.0", "logits"), ("3.6", "logits")}
    assert within.kept == {edge for edge in truth.edges if edge[1] != "logits"}
    found = compare(table.kept, truth, graph, "resample")
    assert found.foreign == found.missing == (("3.0", "logits"), ("3.6", "logits"))
    assert len(found.true_positive) == 22
    assert not found.false_positive


@pytest.mark.parametrize(
    ("edge", "why"),
    [(("pos", "0.0.q"), "one embedding"), (("embed", "0.g0.k"), "head by head"), (("0.0.q", "0.0.q"), "no direct edges")],
)
def test_edges_that_eap_graphs_lack_are_refused(edge: Edge, why: str) -> None:
    with pytest.raises(InputError, match=why):
        write_eap(Table({edge: 1.0}, frozenset({edge}), {}, CFG))


def test_files_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="save it with to_json"):
        read_eap({"nodes": {}, "links": {}})
    for name in ("m0-m1", "m0->a1.h0<z>", "head3->m5", "m0->resid"):
        with pytest.raises(InputError, match="names no"):
            read_eap({"cfg": {}, "nodes": {}, "edges": {name: {"in_graph": True}}})
    for child, index in (("blocks.0.hook_mlp_in", [None, 3, 1]), ("ln_final", [None]), ("blocks.0.hook_q_input", [])):
        with pytest.raises(InputError, match="no node without positions"):
            read_acdc([[[child, index, "blocks.0.hook_resid_pre", [None]], 1.0]])
    with pytest.raises(InputError, match="cannot be the parent"):
        read_acdc([[["blocks.1.hook_mlp_in", [None], "blocks.0.hook_mlp_in", [None]], 1.0]])
    with pytest.raises(InputError, match="its own q, k or v alone"):
        read_acdc([[["blocks.1.hook_mlp_in", [None], "blocks.0.hook_q_input", [None, None, 1]], 1.0]])
    with pytest.raises(InputError, match="without groups"):
        write_acdc(Table({("embed", "0.g0.k"): 1.0}, frozenset({("embed", "0.g0.k")}), {}, {}), SMALL)
