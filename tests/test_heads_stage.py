"""`interp heads` from its config to the files of its run, on tiny models."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import shared
from safetensors.torch import load_file

from interp import models
from interp.heads.patterns import MAX_LENGTH, REPEATED, TEXTS, examples
from interp.hooks import record
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.heads import Heads
from saes.errors import InputError

METRICS = {"previous_token", "duplicate_token", "induction", "bos", "entropy", "copying"}


def run_heads(folder: Path, root: Path, **fields: int):
    run = execute(Heads(model=str(folder), **fields), Context(root=root, device="cpu"))
    assert run is not None
    return run


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory):
    return run_heads(tiny_llama, tmp_path_factory.mktemp("runs"), sequences=6, half=8, copy_tokens=40)


def test_the_scores_of_every_head_and_metric_are_there_with_their_interval(run):
    table = pq.read_table(run.file("scores.parquet"))
    assert table.schema.names == ["layer", "head", "metric", "value", "low", "high", "n", "baseline"]
    rows = table.to_pylist()
    assert {(r["layer"], r["head"], r["metric"]) for r in rows} == {(la, he, me) for la in range(3) for he in range(4) for me in METRICS}
    assert all(0 <= r["low"] <= r["value"] + 1e-6 and r["value"] <= r["high"] + 1e-6 <= 1 + 2e-6 for r in rows)
    assert {(r["metric"] == "copying", r["n"]) for r in rows} == {(True, 40), (False, 6)}


def test_the_stored_patterns_are_those_of_the_model_and_zero_behind_the_end(run, tiny_llama: Path):
    stored = load_file(run.file("patterns.safetensors"))
    titles = pq.read_table(run.file("examples.parquet")).to_pydict()
    assert titles["example"] == list(range(len(TEXTS) + 1))
    assert titles["title"] == [*(title for title, _ in TEXTS), REPEATED]
    patterns, tokens, lengths = (stored[name] for name in ("patterns", "tokens", "lengths"))
    assert (patterns.dtype, tokens.dtype, lengths.dtype) == (torch.float16, torch.int32, torch.int32)
    assert lengths.max() == tokens.shape[1] <= MAX_LENGTH
    model = models.load(str(tiny_llama))
    for i, n in enumerate(lengths.tolist()):
        site = Site(2, "pattern")
        expected = record(model, tokens[i : i + 1, :n].long(), [site])[site][0]
        torch.testing.assert_close(patterns[i, 2, :, :n, :n].float(), expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(patterns[i, :, :, :n].float().sum(-1), torch.ones(3, 4, n), rtol=0, atol=5e-3)
        assert not patterns[i, :, :, n:].any()
        assert not patterns[i, :, :, :, n:].any()
        assert not tokens[i, n:].any()


def test_the_repeated_example_repeats_and_the_texts_read_as_written(run, tiny_llama: Path):
    stored, model = load_file(run.file("patterns.safetensors")), models.load(str(tiny_llama))
    ids = [row[:n].tolist() for row, n in zip(stored["tokens"], stored["lengths"], strict=True)]
    assert ids[-1][1:9] == ids[-1][9:]
    for (_, text), example in zip(TEXTS, ids, strict=False):
        assert text.startswith(model.tokenizer.decode(example[1:]))


def test_the_summary_is_flat_and_its_top_heads_are_the_largest_of_the_table(run):
    summary = json.loads(run.file("summary.json").read_text())
    assert summary["n_heads"] == 12
    assert summary["n_tokens"] == 6 * 17
    rows = [r for r in pq.read_table(run.file("scores.parquet")).to_pylist() if r["metric"] == "bos"]
    best = max(rows, key=lambda r: r["value"])
    assert summary["top_bos"].startswith(f"{best['layer']}.{best['head']} {best['value']:.2f},")
    assert all(isinstance(value, (str, int, float)) for value in summary.values())


def test_the_vocabulary_has_a_row_for_every_id(run, tiny_llama: Path):
    table = pa.ipc.open_file(run.file("vocab.arrow")).read_all()
    assert table.num_rows == models.load(str(tiny_llama)).d_vocab


def test_the_same_command_finds_its_run_and_another_seed_makes_another(tiny_llama: Path, run, tmp_path: Path):
    assert run_heads(tiny_llama, run.path.parent, sequences=6, half=8, copy_tokens=40).id == run.id
    again = run_heads(tiny_llama, tmp_path, sequences=6, half=8, copy_tokens=40)
    assert pq.read_table(again.file("scores.parquet")).equals(pq.read_table(run.file("scores.parquet")))
    assert run_heads(tiny_llama, tmp_path, sequences=6, half=8, copy_tokens=40, seed=1).id != run.id


def test_a_gpt2_a_llama_of_others_and_a_model_of_three_tokens_are_scored_too(tiny_gpt2: Path, tmp_path: Path):
    for folder, n_heads in ((tiny_gpt2, 12), (shared("models/stories260K/hf"), 40), (shared("models/nanosort/hf"), 9)):
        done = run_heads(folder, tmp_path, sequences=2, half=4, copy_tokens=8)
        assert pq.read_table(done.file("scores.parquet")).num_rows == n_heads * len(METRICS)
        assert models.load(str(folder)).hook_count() == 0


def test_the_plan_states_tokens_passes_and_seconds_and_writes_nothing(tiny_llama: Path, tmp_path: Path):
    stage, ctx = Heads(model=str(tiny_llama), sequences=9, half=8), Context(root=tmp_path / "runs", device="cpu", plan=True)
    plan = stage.plan(ctx)
    assert plan.lines["tokens"] == "153 in 9 sequences of 17, 2 passes"
    assert 0 < plan.seconds < 60
    assert execute(stage, ctx) is None
    assert not ctx.root.exists()


@pytest.mark.parametrize(
    ("fields", "sentence"), [({"sequences": 1}, "no interval"), ({"half": 1}, "no token"), ({"copy_tokens": 1}, "too few")]
)
def test_numbers_that_measure_nothing_are_refused(fields: dict[str, int], sentence: str):
    with pytest.raises(InputError, match=sentence):
        Heads(**fields)  # pyright: ignore[reportArgumentType]


def test_a_half_too_long_for_the_model_is_refused_before_anything_is_written(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(InputError, match="choose a smaller --half"):
        run_heads(tiny_llama, tmp_path / "runs", half=200)
    assert not (tmp_path / "runs").exists()


def test_an_example_longer_than_the_model_is_cut(tiny_llama: Path):
    model = models.load(str(tiny_llama))
    stored = examples(model, list(range(2, 200)))
    assert stored.lengths[-1] == MAX_LENGTH
