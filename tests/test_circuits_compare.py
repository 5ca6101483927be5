"""`interp compare` on runs of a tiny model, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_circuits_published import gpt2

from interp.circuits.comparison import Side, figures, require_alike
from interp.circuits.methods import EapIg, Exact
from interp.runs import Run
from interp.stages.base import Context, execute
from interp.stages.circuit import Circuit
from interp.stages.compare import SCHEMAS, Compare, side
from saes.errors import InputError


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(root=tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Circuit:
    folder = gpt2(tmp_path_factory.mktemp("gpt2"), layers=2, heads=2)
    return Circuit(model=str(folder), method=EapIg(2), objective="kl", pairs=12, tests=0, audit=0, random_orders=1, size=10)


def _made(stage: Circuit | Compare, ctx: Context) -> Run:
    found = execute(stage, ctx, say=lambda text: None)
    assert found is not None
    return found


def test_a_comparison_counts_what_is_shared_and_tests_the_difference(stage: Circuit, ctx: Context) -> None:
    a, b = _made(stage, ctx), _made(dataclasses.replace(stage, method=EapIg(5), size=14), ctx)
    run = _made(Compare(a.id, b.id), ctx)
    summary = json.loads(run.file("summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    rows = pq.read_table(run.file("units.parquet"))
    assert rows.schema.equals(SCHEMAS["units.parquet"])
    circuits = [{row["unit"] for row in rows.to_pylist() if row[name]} for name in ("in_a", "in_b")]
    assert list(map(len, circuits)) == [10, 14] == [summary["size_a"], summary["size_b"]]
    assert summary["jaccard"] == pytest.approx(len(circuits[0] & circuits[1]) / len(circuits[0] | circuits[1]))
    assert summary["shared"] + summary["only_a"] == 10
    assert set(summary["units_only_b"]) <= circuits[1] - circuits[0]
    assert summary["spearman"] > 0.5, "two approximations of one number"
    examples = pq.read_table(run.file("examples.parquet")).to_pylist()
    mean = sum(row["circuit_a"] - row["circuit_b"] for row in examples) / len(examples)
    assert summary["difference"] == pytest.approx(mean, abs=1e-6)
    assert summary["difference_low"] <= mean <= summary["difference_high"]
    assert summary["prompts"] == len(examples) == 6


def test_a_circuit_held_against_its_own_scores_shares_everything(stage: Circuit, ctx: Context) -> None:
    one = side(_made(stage, ctx))
    found = figures(one, dataclasses.replace(one, name="circuit-00000000"))
    assert found["jaccard"] == found["spearman"] == pytest.approx(1)
    assert found["difference"] == 0
    assert found["p_difference_t"] == found["p_difference_flip"] == 1
    assert found["p_shared"] < 1e-3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "circuit-11111111"}, "given twice"),
        ({"config": {"model": "gpt2"}}, "has model smollm2 and circuit-22222222 has gpt2"),
        ({"config": {"model": "smollm2", "ablation": "zero"}}, "has ablation None and"),
        ({"unit": "node"}, "two graphs"),
        ({"scores": {"m0->logits": 1.0}}, "two graphs"),
        ({"prompts": (((1, 2), (1, 4), 5, (6,)),)}, "different prompts"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_in_a_sentence(change: dict, sentence: str) -> None:
    a = Side("circuit-11111111", {"model": "smollm2"}, "edge", {"embed->logits": 1.0}, frozenset(), (((1, 2), (1, 3), 5, (6,)),), [])
    b = dataclasses.replace(a, **({"name": "circuit-22222222"} | change))
    with pytest.raises(InputError, match=sentence):
        require_alike(a, b)


def test_a_run_of_nodes_and_one_of_edges_are_refused_before_any_work(stage: Circuit, ctx: Context) -> None:
    a, b = _made(stage, ctx), _made(dataclasses.replace(stage, method=Exact(), size=3), ctx)
    with pytest.raises(InputError, match="two graphs"):
        _made(Compare(a.id, b.id), ctx)


def test_an_unknown_run_is_refused(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        _made(Compare("circuit-00000000", "circuit-00000001"), Context(root=tmp_path))
