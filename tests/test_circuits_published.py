"""A run held against a published circuit of GPT-2 small, on random weights of its shape: nothing but chance can be found there."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from test_tasks_ioi import words

from interp.circuits import known
from interp.circuits.graph import Graph, Scores
from interp.circuits.methods import EapIg
from interp.circuits.truth import load
from interp.stages.base import Context, execute
from interp.stages.circuit import Circuit
from interp.tasks.ioi import NAMES
from saes.errors import InputError

SMALL = Graph(12, 12, 12)


def gpt2(folder: Path, layers: int = 12, heads: int = 12, width: int = 8) -> Path:
    """A random GPT-2 with a tokenizer that knows the names of indirect object identification as tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = words(NAMES)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=heads * width, n_layer=layers, n_head=heads, n_positions=64, bos_token_id=1, eos_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _perfect(truth_edges: frozenset, graph: Graph = SMALL) -> Scores:
    """Every true edge helps, no other does anything."""
    mean = torch.tensor([-float((graph.sources[s], graph.destinations[d]) in truth_edges) for s, d in graph.edges.tolist()])
    return Scores(graph, "edge", mean, mean * 0, mean * 0 + 1, 1)


def test_the_circuit_of_indirect_object_identification_has_26_heads_and_1041_edges() -> None:
    truth = known.chosen("ioi", SMALL, "resample")
    assert len(truth.heads) == 26
    assert len(truth.edges) + len(truth.direct) == 1041
    assert len(truth.edges) == 963


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ioi", "greater_than", "greater-than/hanna"])
def test_scores_that_are_the_truth_get_one_in_every_row(name: str) -> None:
    truth = known.chosen(name, SMALL, "resample")
    rows = known.rows(_perfect(truth.edges), truth, "resample")
    assert {(row.unit, row.among, row.verdict.ranking) for row in rows} == {
        (unit, among, ranking) for unit in ("edge", "node") for among in ("all", "no mlp") for ranking in ("helping", "absolute")
    }
    for row in rows:
        assert row.verdict.auroc == row.verdict.auroc_pessimistic == row.verdict.average_precision == 1, row
        assert row.verdict.missing == ()
    found = known.figures(truth, rows)
    assert found["auroc_edges_helping"] == found["partial_auroc_nodes_absolute_no_mlp"] == 1


def test_a_wrong_sign_shows_under_helping_and_not_under_absolute() -> None:
    truth = known.chosen("ioi", SMALL, "resample")
    perfect = _perfect(truth.edges)
    turned = Scores(SMALL, "edge", -perfect.mean, perfect.deviation, perfect.agreement, 1)
    found = known.figures(truth, known.rows(turned, truth, "resample"))
    assert found["auroc_edges_helping"] == 0
    assert found["auroc_edges_absolute"] == 1


def test_methods_of_nodes_are_held_against_heads_and_mlps() -> None:
    truth = known.chosen("ioi", SMALL, "mean")
    mean = torch.tensor(
        [-float(name in truth.heads or name.startswith("m")) for name in Scores(SMALL, "node", *[torch.zeros(156)] * 3, 1).names()]
    )
    rows = known.rows(Scores(SMALL, "node", mean, mean * 0, mean * 0 + 1, 1), truth, "mean")
    assert {(row.unit, row.among) for row in rows} == {("node", "all"), ("node", "no mlp")}
    assert [(row.verdict.n_true, row.verdict.n_scored) for row in rows if row.verdict.ranking == "helping"] == [(38, 156), (26, 144)]
    assert all(row.verdict.auroc == 1 for row in rows)


def test_a_truth_of_nodes_alone_judges_the_nodes_of_edges() -> None:
    truth = known.chosen("ioi/wang", SMALL, "mean")
    rows = known.rows(_perfect(load("ioi").edges), truth, "mean")
    assert {row.unit for row in rows} == {"node"}
    assert all(row.verdict.auroc == 1 for row in rows if row.among == "no mlp")


@pytest.mark.parametrize(
    ("name", "graph", "ablation", "sentence"),
    [
        ("greater_than", SMALL, "mean", "under resample ablation, not under mean; give --ablation resample"),
        ("ioi/wang", SMALL, "resample", "give --ablation mean or --ablation mean_all or --truth ioi/acdc"),
        ("tracr_reverse/structural", Graph(4, 1, 1, pos=True), "zero", "under no ablation, not under zero; give --truth tracr_reverse"),
        ("ioi", Graph(30, 9, 3), "resample", "12 layers of 12 heads, and this one has 30 layers of 9 heads in 3 groups; run that model"),
        ("docstring", Graph(4, 8, 8), "resample", "4 layers of 8 heads without MLPs, and"),
        ("tracr_reverse", Graph(4, 1, 1), "zero", "positions apart from tokens"),
        ("ioi/someone", SMALL, "resample", "no variant 'someone'"),
    ],
)  # fmt: skip
def test_a_truth_that_does_not_fit_is_refused_in_a_sentence(name: str, graph: Graph, ablation: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        known.chosen(name, graph, ablation)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_on_random_weights_of_gpt2_the_areas_are_near_chance(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "gpt2")
    stage = Circuit(
        model=str(folder),
        method=EapIg(2),
        objective="kl",
        truth="ioi",
        bos=False,
        pairs=8,
        tests=0,
        audit=0,
        random_orders=1,
        ranking="absolute",
        size=1041,
    )
    run = execute(stage, Context(root=tmp_path / "runs", device="cpu"), say=lambda text: None)
    assert run is not None
    summary = json.loads(run.file("summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {"truth": "ioi/acdc", "truth_heads": 26, "truth_edges": 963, "bos": None}.items() <= summary.items()
    # MLPs write more than heads of eight dimensions do, and most true edges start or end there: only without MLPs is it chance.
    assert abs(summary["auroc_edges_helping_no_mlp"] - 0.5) < 0.15
    assert abs(summary["auroc_edges_absolute_no_mlp"] - 0.5) < 0.15
    rows = pq.read_table(run.file("truth.parquet")).to_pylist()
    assert [row["n_true"] for row in rows if row["unit"] == "edge"] == [963, 183, 963, 183]
    edges = pq.read_table(run.file("edges.parquet"))
    assert edges.num_rows == 32_491
    assert sum(edges["in_circuit"].to_pylist()) == 1041
    exported = json.loads(run.file("circuit.json").read_text())
    assert len(exported["edges"]) == 32_491
    assert sum(fields["in_graph"] for fields in exported["edges"].values()) == 1041
