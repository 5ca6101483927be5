"""Readers against the arrays that the synthetic runs were made from, and files that are not as they should be."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_base import CONTEXT, DEAD, WIDTH, vocabulary, write_arrow
from synthetic_runs import Family, write_family

from app import circuits, readers, session
from app.examples import ordered
from interp.runs import Run, sha256
from saes.errors import InputError


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    return write_family(tmp_path_factory.mktemp("runs"))


def test_latents_agree_with_the_activations(family):
    table = readers.latents(family.describe)
    for latent in (0, 7, 100, WIDTH - 1):
        on = family.acts[latent][family.acts[latent] > 0]
        assert table["n_active"][latent] == on.size
        assert table["density"][latent] == pytest.approx(on.size / family.tokens.size)
        assert table["max_act"][latent] == pytest.approx(on.max(initial=0))
    assert int(table["dead"].sum()) >= DEAD


@pytest.mark.parametrize("latent", [0, 63, 64, 127, 128, 150])
def test_examples_come_from_the_row_group_of_their_latent(family, latent):
    rows = session.example_rows(family.describe, latent)
    assert len(rows["act"]) > 0
    assert set(rows["latent"].tolist()) == {latent}
    grid = family.acts.reshape(WIDTH, -1, CONTEXT)
    for i in range(len(rows["act"])):
        seq, pos, start = (int(rows[name][i]) for name in ("seq", "pos", "start"))
        assert rows["act"][i] == np.float16(grid[latent, seq, pos])
        assert rows["acts"][i] == pytest.approx(grid[latent, seq, start : start + 32].astype(np.float16))


def test_a_dead_latent_has_no_examples(family):
    assert len(session.example_rows(family.describe, WIDTH - 1)["act"]) == 0


def test_empty_row_groups_do_not_shift_the_search(tmp_path):
    schema = pa.schema({"latent": pa.int32(), "acts": pa.list_(pa.float16(), 2)})
    path = tmp_path / "examples.parquet"
    with pq.ParquetWriter(path, schema) as writer:
        for latents in ([], [70, 70], [], [200]):
            acts = pa.FixedSizeListArray.from_arrays(pa.array([1, 2] * len(latents), pa.float16()), 2)
            writer.write_table(pa.table([pa.array(latents, pa.int32()), acts], schema=schema), row_group_size=max(1, len(latents)))
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {path.name: {"size": path.stat().st_size}}}))
    firsts = readers.example_groups(Run(tmp_path))
    for latent, group in ((70, 1), (200, 3)):
        assert int(np.searchsorted(firsts, latent, "right")) - 1 == group


def test_one_row_of_a_tensor_is_that_row(family):
    whole = readers.tensor(family.describe, "histograms.safetensors", "acts")
    assert whole.dtype == np.uint32
    assert np.array_equal(readers.row(family.describe, "histograms.safetensors", "acts", 5), whole[5])
    assert readers.row(family.describe, "logits.safetensors", "top", 5).dtype == np.float16


def test_the_vocabulary_keeps_its_order(family):
    vocab = readers.vocabulary(family.cache)
    assert [vocab.text(i).encode() for i in range(2, 9)] == vocabulary(False)[2:9]
    assert vocab.text(10**6) == "<1000000?>"
    assert vocab.text(-1) == "<-1?>"


def test_nulls_become_values_of_their_type():
    columns = readers.columns(
        pa.table({"i": pa.array([1, None], pa.int32()), "b": pa.array([True, None]), "f": pa.array([1.0, None], pa.float32())})
    )
    assert columns["i"].tolist() == [1, -1]
    assert columns["b"].tolist() == [True, False]
    assert np.isnan(columns["f"][1])


def damaged(family: Family, tmp_path, name: str, content: bytes) -> Run:
    """A copy of the describe run in which one file has other content of the size that its manifest says."""
    path = tmp_path / family.describe.id
    shutil.copytree(family.describe.path, path)
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name]["size"] = len(content)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return Run(path)


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("latents.arrow", readers.latents),
        ("examples.parquet", readers.example_groups),
        ("histograms.safetensors", lambda run: readers.row(run, "histograms.safetensors", "acts", 0)),
        ("summary.json", readers.summary),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files_are_told_in_one_sentence_with_the_command(family, tmp_path, name, reader):
    with pytest.raises(InputError, match=rf"{name} cannot be read .* run the command again: interp describe"):
        reader(damaged(family, tmp_path, name, b"\x08\0\0\0\0\0\0\0{garbage"))


def test_a_truncated_file_says_both_sizes(family, tmp_path):
    run = damaged(family, tmp_path, "summary.json", b"{}")
    (run.path / "latents.arrow").write_bytes(b"short")
    with pytest.raises(InputError, match=r"has 5 bytes where its manifest says \d+"):
        readers.latents(run)


def test_a_missing_column_is_named(family, tmp_path):
    table = readers.arrow(family.describe, "latents.arrow").drop_columns(["density"])
    write_arrow(tmp_path / "cut", table)
    with pytest.raises(InputError, match="no column density"):
        readers.latents(damaged(family, tmp_path, "latents.arrow", (tmp_path / "cut").read_bytes()))


def test_the_last_line_of_a_progress_file_may_be_cut(family):
    found = readers.progress(next(family.root.glob("train-*.part")))
    assert found.steps == 400
    assert found.last["step"] == 145
    assert found.config["architecture"]["k"] == 128
    assert found.silent < 600


def test_only_the_ends_of_a_long_progress_file_are_read(tmp_path):
    rows = [json.dumps({"steps": 10**6}), *(json.dumps({"step": s, "loss": 0.5, "tokens": s}) for s in range(50_000))]
    (tmp_path / "progress.jsonl").write_text("\n".join(rows) + "\n")
    found = readers.progress(tmp_path)
    assert (found.steps, found.last["step"]) == (10**6, 49_999)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]\n[2]\n", b"\xff\xfe\n", b'{"steps": 5}\n'])
def test_progress_of_a_file_that_is_empty_or_damaged_is_nothing_yet(tmp_path, content):
    (tmp_path / "progress.jsonl").write_bytes(content)
    assert readers.progress(tmp_path).last == {}


def test_progress_of_a_folder_without_the_file_is_nothing(tmp_path):
    found = readers.progress(tmp_path)
    assert (found.steps, found.last, found.config) == (0, {}, {})


def test_equal_windows_are_folded_into_the_first():
    rows = {"bucket": np.array([0, 0, 0, 1]), "rank": np.array([1, 0, 2, 0]), "fold": np.array([9, 8, 9, 9], np.uint64)}
    assert ordered(rows, (0,), True) == [(1, 1), (0, 2)]
    assert ordered(rows, (1, 0), True) == [(3, 1), (1, 1), (0, 2)]
    assert ordered(rows, (0,), False) == [(1, 1), (0, 1), (2, 1)]


def test_several_seeds_are_averaged_and_their_spread_is_the_band():
    nan = float("nan")
    rows = [
        {"n": 1, "kept": 3, "faithfulness": f, "low": f - 0.1, "high": f + 0.1, "complement": nan, "seed": seed}
        for seed, f in enumerate((0.2, 0.6))
    ]
    line = circuits.average(
        "random", [*rows, {"n": 0, "kept": 0, "faithfulness": 0.0, "low": nan, "high": nan, "complement": 2.0, "seed": 0}]
    )
    assert line.name == "random order (mean of 2)"
    assert line.baseline
    assert line.n.tolist() == [0, 1]
    assert line.faithfulness == pytest.approx([0.0, 0.4])
    assert line.low == pytest.approx([0.0, 0.1])
    assert line.high == pytest.approx([0.0, 0.7])
    assert line.complement[0] == 2.0
    assert np.isnan(line.complement[1])


def test_curves_are_kept_apart_by_scope_and_ablation(family):
    curves = circuits.curves_of(family.circuit)
    assert set(curves) == {(scope, ablation) for scope in ("heads", "all") for ablation in ("resample", "mean")}
    assert [line.name for line in curves["all", "mean"]] == ["the method", "exact effects", "random order (mean of 3)"]
    assert list(circuits.curves_of(family.edges)) == [("all", "resample")]


def test_the_measured_size_is_the_largest_that_is_not_above_the_one_in_view(family):
    line = circuits.curves_of(family.circuit)["all", "mean"][0]
    assert [int(line.n[circuits.measured(line, n)]) for n in (0, 3, 4, 9)] == [0, 2, 4, 8]


def test_the_sizes_to_choose_from_hold_those_of_the_curve_and_the_one_asked_for(family):
    curves = circuits.curves_of(family.edges)
    n = len(circuits.edges_of(family.edges)["score"])
    sizes = circuits.sizes(n, curves, 137)
    assert {0, 1, 200, 137, n, *curves["all", "resample"][0].n.tolist()} <= set(sizes)
    assert sizes == sorted(set(sizes))
    assert max(sizes) == n


def test_every_node_has_its_place_in_the_grid(family):
    nodes = circuits.nodes_of(family.circuit)
    values, columns, names = circuits.layout(nodes, "exact")
    assert columns[-1] == "MLP"
    for name, short, effect in zip(nodes["node"], nodes["name"], nodes["exact"], strict=True):
        layer, kind, *head = name.split(".")
        column = -1 if kind == "mlp_out" else int(head[0])
        assert values[int(layer), column] == pytest.approx(effect)
        assert names[int(layer)][column] == short == (f"m{layer}" if kind == "mlp_out" else f"{layer}.{head[0]}")


def test_units_enter_in_the_order_of_the_run():
    score, heads = np.array([-0.1, -0.9, 0.5, -0.3]), np.array([True, False, True, True])
    assert circuits.entering(score, "helping").tolist() == [1, 3, 0, 2]
    assert circuits.entering(score, "absolute").tolist() == [1, 2, 3, 0]
    assert circuits.entering(score, "helping", heads).tolist() == [3, 0, 2]


def test_edges_have_the_kinds_that_the_summary_correlates(family):
    edges = circuits.edges_of(family.edges)
    kinds = dict(zip(edges["destination"].tolist(), circuits.kinds("edge", edges).tolist(), strict=True))
    assert {kinds[name] for name in kinds if name.endswith(".q")} == {"q"}
    assert (kinds["1.g0.k"], kinds["1.g2.v"], kinds["m3"], kinds["logits"]) == ("k", "v", "mlp", "logits")


def test_a_circuit_table_of_an_earlier_version_names_the_command(family, tmp_path):
    run = Run(shutil.copytree(family.circuit.path, tmp_path / family.circuit.id))
    for name in ("nodes.parquet", "curve.parquet"):
        path = run.path / name
        pq.write_table(pq.read_table(path).drop_columns(["score" if name == "nodes.parquet" else "n"]), path)
        manifest = json.loads((run.path / "manifest.json").read_text())
        manifest["files"][name] = {"size": path.stat().st_size, "sha256": sha256(path)}
        (run.path / "manifest.json").write_text(json.dumps(manifest))
    for read in (circuits.nodes_of, circuits.curves_of):
        with pytest.raises(InputError, match=r"earlier version.*make the run anew: interp circuit ioi"):
            read(run)
