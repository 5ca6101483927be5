import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from interp.circuits.names import Edge, Name, Shape, edge_order, owner, parse, touches_mlp
from interp.circuits.roc import auroc, threshold_scores
from interp.circuits.truth import Truth, circuits, folder, load, rebuilt, variants
from interp.circuits.verdicts import compare, edge_verdicts, node_scores, node_verdicts
from saes.errors import InputError

ALL = [(circuit, variant) for circuit in circuits() for variant in variants(circuit)]
SHAPES = {
    "gpt2": (Shape(12, 12, 12), 32491, 32923),
    "four layers of attention": (Shape(4, 8, 8, mlps=False), 1281, 1377),
    "two layers of attention": (Shape(2, 8, 8, mlps=False), 257, 305),
    "reverse": (Shape(4, 1, 1, positions_apart=True), 94, 106),
    "xproportion": (Shape(2, 1, 1, positions_apart=True), 32, 38),
    "InterpBench": (Shape(6, 4, 4), 1108, 1180),
}
# Published truths changed under the same name in other repositories; ours change only with this line.
PINNED = {
    "docstring.json": "53143083ada95a8a529d9298f411421b1aebe02ec08cb77936530c9d75faef69",
    "greater_than.json": "8c67d4b16e97b706b7a2cfcf055d1c6ee97c5775280bded51813166b2e0cdfc9",
    "induction_2l.json": "6ab12a1304f080b6609a96df4fb5e5b271e329a1a2198220c3f56546de43d957",
    "ioi.json": "12ad4be27137baf1e88ae8fc47b7269a23bdfe09d1ee17b949e15341115305da",
    "tracr_reverse.json": "35e9b8a7c2da8886693a4db492b1051c9adcb87581ca968c867bae6005c13247",
    "tracr_xproportion.json": "404f86588068e393be14120a7e979e6c1e5ecb9f2bbd305190b91ad1579c4823",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_has_as_many_edges_as_published(name: str) -> None:
    shape, residual, with_direct = SHAPES[name]
    assert len(shape.edges()) == residual
    assert len(shape.edges()) + len(shape.direct()) == with_direct


@pytest.mark.parametrize(
    ("shape", "per_head", "grouped"),
    [(Shape(30, 9, 3), 123211, 70651), (Shape(24, 14, 2), 179749, 79813), (Shape(32, 32, 8), 1592881, 805681)],
    ids=["SmolLM2-135M", "Qwen2.5-0.5B", "Llama-3-8B"],
)
def test_shared_keys_and_values_have_fewer_edges(shape: Shape, per_head: int, grouped: int) -> None:
    sources = len(shape.sources())

    def count(group: bool) -> int:
        # Residual edges of one layer: every reader of attention sees what earlier layers wrote, the MLP its own heads too.
        readers = shape.n_heads + 2 * (shape.n_kv_heads if group else shape.n_heads)
        before = [1 + layer * (shape.n_heads + 1) for layer in range(shape.n_layers)]
        return sum(n * readers + n + shape.n_heads for n in before) + sources

    assert (count(False), count(True)) == (per_head, grouped)
    if shape.n_layers == 30:
        assert (len(shape.edges()), len(shape.edges(grouped=True))) == (per_head, grouped)


def test_the_mlp_of_a_parallel_block_does_not_read_its_own_heads() -> None:
    extra = set(Shape(3, 2, 2).edges()) - set(Shape(3, 2, 2, parallel=True).edges())
    assert extra == {(f"{layer}.{head}", f"m{layer}") for layer in range(3) for head in range(2)}


def test_names_are_taken_apart_and_refused() -> None:
    assert parse("9.6.q") == Name("input", 9, 6, "q")
    assert parse("9.g1.k") == Name("input", 9, 1, "k")
    assert parse("10.6") == Name("head", 10, 6)
    assert (owner("9.6.q"), owner("9.g1.v"), owner("m3"), owner("9.6")) == ("9.6", "9.g1", "m3", "9.6")
    for text in ("9.6.x", "9.g1.q", "m", "a9.h6", "9.6 .q", "mlp3", ""):
        with pytest.raises(InputError, match="names no node"):
            parse(text)


COUNTS = {
    "ioi/acdc": (963, 78),
    "greater_than/acdc": (235, 27),
    "docstring/acdc": (24, 13),
    "tracr_reverse/zero": (11, 4),
    "tracr_reverse/zero_full_length": (9, 0),
    "tracr_reverse/resample": (2, 0),
    "tracr_reverse/structural": (15, 0),
    "tracr_xproportion/zero": (5, 3),
    "tracr_xproportion/acdc": (7, 3),
    "tracr_xproportion/resample": (3, 0),
    "tracr_xproportion/structural": (7, 0),
    "induction_2l/shi": (6, 0),
}


def test_truths_have_the_published_numbers_of_edges() -> None:
    found = {name: (len(load(*name.split("/")).edges), len(load(*name.split("/")).direct)) for name in COUNTS}
    assert found == COUNTS
    assert sum(COUNTS["ioi/acdc"]) == 1041
    assert sum(COUNTS["greater_than/acdc"]) == 262
    assert sum(COUNTS["docstring/acdc"]) == 37


def test_ioi_has_the_published_kinds_of_edges_and_183_without_an_mlp() -> None:
    truth = load("ioi")
    kinds: dict[str, int] = {}
    for source, to in truth.edges:
        ends = " ".join(parse(end).kind.replace("input", "head") for end in (source, to))
        kinds[ends] = kinds.get(ends, 0) + 1
    assert kinds == {
        "mlp head": 567,
        "head head": 124,
        "head mlp": 123,
        "mlp mlp": 66,
        "embed head": 45,
        "head logits": 13,
        "mlp logits": 12,
        "embed mlp": 12,
        "embed logits": 1,
    }
    assert len(truth.without_mlps().edges) == 183
    assert not any(map(touches_mlp, truth.without_mlps().edges))


@pytest.mark.parametrize(("circuit", "variant"), [pair for pair in ALL if load(*pair).rule])
def test_a_file_rebuilds_from_its_rule(circuit: str, variant: str) -> None:
    truth = load(circuit, variant)
    assert rebuilt(truth) == truth.edges
    assert truth.heads == {name for members in truth.classes.values() for name in members if parse(name).kind == "head"}


def test_five_variants_have_a_rule_and_lists_have_none() -> None:
    assert sum(load(*pair).rule is not None for pair in ALL) == 5
    with pytest.raises(InputError, match="without a rule"):
        rebuilt(load("docstring"))


@pytest.mark.parametrize(("circuit", "variant"), ALL)
def test_every_truth_fits_its_model(circuit: str, variant: str) -> None:
    truth = load(circuit, variant)
    record = json.loads((folder() / f"{circuit}.json").read_text())
    possible = set(truth.shape.edges())
    assert record["possible"] == {"residual": len(possible), "with_direct": len(possible) + len(truth.shape.direct())}
    assert truth.edges <= possible
    assert truth.direct <= set(truth.shape.direct())
    assert truth.nodes <= {*truth.shape.sources(), *truth.shape.destinations()}
    assert bool(truth.edges) != bool(truth.listed)
    for name in truth.positions:
        assert tuple(name.split("->")) in truth.edges if "->" in name else name in truth.nodes
    fields = record["variants"][variant]
    assert set(fields["ablations"]) <= {"zero", "mean", "mean_per_position", "resample", "learned"}
    # The order of the file is the order of the model, and no edge stands twice.
    listed = [(source, to) for to, sources in fields.get("edges", {}).items() for source in sources.split()]
    assert listed == sorted(set(listed), key=edge_order)


def test_truth_files_are_pinned() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder().glob("*.json")} == PINNED


@pytest.mark.parametrize("circuit", circuits())
def test_files_agree_with_a_second_record_of_the_same_circuits(circuit: str) -> None:
    theirs = json.loads(shared(f"data/circuits/{circuit}.json").read_text())
    ours = load(circuit)
    assert ours.edges == set(map(tuple, theirs["edges"]))
    assert {name for name, _ in ours.direct} == set(theirs.get("direct", ()))
    same = {"acdc_published": "acdc", "heads": "auto_circuit"}
    for other in theirs.get("variants", ()):
        variant = load(circuit, same.get(other["id"], other["id"]))
        assert variant.edges == set(map(tuple, other.get("edges", ())))
        assert "edges" in other or variant.listed == {node["node"] for node in other["nodes"]}


def test_named_lists_differ_where_the_papers_differ() -> None:
    wang = load("ioi", "wang").heads
    assert len(wang) == 26
    assert load("ioi").heads == wang
    assert load("ioi", "oneill").heads == wang - {"9.0"} | {"11.3"}
    assert load("ioi", "makelov").heads == wang - {"10.6"}
    acdc = load("greater_than").heads
    assert load("greater_than", "hanna").heads == acdc - {"6.1"} | {"5.1", "8.8"}
    assert load("docstring", "oneill").heads == load("docstring").heads - {"1.2"} | {"1.0"}
    assert load("docstring", "auto_circuit").heads - load("docstring", "auto_circuit_core").heads == {"0.1", "1.0", "2.3"}


def test_an_mlp_is_one_node_and_the_inputs_of_a_head_are_three() -> None:
    # Splitting names on blanks lost the inputs of MLPs in another repository and with them the merged nodes.
    truth = load("ioi")
    assert len(truth.nodes) == 1 + 26 + 3 * 26 + 12 + 1
    assert {"m0", "9.6", "9.6.q", "embed", "logits"} <= truth.nodes
    assert len(load("greater_than").nodes) == 1 + 9 + 27 + 12 + 1


def test_a_method_under_another_ablation_is_refused() -> None:
    reverse = load("tracr_reverse")
    reverse.require("zero")
    reverse.require(None)
    with pytest.raises(InputError, match=r"under zero, not under 'resample'.*another variant: resample"):
        reverse.require("resample")
    with pytest.raises(InputError, match=r"not under 'zero'.*there is none"):
        load("ioi").require("zero")
    with pytest.raises(InputError, match="no ablation at all"):
        load("tracr_reverse", "structural").require("zero")
    with pytest.raises(InputError, match="ablations are zero"):
        reverse.require("knockout")
    scores = dict.fromkeys(reverse.shape.edges(), 0.0)
    for call in (edge_verdicts, node_verdicts):
        with pytest.raises(InputError, match="not under 'resample'"):
            call(reverse, scores if call is edge_verdicts else node_scores(scores), "resample")
    with pytest.raises(InputError, match="not under 'resample'"):
        compare((), reverse, scores, "resample")


def test_unknown_circuits_and_variants_are_named() -> None:
    with pytest.raises(InputError, match="there are docstring, greater_than"):
        load("sudoku")
    with pytest.raises(InputError, match="no variant 'mine'; there are acdc"):
        load("ioi", "mine")
    assert variants("tracr_reverse", "zero") == ("zero", "zero_full_length")
    assert variants("ioi")[0] == "acdc"


def _noisy(truth: Truth, sign: float, seed: int = 0) -> dict[Edge, float]:
    """Effects: negative at the true edges, noise elsewhere."""
    rng = np.random.default_rng(seed)
    return {edge: sign * (rng.normal() * 0.1 - (edge in truth.edges)) for edge in truth.shape.edges()}


def test_a_turned_sign_shows_as_an_area_below_one_half() -> None:
    truth = load("docstring")
    right, wrong = (edge_verdicts(truth, _noisy(truth, sign), "resample") for sign in (1.0, -1.0))
    helping, absolute = ({row.ranking: row.auroc for row in rows} for rows in (right, wrong))
    assert helping["helping"] > 0.99
    assert absolute["helping"] < 0.01
    assert helping["absolute"] == absolute["absolute"] > 0.99


def test_circuits_with_mlps_are_scored_twice() -> None:
    truth = load("ioi")
    rows = edge_verdicts(truth, _noisy(truth, 1.0), "resample")
    assert [(row.ranking, row.among, row.n_true) for row in rows] == [
        ("helping", "all", 963),
        ("helping", "no mlp", 183),
        ("absolute", "all", 963),
        ("absolute", "no mlp", 183),
    ]
    assert rows[0].n_scored == 32491
    assert rows[1].n_scored == sum(not touches_mlp(edge) for edge in truth.shape.edges())
    assert [row.among for row in edge_verdicts(load("docstring"), _noisy(load("docstring"), 1.0), "resample")] == ["all", "all"]


def test_direct_edges_count_only_where_the_graph_has_them() -> None:
    truth = load("docstring")
    graph = [*truth.shape.edges(), *truth.shape.direct()]
    assert len(compare(graph, truth, graph, "resample").true_positive) == 37
    assert len(compare(graph, truth, truth.shape.edges(), "resample").true_positive) == 24
    rows = edge_verdicts(truth, dict.fromkeys(graph, 0.0), "resample")
    assert (rows[0].n_true, rows[0].n_scored) == (37, 1377)


def test_an_edge_that_the_graph_lacks_is_reported_and_never_found() -> None:
    truth = load("docstring")
    lost = ("3.0", "logits")
    graph = [edge for edge in truth.shape.edges() if edge != lost]
    found = compare([*truth.edges, ("embed", "m7")], truth, graph, "resample")
    assert lost in found.missing
    assert lost in found.foreign
    assert ("embed", "m7") in found.foreign
    assert lost not in found.true_positive
    assert found.recall == 23 / 24
    assert found.precision == 1
    row = edge_verdicts(truth, {edge: -float(edge in truth.edges) for edge in graph}, "resample")[0]
    assert row.missing == ("3.0->logits",)
    assert row.auroc == pytest.approx(23 / 24)
    # Not even a tie at the bottom credits it.
    never = edge_verdicts(truth, {edge: float(edge in truth.edges) - np.inf for edge in graph}, "resample", ("as given",))[0]
    assert never.auroc == pytest.approx(23 / 24 / 2)


def test_a_graph_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="two models"):
        compare((), load("tracr_reverse", "resample"), [("embed", "m0"), ("m0", "logits")], "resample")
    disjoint = {("embed", "2.1.q"): 1.0, ("embed", "2.2.q"): 0.0}
    with pytest.raises(InputError, match="two models"):
        edge_verdicts(load("induction_2l"), disjoint, "resample")


def test_a_truth_of_nodes_scores_heads_and_refuses_edges() -> None:
    truth = load("ioi", "wang")
    heads = {f"{layer}.{head}": float(f"{layer}.{head}" in truth.heads) for layer in range(12) for head in range(12)}
    row = node_verdicts(truth, heads, None)[1]
    assert (row.ranking, row.auroc, row.n_true, row.n_scored, row.missing) == ("absolute", 1.0, 26, 144, ())
    # Heads alone: the MLPs and inputs of the edge version are no part of the question.
    row = node_verdicts(load("ioi"), heads, "resample")[1]
    assert (row.n_true, row.missing) == (26, ())
    with pytest.raises(InputError, match="load a variant with edges: acdc"):
        compare((), truth, truth.shape.edges(), "mean")


@given(st.integers(0, 100))
def test_a_node_scores_as_high_as_the_last_threshold_that_keeps_one_of_its_edges(seed: int) -> None:
    shape, rng = Shape(2, 2, 2), np.random.default_rng(seed)
    scores = {edge: float(rng.integers(-3, 4)) for edge in shape.edges()}
    nodes = node_scores(scores)
    for threshold in range(1, 4):
        ends = {end for edge, score in scores.items() if abs(score) >= threshold for end in edge}
        assert ends == {name for name, score in nodes.items() if abs(score) >= threshold}


@given(st.integers(0, 200))
def test_of_two_sufficient_sets_the_better_counts_and_the_other_is_left_out(seed: int) -> None:
    either, other = frozenset({("embed", "m0"), ("m0", "logits")}), frozenset({("embed", "m1"), ("m1", "logits")})
    base = load("tracr_reverse")
    truth = replace(base, edges=either, alternatives=(other,), direct=frozenset())
    graph = truth.shape.edges()
    found = compare(other, truth, graph, "zero")
    assert (found.precision, found.recall) == (1, 1)
    found = compare(other | either, truth, graph, "zero")
    assert (found.precision, found.recall) == (1, 1)
    rng = np.random.default_rng(seed)
    scores = {edge: float(rng.normal()) for edge in graph}

    def literal(aim: frozenset[Edge], rest: frozenset[Edge]) -> float:
        kept = [edge for edge in graph if edge not in rest - aim]
        return auroc(np.array([-scores[edge] for edge in kept]), np.array([edge in aim for edge in kept]))

    row = edge_verdicts(truth, scores, "zero", ("helping",))[0]
    assert row.auroc == max(literal(either, other), literal(other, either))


def test_sets_over_thresholds_become_scores() -> None:
    truth = load("docstring")
    graph = truth.shape.edges()
    kept = np.array([[edge in truth.edges or i > 1 for edge in graph] for i in range(3)])
    scores = threshold_scores(kept, np.array([1.0, 0.1, 0.01]))
    row = edge_verdicts(truth, dict(zip(graph, scores.tolist(), strict=True)), "resample", ("as given",))[0]
    assert row.auroc == row.average_precision == 1
