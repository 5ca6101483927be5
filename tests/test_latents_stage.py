"""`interp latents`: its run holds what the library computes, for a dictionary of a model and for the codes that a model computes with."""

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from interp.circuits.latents import latents, scores
from interp.cli import main
from interp.dictionaries import Trained
from interp.models import load
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.train import Train
from interp.tasks import TaskFile
from saes.architectures import TopK

SITE = Site(1, "resid_post")
NOUNS = (" ships", " farmers", " hill", " dog", " lake", " fox", " river", " storm")
SMALL = ("--ablation", "zero", "--pairs", "16", "--steps", "2", "--audit", "10")


@pytest.fixture(scope="module")
def cache(tiny_llama, corpus_file, tmp_path_factory):
    root = tmp_path_factory.mktemp("latent-runs")
    sites = (SITE, Site(1, "mlp_in"), Site(1, "mlp_out"))
    config = Cache(model=str(tiny_llama), sites=sites, text=f"files:{corpus_file}", tokens=2048, context=32)
    return root, execute(config, Context(root=root, device="cpu"), say=print).id


@pytest.fixture(scope="module")
def sae(cache) -> tuple[Path, str]:
    root, store = cache
    stage = Train(store, site=str(SITE), architecture=TopK(k=4), width=64, epochs=1.0)
    return root, execute(stage, Context(root=root, device="cpu"), say=print).id


@pytest.fixture(scope="module")
def prompts(tiny_llama, tmp_path_factory) -> Path:
    """Pairs whose answers are what this random model says, so that ablation has something to lose."""
    model, lines = load(str(tiny_llama)), []
    words = [model.tokenizer.decode([i]) for i in range(2, model.d_vocab)]
    words = [word for word in words if word[:1] == " " and word[1:].isalpha() and len(model.tokenizer.encode(word)) == 1]
    ids = [model.tokenizer.encode(word)[0] for word in words]
    for first, second in itertools.permutations(NOUNS, 2):
        clean, corrupt = f"The{first} and the{second}", f"The{second} and the{first}"
        tokens = torch.tensor([[model.bos, *model.tokenizer.encode(clean)]])
        with torch.no_grad():
            order = model(tokens)[0, -1, ids].argsort().tolist()
        lines.append({"clean": clean, "corrupt": corrupt, "right": words[order[-1]], "wrong": words[order[0]]})
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def interp(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return left.value.code


def ran(capsys, root: Path, *words: str) -> dict:
    assert interp(*words, "--json", "--root", str(root), "--device", "cpu") == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_the_run_holds_what_the_library_computes(sae, prompts, capsys):
    root, name = sae
    summary = ran(capsys, root, "latents", name, str(prompts), *SMALL)
    run = root / summary["run"]
    rows = pq.read_table(run / "latents.parquet").to_pylist()
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert sum(row["latent"] >= 0 for row in rows) == summary["active_latents"]
    assert sum(row["exact"] is not None for row in rows) == summary["audited"] + 1
    assert next(row for row in rows if row["latent"] == -1)["exact"] == pytest.approx(summary["effect_of_error"], abs=1e-6)
    curve = [row for row in pq.read_table(run / "curve.parquet").to_pylist() if row["series"] == "method"]
    assert (curve[0]["faithfulness"], curve[-1]["faithfulness"]) == (0, 1)
    assert curve[0]["metric"] - curve[-1]["metric"] == pytest.approx(summary["effect_of_all"], abs=1e-5)
    assert [row["split"] for row in pq.read_table(run / "prompts.parquet").to_pylist()] == ["train"] * 8 + ["test"] * 8
    task, model, trained = TaskFile(str(prompts)), load(summary["model"]), Trained.open(root, name, "cpu")
    pairs = task.pairs(model.tokenizer, 16, 0, model.bos).rows(slice(8))
    again = scores(model, task, pairs, latents(model, trained.dictionary, SITE, pairs, "zero"), 2)
    assert torch.allclose(load_file(run / "scores.safetensors")["per_example"], again.float(), atol=1e-6)


@pytest.mark.slow
def test_the_codes_of_a_codebook_model_leave_no_error(tiny_llama, corpus_file, prompts, tmp_path, capsys):
    words = ("codebook", str(tiny_llama), "--sites", str(SITE), "--codes", "24", "--k", "3", "--tokens", "2048", "--context", "32")
    ran(capsys, tmp_path, *words, "--text", f"files:{corpus_file}")
    trained = next(tmp_path.glob("train-*")).name
    summary = ran(capsys, tmp_path, "latents", trained, str(prompts), *SMALL)
    assert summary["effect_of_error"] == pytest.approx(0, abs=1e-5)
    assert summary["effect_of_all"] < 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("ioi --pairs 5", "cannot be halved"),
        ("ioi --steps 0", "at least 1"),
        ("ioi --corruption s9", "choose one of"),
        ("ioi --options family", "NAME=VALUE"),
        ("cooking", "is unknown"),
    ],
)
def test_bad_options_are_one_sentence(sae, options, sentence, capsys):
    root, name = sae
    assert interp("latents", name, *options.split(), "--root", str(root)) == 2
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_transcoder_is_refused(cache, capsys):
    root, store = cache
    stage = Train(store, site="1.mlp_in", write="mlp_out", architecture=TopK(k=4), width=64, epochs=0.2)
    name = execute(stage, Context(root=root, device="cpu"), say=print).id
    assert interp("latents", name, "ioi", "--root", str(root)) == 2
    assert "does not write the one site that it reads" in capsys.readouterr().err
