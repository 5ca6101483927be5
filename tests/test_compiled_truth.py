"""Certified edges: published counts, gates by hand, rotation; and the gates' truth tables."""

import json

import pytest
import torch
from conftest import shared

from interp.models.compiled import GATES, PROGRAMS, Gate, Program, Truth, certify, compile, gate, program
from interp.models.compiled.forward import circuits, edges, logits, run
from interp.models.compiled.truth import Ablation, partners
from saes.errors import InputError

HEADS = [f"{head}.{side}" for head in ("0.0", "0.1") for side in "qk"]
BITS = {("embed", "0.0.v"), ("embed", "0.1.v"), ("0.0", "m0"), ("0.1", "m0"), ("m0", "logits")}
ADDRESSES = {("pos", side) for side in HEADS}


def truth(name: str, ablation: Ablation, length: int) -> Truth:
    compiled = compile(program(name))
    return certify(compiled, ablation, compiled.inputs(length))


@pytest.mark.parametrize("source", GATES, ids=lambda g: g.name)
def test_gates_have_their_truth_table(source: Gate):
    compiled = compile(source)
    x = compiled.inputs(3)
    assert len(x) == 4
    assert float((logits(compiled.weights, x) - compiled.target(x))[:, 3].abs().max()) < 1e-20


def test_truth_tables_are_those_of_logic():
    def column(name: str, word: str = "out") -> list[float]:
        return [gate(name).answers((a, b, "="))[2].get(word, 0.0) for a in (0, 1) for b in (0, 1)]

    assert column("and") == column("half_adder", "carry") == [0, 0, 0, 1]
    assert column("or") == [0, 1, 1, 1]
    assert column("xor") == column("half_adder") == [0, 1, 1, 0]
    assert column("acdc_or") == [1, 1, 1, 1]
    assert column("backup") == [0, 0, 1, 1]
    assert column("inhibition") == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["and", "or", "xor", "half_adder"])
def test_gates_of_two_bits_need_both_bits_and_under_zero_ablation_their_addresses(name: str):
    compiled = compile(gate(name))
    x = compiled.inputs(3)
    assert certify(compiled, "zero", x).edges == BITS | ADDRESSES | {("embed", "m0")}
    assert certify(compiled, "resample", x).edges == certify(compiled, "mean", x).edges == BITS
    assert all(certify(compiled, ablation, x).unique for ablation in ("zero", "resample", "mean"))


def test_either_head_of_acdcs_or_is_enough():
    found = certify(compile(gate("acdc_or")), "zero", compile(gate("acdc_or")).inputs(3))
    constant = {("embed", "m0"), ("m0", "logits")}
    assert set(found.alternatives) == {frozenset(constant | {("embed", f"{h}.v"), (h, "m0")}) for h in ("0.0", "0.1")}
    assert not found.unique
    assert found.necessary == constant


def test_a_constant_gate_needs_nothing_under_resample():
    compiled = compile(gate("acdc_or"))
    found = certify(compiled, "resample", compiled.inputs(3))
    assert found.unique
    assert found.edges == frozenset()


def test_a_backup_is_an_alternative_that_single_removals_do_not_show():
    compiled = compile(gate("backup"))
    found = certify(compiled, "zero", compiled.inputs(3))
    ways = [{("pos", f"{h}.q"), ("pos", f"{h}.k"), ("embed", f"{h}.v"), (h, "logits")} for h in ("0.0", "1.0")]
    assert set(found.alternatives) == {frozenset(way) for way in ways}
    assert ("0.0", "1.0.q") in found.necessary
    assert not any(("0.0", "1.0.q") in way for way in found.alternatives)
    assert not certify(compiled, "resample", compiled.inputs(3)).unique


def test_inhibition_needs_the_path_from_head_to_head():
    compiled = compile(gate("inhibition"))
    found = certify(compiled, "resample", compiled.inputs(3))
    assert found.unique
    assert {("0.0", "1.0.v"), ("0.1", "1.0.q"), ("0.0", "logits"), ("1.0", "logits")} <= found.edges
    assert len(found.edges) == 6
    assert certify(compiled, "zero", compiled.inputs(3)).edges == found.structural


@pytest.mark.parametrize(
    ("name", "ablation", "length", "n"),
    [("reverse", "zero", 3, 11), ("reverse", "resample", 3, 2), ("reverse", "mean", 3, 2), ("reverse", "resample", 4, 2),
     ("reverse", "zero", 4, 11), ("xproportion", "zero", 3, 5), ("xproportion", "resample", 3, 3), ("xproportion", "mean", 3, 3)],
)  # fmt: skip
def test_the_number_of_edges_is_the_published_one(name: str, ablation: Ablation, length: int, n: int):
    found = truth(name, ablation, length)
    assert found.unique
    assert len(found.edges) == n
    assert found.largest_removed <= 1e-12
    assert found.smallest_kept > 100 * found.tolerance
    assert found.edges <= found.structural
    assert found.positions == tuple(range(1, length + 1))


@pytest.mark.slow
def test_reverse_at_full_length_does_not_need_to_count():
    full, shorter = truth("reverse", "zero", 5), truth("reverse", "zero", 4)
    assert full.unique
    assert shorter.edges - full.edges == {("embed", "0.0.v"), ("0.0", "m0")}
    assert len(full.edges) == 9


@pytest.mark.parametrize("name", ["reverse", "xproportion"])
def test_edges_are_those_of_the_published_files(name: str):
    page = json.loads(shared(f"data/circuits/tracr_{name}.json").read_text())
    variants = {variant["id"]: variant["edges"] for variant in page["variants"]}
    assert truth(name, "zero", 3).edges == {tuple(edge) for edge in page["edges"]}
    assert truth(name, "resample", 3).edges == {tuple(edge) for edge in variants["resample"]}
    assert truth(name, "zero", 3).structural == {tuple(edge) for edge in variants["structural"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reverse", "hist", "pair_balance"])
def test_a_rotated_model_has_the_same_truth(name: str):
    compiled = compile(program(name))
    x = compiled.inputs(3)
    for ablation in ("zero", "resample"):
        plain, turned = certify(compiled, ablation, x), certify(compiled.rotated(seed=3), ablation, x)
        assert (plain.edges, plain.structural, plain.necessary) == (turned.edges, turned.structural, turned.necessary)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["zero", "resample", "mean"])
@pytest.mark.parametrize("source", PROGRAMS, ids=lambda p: p.name)
def test_every_program_has_a_unique_truth(source: Program, ablation: Ablation):
    compiled = compile(source)
    found = certify(compiled, ablation, compiled.inputs(3))
    assert found.unique
    assert found.ablation == ablation
    assert compiled.name in found.condition
    assert (len(found.edges) == 0) == (source.name == "length" and ablation != "zero")


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["zero", "resample", "mean"])
def test_the_truth_of_sorting_by_frequency_holds_for_full_length(ablation: Ablation):
    compiled = compile(program("sort_freq"))
    x = compiled.inputs(5)
    some = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:128]]
    found = certify(compiled, ablation, some)
    assert found.unique
    assert found.edges == certify(compiled, ablation, compiled.inputs(3)).edges


def test_removing_nothing_is_the_whole_model_and_removing_all_is_the_corrupt_run():
    compiled = compile(program("pair_balance")).rotated(0)
    x = compiled.inputs(3)
    w, corrupt = compiled.weights, x.roll(1, 0)
    replacement = {u: y[0] for u, y in run(w, corrupt)[1].items()}
    whole, none = frozenset(edges(w)), frozenset()
    found, _ = run(w, x, circuits(w, [whole, none]), replacement)
    assert float((found[0] - logits(w, x)).abs().max()) < 1e-12
    assert float((found[1] - logits(w, corrupt)).abs().max()) < 1e-12


def test_rows_do_not_see_each_other():
    compiled = compile(program("reverse"))
    w, x = compiled.weights, compiled.inputs(2)
    zeros = {u: torch.zeros_like(y[0]) for u, y in run(w, x)[1].items()}
    rows = [frozenset(edges(w)) - {edge} for edge in edges(w)[::7]]
    together, _ = run(w, x, circuits(w, rows), zeros)
    for row, circuit in zip(together, rows, strict=True):
        alone, _ = run(w, x, circuits(w, [circuit]), zeros)
        assert float((row - alone[0]).abs().max()) < 1e-12


def test_partners_are_never_the_same_input():
    for n in (2, 16, 17, 100):
        first, second = partners(n, seed=0)
        assert bool((first != second).all())
        assert set(first.tolist()) == set(range(n))


def test_too_few_inputs_are_refused():
    compiled = compile(program("reverse"))
    with pytest.raises(InputError, match="at least two"):
        certify(compiled, "zero", compiled.inputs(2)[:1])
