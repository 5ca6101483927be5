"""What no method and no run may change or break: the model, its hooks, and the identities that raise."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_circuits_toy import Toy, double

from interp.circuits import faithfulness
from interp.circuits.ablation import replacement
from interp.circuits.exported import exported, imported, on_graph
from interp.circuits.faithfulness import Series, curves
from interp.circuits.graph import Graph, KeyValue, Scores, graph
from interp.circuits.inflation import inflated, random_path
from interp.circuits.interchange import Table, write_acdc
from interp.circuits.methods import METHODS, Budgeted, DiscreteCodeEdges, DiscreteCodes, Eap, EapIg, ExactEdges, Imported, Method, Scorer
from interp.circuits.methods.budgeted import nearest, uncertain
from interp.circuits.methods.random import shuffled
from interp.circuits.names import Shape
from interp.circuits.trials import PER_UNIT, example_rows, figures, layers, n_circuits, trial_rows, trials
from interp.circuits.view import view
from interp.models.bridge import Model
from interp.tasks import Pairs
from saes.errors import InputError


@pytest.fixture
def llama(tiny_llama: Path) -> Model:
    return double(tiny_llama)


@pytest.fixture
def pairs() -> Pairs:
    return Toy().pairs(None, 4, 0, None)


def _solved(model: Model, pairs: Pairs) -> Pairs:
    """Answers that a random model gives: its first choice on the clean prompt against that on the corrupt one."""
    row = torch.arange(len(pairs))
    with torch.no_grad():
        clean, corrupt = (model(tokens)[row, pairs.read[:, 0]] for tokens in (pairs.clean, pairs.corrupt))
    return dataclasses.replace(pairs, answer=(clean - corrupt).argmax(1), wrong=(corrupt - clean).argmax(1)[:, None])


def _hash(model: Model) -> str:
    tensors = {**dict(model.bridge.named_parameters()), **dict(model.bridge.named_buffers())}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _short(name: str, path: Path) -> Method:
    """A method with its defaults, a few steps where it trains, and a file where it reads one."""
    if name == "imported":
        return Imported(str(path))
    method = METHODS[name]()
    if isinstance(method, DiscreteCodes):
        return dataclasses.replace(method, examples=2, latents=8, epochs=4)
    if isinstance(method, DiscreteCodeEdges):
        return DiscreteCodeEdges(DiscreteCodes(examples=2, latents=8, epochs=4))
    return dataclasses.replace(method, steps=4) if hasattr(method, "gate_seed") else method


def _graph_file(model: Model, folder: Path, kv: KeyValue = "grouped") -> Path:
    path = folder / "circuit.json"
    path.write_text(json.dumps(exported(view(shuffled(graph(model, kv), "edge", 3), "absolute"), model)))
    return path


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "acdc" else name for name in METHODS])
@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
def test_a_method_leaves_the_model_to_the_bit_and_without_hooks(
    name: str, kind: str, pairs: Pairs, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = double(request.getfixturevalue(kind))
    whole = graph(model)
    method = _short(name, _graph_file(model, tmp_path))
    assert isinstance(method, Scorer)
    values = replacement(model, whole, pairs, "resample")
    before, logits = _hash(model), model(pairs.clean)
    grad = [p.requires_grad for p in model.bridge.parameters()]
    scores = method(model, Toy(), pairs, whole, values)
    assert _hash(model) == before
    assert model.hook_count() == 0
    assert torch.equal(model(pairs.clean), logits)
    assert [p.requires_grad for p in model.bridge.parameters()] == grad
    assert all(p.grad is None for p in model.bridge.parameters())
    assert scores.unit == method.UNIT
    assert len(scores.mean) == len(scores.deviation) == len(scores.agreement) == len(scores.names())
    assert bool(scores.mean.isfinite().all())


def _curves(model: Model, pairs: Pairs, unit: str) -> object:
    whole, pairs = graph(model), _solved(model, pairs)
    series = [Series("method", shuffled(whole, unit, 0))]  # pyright: ignore[reportArgumentType]
    return curves(model, Toy(), pairs, series, "resample", replacement(model, whole, pairs, "resample"))


@pytest.mark.parametrize("end", ["clean_metric", "corrupt_metric"])
def test_ends_of_a_curve_over_edges_that_are_no_plain_runs_raise(
    end: str, llama: Model, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _curves(llama, pairs, "edge")
    own: Callable = getattr(faithfulness, end)
    monkeypatch.setattr(faithfulness, end, lambda *given: own(*given) + 0.01)
    with pytest.raises(AssertionError, match="clean run" if end == "clean_metric" else "corrupt run"):
        _curves(llama, pairs, "edge")


# ---- budgeted


def test_a_budget_goes_to_the_edges_around_the_frontier_and_their_scores_are_exact(llama: Model, pairs: Pairs) -> None:
    whole = graph(llama)
    values = replacement(llama, whole, pairs, "resample")
    method = Budgeted(budget=30, frontier=0.1)
    scores = method(llama, Toy(), pairs, whole, values)
    exact, fast, path = (m(llama, Toy(), pairs, whole, values).mean for m in (ExactEdges(), Eap(), EapIg()))
    is_exact, is_path, is_fast = (torch.isclose(scores.mean, one.float(), rtol=1e-4, atol=1e-7) for one in (exact, path, fast))
    assert bool((is_exact | is_path | is_fast).all())
    assert int(is_exact.sum()) >= 30 == scores.notes["edges_exact"]
    assert sum(scores.notes[name] for name in ("edges_exact", "edges_eap_ig", "edges_eap")) == whole.n_edges
    assert scores.notes["edges_eap_ig"] > 0


def test_a_budget_of_all_edges_is_exact_patching_and_one_of_none_costs_no_exact_run(llama: Model, pairs: Pairs) -> None:
    whole = graph(llama)
    values = replacement(llama, whole, pairs, "resample")
    everything = Budgeted(budget=10**6)(llama, Toy(), pairs, whole, values)
    exact = ExactEdges()(llama, Toy(), pairs, whole, values)
    assert torch.allclose(everything.mean, exact.mean.float(), atol=1e-6)
    assert everything.per_example is not None
    assert exact.per_example is not None
    assert torch.allclose(everything.per_example, exact.per_example.float(), atol=1e-6)
    assert Budgeted(budget=0)(llama, Toy(), pairs, whole, values).notes["edges_exact"] == 0


def test_uncertain_edges_disagree_or_span_the_frontier() -> None:
    shape = Graph(1, 1, 1, mlps=False)
    assert shape.n_edges == 5
    mean = torch.tensor([-5.0, -2.0, -1.9, 0.0, 1.0])
    deviation = torch.tensor([0.1, 0.1, 4.0, 0.0, 0.1])
    agreement = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5])
    scores = Scores(shape, "edge", mean, deviation, agreement, 16)
    assert uncertain(scores, "helping", 2).tolist() == [False, True, True, False, True]
    assert nearest(scores, "helping", 2, torch.ones(5, dtype=torch.bool), 2).tolist() == [1, 2]
    assert nearest(scores, "helping", 2, torch.tensor([True, False, True, True, True]), 2).tolist() == [2, 0]


@pytest.mark.parametrize("wrong", [{"budget": -1}, {"frontier": 0.0}, {"frontier": 1.0}])
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Budgeted(**wrong)


# ---- graphs of other programs


@pytest.mark.parametrize("kv", ["grouped", "per_query_head"])
def test_an_exported_graph_names_single_heads_and_comes_back_as_it_was(kv: KeyValue, llama: Model, tmp_path: Path) -> None:
    scores = shuffled(graph(llama, kv), "edge", 3)
    data = json.loads(_graph_file(llama, tmp_path, kv).read_text())
    assert len(data["edges"]) == graph(llama, "per_query_head").n_edges
    back, notes = on_graph(imported(tmp_path / "circuit.json"), scores.graph)
    assert torch.allclose(back, scores.mean, atol=1e-6)
    assert notes == {"edges_read": scores.graph.n_edges, "edges_without_score": 0, "edges_foreign": 0}


def test_edges_that_acdc_kept_are_read_and_flipped(llama: Model, pairs: Pairs, tmp_path: Path) -> None:
    whole = graph(llama, "per_query_head")
    kept: dict = {("embed", "0.1.v"): 0.5, ("0.1", "m1"): 0.25, ("m1", "logits"): 2.0}
    path = tmp_path / "acdc.json"
    path.write_text(json.dumps(write_acdc(Table(kept, frozenset(kept), {}, {}), Shape(llama.n_layers, llama.n_heads, llama.n_heads))))
    scores = Imported(str(path), flipped=True)(llama, Toy(), pairs, whole, replacement(llama, whole, pairs, "zero"))
    named = dict(zip(scores.names(), scores.mean.tolist(), strict=True))
    assert {name: value for name, value in named.items() if value} == {"embed->0.1.v": -0.5, "0.1->m1": -0.25, "m1->logits": -2.0}


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "cannot be read as JSON"), ("{}", "has cfg, nodes and edges"), ("[1]", "neither a graph")]
)
def test_files_that_are_no_graph_are_refused_in_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        imported(path)


def test_a_graph_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="another model"):
        on_graph(Table({("11.3", "logits"): 1.0}, frozenset(), {}, {}), Graph(2, 2, 2))


# ---- the circuit in view and its tests


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_a_random_path_leads_from_an_embedding_to_the_logits_and_inflates_by_new_units(unit: str) -> None:
    shape = Graph(3, 4, 2)
    generator = np.random.default_rng(0)
    for _ in range(50):
        path = random_path(shape, generator)
        assert path[0][0] < shape.n_embeddings
        assert path[-1][1] == len(shape.destinations) - 1
        assert all(bool(shape.valid[edge]) for edge in path)
        assert all(after[0] in shape.owners[before[1]] for before, after in itertools.pairwise(path))
    kept = view(shuffled(shape, unit, 0), "absolute").kept  # pyright: ignore[reportArgumentType]
    larger, smaller = inflated(shape, unit, kept, 40, 0)  # pyright: ignore[reportArgumentType]
    assert bool((larger & kept == kept).all() and (smaller & kept == kept).all())
    assert bool(((larger & ~smaller).sum(1) == 1).all())
    assert bool((~larger & smaller).sum() == 0)
    nearly = torch.ones_like(kept)
    nearly[-1] = False
    assert bool(inflated(shape, unit, nearly, 2, 0)[0].all())  # pyright: ignore[reportArgumentType]


def test_layers_of_edges_are_those_of_their_destinations() -> None:
    shape = Graph(3, 4, 2)
    names = [shape.destinations[d] for d in shape.edges[:, 1].tolist()]
    expected = [3 if name == "logits" else int(name.lstrip("m").split(".")[0]) for name in names]
    assert layers(shape, "edge").tolist() == expected
    assert layers(shape, "node").tolist() == [node.site.layer for node in shape.nodes]


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_tests_measure_the_circuit_its_complement_and_random_ones_of_its_layers(unit: str, llama: Model, pairs: Pairs) -> None:
    whole, pairs = graph(llama), _solved(llama, pairs)
    scores = shuffled(whole, unit, 1)  # pyright: ignore[reportArgumentType]
    values = replacement(llama, whole, pairs, "resample")
    seen = view(scores, "helping", 5)
    found = curves(llama, Toy(), pairs, [Series("method", scores, "helping")], "resample", values)
    tested = trials(llama, Toy(), pairs, seen, values, found.full, found.empty, 6, 0)
    counted = sum(len(getattr(tested.metric, f.name)) for f in dataclasses.fields(tested.metric))
    assert counted == n_circuits(6, 5) == 2 + 5 + 2 * 5 * PER_UNIT + 12
    point = next(p for p in found.points if p.n == 5) if unit == "node" else None
    if point is not None:
        assert tested.metric.circuit.mean().item() == pytest.approx(point.metric, abs=1e-6)
        assert tested.metric.complement.mean().item() == pytest.approx(point.complement, abs=1e-6)
    rows = trial_rows(tested)
    knocked = [row for row in rows if row["kind"] == "knock-out"]
    assert [row["unit"] for row in knocked] == [scores.names()[i] for i in scores.order("helping")[:5].tolist()]
    said = figures(tested)
    assert {"circuit_faithfulness", "p_equivalent", "units_needed", "p_sufficient", "p_necessary", "complement_hsic"} <= said.keys()
    assert all(0 <= value <= 1 for name, value in said.items() if name.startswith("p_") and value is not None)
    assert [row["pair"] for row in example_rows(tested, 10)] == [10, 11, 12, 13]
    assert llama.hook_count() == 0
