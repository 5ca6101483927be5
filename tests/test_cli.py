"""The command line: one habit, one sentence for bad input, exit code 2, nothing lost."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from interp import runs
from interp.cli import COMMANDS, main, usage
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from saes.architectures import ARCHITECTURES


def interp(*arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own; a failure never shows a traceback."""
    done = subprocess.run([sys.executable, "-m", "interp", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert code != 2 or "Traceback" not in done.stderr
    return done


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a refusal, in this process."""
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    assert leave.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("interp: ") or "Traceback" in line or "╭" in line]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("interp: ")


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that succeeds prints on both streams, blanks and line breaks made one, in this process."""
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    assert leave.value.code == 0
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).replace("│", " ").split())


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    sites = tuple(Site.parse(text) for text in ("0.mlp_in", "0.mlp_out", "1.mlp_in", "1.mlp_out"))
    stage = Cache(sites=sites, model=str(tiny_llama), text=f"files:{corpus_file}", tokens=2048, context=32, dtype="float32")
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


def test_help_lists_every_command_without_loading_anything():
    assert all(name in usage() for name in COMMANDS)
    code = "import sys\nfrom interp.cli import usage\nusage()\nsys.exit('torch' in sys.modules or 'streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "demo"])
def test_every_command_explains_its_options_with_defaults(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leave:
        main([name, "--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert "--root" in text
    assert "default" in text


@pytest.mark.slow
def test_json_is_one_object_on_the_last_line(tmp_path: Path, tiny_llama: Path, corpus_file: Path):
    arguments = (
        "--model",
        tiny_llama,
        "--text",
        f"files:{corpus_file}",
        "--tokens",
        1024,
        "--context",
        32,
        "--dtype",
        "float32",
        "--root",
        tmp_path,
    )
    done = interp("cache", "--sites", "0.z", *arguments, "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert runs.open_run(tmp_path, result["run"]).stage == "cache"
    assert "tokens/s by a probe" in done.stderr
    assert "next: interp train" in done.stderr


def test_a_plan_costs_nothing(tmp_path: Path, tiny_llama: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leave:
        main(["cache", "--sites", "0.z", "--model", str(tiny_llama), "--text", f"files:{corpus_file}", "--root", str(tmp_path), "--plan"])
    assert leave.value.code == 0
    assert not list(tmp_path.iterdir())
    plan = capsys.readouterr().err
    assert all(word in plan for word in ("disk", "memory", "time", "tokens/s"))


def test_wrong_inputs_get_one_sentence_each(tmp_path: Path, cached: Run, tiny_llama: Path, capsys: pytest.CaptureFixture[str]):
    root, empty = cached.path.parent, tmp_path / "empty.txt"
    empty.write_text("")
    cache = ("cache", "--root", tmp_path, "--model", tiny_llama)
    assert "cannot be had" in refused(capsys, "cache", "--sites", "0.z", "--model", "nobody/nothing", "--root", tmp_path)
    assert "names no site" in refused(capsys, *cache, "--sites", "0.zz")
    assert "layers 0 to 2" in refused(capsys, *cache, "--sites", "7.z")
    assert "empty.txt holds no text" in refused(capsys, *cache, "--sites", "0.z", "--text", f"files:{empty}")
    assert "there is no folder" in refused(capsys, "cache", "--sites", "0.z", "--model", tmp_path / "nothing", "--root", tmp_path)
    assert "must hold a sequence" in refused(capsys, *cache, "--sites", "0.z", "--batch-tokens", 0)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()], "a refusal leaves nothing behind"
    assert "there is no run" in refused(capsys, "train", "cache-00000000", "--root", root)
    assert "k=999" in refused(capsys, "train", cached.id, "--k", 999, "--width", 64, "--root", root)
    assert "is a cache run, a train run is needed" in refused(capsys, "eval", cached.id, "--root", root)
    assert "is no command" in refused(capsys, "trian")
    assert "is no address" in refused(capsys, "show", "a:b:c", "--root", root)
    assert "is a cache run; latents are shown from" in refused(capsys, "show", f"{cached.id}:f:3", "--root", root)
    assert runs.list_runs(root) == [cached]


PAIR = ("--sites", "0.mlp_in+1.mlp_in")
# What some architectures need beside their name.
NEEDS = {"CrossLayer": (*PAIR, "--write", "mlp_out")}


@pytest.mark.parametrize("spelling", ["JumpRelu", "jump-relu", "jumprelu", "jump_relu", "JUMPRELU"])
def test_an_architecture_is_chosen_by_any_spelling(cached: Run, capsys: pytest.CaptureFixture[str], spelling: str):
    said = shown(capsys, "train", cached.id, "--architecture", spelling, "--k", 4, "--width", 64, "--root", cached.path.parent, "--plan")
    assert "JumpRelu k 4 on 0.mlp_in, 32 → 64 latents" in said
    said = shown(
        capsys, "train", cached.id, f"--architecture={spelling},topk", "--k=4", "--width=64", "--root", cached.path.parent, "--plan"
    )
    assert "1 JumpRelu k 4" in said
    assert "2 TopK k 4" in said


def test_an_unknown_architecture_is_refused_with_those_there_are(cached: Run, capsys: pytest.CaptureFixture[str]):
    assert refused(capsys, "train", cached.id, "--architecture", "BottomK", "--root", cached.path.parent) == (
        f"--architecture BottomK is unknown; choose one of {', '.join(ARCHITECTURES)}"
    )
    assert "--architecture  is unknown" in refused(capsys, "train", cached.id, "--architecture")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_chosen_architecture_brings_its_options_with_their_defaults(capsys: pytest.CaptureFixture[str], name: str):
    said = shown(capsys, "train", "--architecture", name, "--help")
    assert f"--architecture NAME: {', '.join(ARCHITECTURES)}." in said
    own = ARCHITECTURES[name]()
    for field in dataclasses.fields(own):
        if field.name != "aux":
            option = f"--{field.name.replace('_', '-')} "
            assert option in said
            assert f"(default: {getattr(own, field.name)})" in said[said.index(option) :]
    foreign = {f.name for kind in ARCHITECTURES.values() for f in dataclasses.fields(kind)} - {f.name for f in dataclasses.fields(own)}
    assert not [f for f in foreign if f"--{f.replace('_', '-')} " in said]


def test_an_option_of_another_architecture_is_refused(cached: Run, capsys: pytest.CaptureFixture[str]):
    line = ("train", cached.id, "--k", "4", "--width", "64", "--root", str(cached.path.parent), "--plan", "--prefixes", "3")
    assert "Matryoshka k 4" in shown(capsys, *line, "--architecture", "Matryoshka")
    with pytest.raises(SystemExit) as leave:
        main(list(line))
    assert leave.value.code == 2
    assert "--prefixes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_k_larger_than_the_width_is_refused_by_every_architecture(cached: Run, capsys: pytest.CaptureFixture[str], name: str):
    line = ("train", cached.id, "--architecture", name, *NEEDS.get(name, ()), "--width", 64, "--root", cached.path.parent, "--plan")
    assert re.search(r"k=65 .*choose k between 1 and \d+$", refused(capsys, *line, "--k", 65))
    assert re.search(r"k=0 .*choose k between 1 and \d+$", refused(capsys, *line, "--k", 0))
    assert f"{name} k 3" in shown(capsys, *line, "--k", 3)


def test_sites_that_do_not_fit_are_refused_and_those_that_do_are_not(cached: Run, capsys: pytest.CaptureFixture[str]):
    line = ("train", cached.id, "--k", 4, "--width", 64, "--root", cached.path.parent, "--plan")
    several = ("BatchTopK", "JumpRelu", "Matryoshka", "Relu", "Gated", "TopK", "Discrete")
    for name in several:
        said = refused(capsys, *line, "--architecture", name, *PAIR)
        assert said == f"{name} reads one site, not 2 joined by +; Crosscoder and CrossLayer read several"
    assert "add --write" in refused(capsys, *line, "--skip")
    assert "names 2 sites for 1 that are read" in refused(capsys, *line, "--sites", "1.mlp_in", "--write", "0.mlp_out+1.mlp_out")
    assert "names 1 sites for 2 that are read" in refused(capsys, *line, "--architecture", "Crosscoder", *PAIR, "--write", "0.mlp_out")
    assert "holds no 1.attn_out; it holds 0.mlp_in, 0.mlp_out" in refused(capsys, *line, "--sites", "1.mlp_in", "--write", "attn_out")
    assert "names no site" in refused(capsys, *line, "--sites", "0.mlp_in+")
    assert "names no site" in refused(capsys, *line, "--write", "mlpout")
    for name in ("Codebook", "Discrete"):
        assert f"{name} writes what it reads" in refused(capsys, *line, "--architecture", name, "--write", "mlp_out")
    for sites in (("--sites", "1.mlp_in"), PAIR, (*PAIR, "--write", "mlp_out", "--skip")):
        assert "Crosscoder k 4" in shown(capsys, *line, "--architecture", "Crosscoder", *sites)
    assert "1.mlp_in → 1.mlp_out" in shown(capsys, *line, "--sites", "1.mlp_in", "--write", "mlp_out", "--skip")


def test_widths_that_do_not_divide_are_refused(cached: Run, capsys: pytest.CaptureFixture[str]):
    line = ("train", cached.id, "--k", 4, "--root", cached.path.parent, "--plan")
    cross = ("--architecture", "CrossLayer", *PAIR, "--write", "mlp_out")
    assert "65 cannot be shared by 2 layers; choose a multiple of 2" in refused(capsys, *line, *cross, "--width", 65)
    assert "predicts what MLPs write" in refused(capsys, *line, "--architecture", "CrossLayer", *PAIR, "--width", 64)
    assert "predicts what MLPs write" in refused(capsys, *line, *cross, "--width", 64, "--skip")
    books = ("--architecture", "Codebook", "--books")
    assert "64 cannot be shared by 3 books; choose a multiple of 3" in refused(capsys, *line, *books, 3, "--width", 64)
    assert "32 dimensions cannot be cut into 5 chunks" in refused(capsys, *line, *books, 5, "--width", 65)
    assert "prefixes=9 do not halve 64 latents" in refused(capsys, *line, "--architecture", "Matryoshka", "--prefixes", 9, "--width", 64)


def test_numbers_that_train_nothing_are_refused(cached: Run, capsys: pytest.CaptureFixture[str]):
    line = ("train", cached.id, "--k", 4, "--width", 64, "--root", cached.path.parent, "--plan")
    assert "--batch-size 0 is no batch" in refused(capsys, *line, "--batch-size", 0)
    assert "steps=0 is too small" in refused(capsys, *line, "--epochs", 0)
    assert "lr=-1.0 trains nothing" in refused(capsys, *line, "--lr", -1)
    assert "log_every=0 is too small" in refused(capsys, *line, "--log-every", 0)
    for option in ("--epochs", "--lr", "--aux-coefficient"):
        for value in ("nan", "inf", "-inf"):
            assert refused(capsys, *line, option, value) == f"{value} cannot be the value of an option; give a finite number"
    assert "--sequences 0 measures nothing" in refused(capsys, "eval", "train-00000000", "--sequences", 0)


def test_a_root_with_a_comma_in_its_name_is_one_root(
    tmp_path: Path, tiny_llama: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "a,b"
    cache = ("--model", tiny_llama, "--text", f"files:{corpus_file}", "--tokens", 512, "--context", 32, "--dtype", "float32")
    shown(capsys, "cache", "--sites", "0.z", *cache, "--root", root)
    (run,) = runs.list_runs(root)
    shown(capsys, "train", run.id, "--k", 2, 4, "--width", 16, "--batch-size", 64, "--root", root)
    assert len(runs.list_runs(root, "train")) == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train RUN --k abc", "--k takes a whole number, and 'abc' is none; `interp train --help` lists"),
        ("train RUN --lr fast", "--lr takes a number, and 'fast' is none; `interp train --help` lists"),
        ("train RUN --kk 3", "--kk 3 is no option of `interp train`; `interp train --help` lists"),
        ("train RUN --k", "--k needs a value; `interp train --help` lists"),
        ("train RUN --precision int8", "--precision int8 is unknown; choose one of auto, float32, bfloat16; `interp train"),
        ("train", "STORE is missing; `interp train --help` lists"),
        ("cache", "--sites is missing; `interp cache --help` lists"),
        ("cache --sites 0.z --tokens 5", "--tokens 5 --context 128: a cache needs at least one sequence"),
        ("demo --k 10 --width 9 --no-app", "k=10 latents cannot be active in a dictionary of d_dict=9"),
        ("app --port 0", "port 0 is out of range"),
        ("app --host 203.0.113.1", "203.0.113.1 is no address of this machine"),
    ],
)
def test_a_line_that_cannot_be_read_gets_one_sentence(line: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert refused(capsys, *line.split(), "--root", tmp_path).startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_names_the_command_that_finishes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with runs.draft(tmp_path, "cache", {}, {}) as draft:
        name = draft.path.name
    assert "is unfinished; run the command that started it again: interp" in refused(capsys, "show", name, "--root", tmp_path)


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert "cannot be used" in refused(capsys, "app", "--port", busy.getsockname()[1])


def test_a_damaged_shard_is_refused_and_the_command_to_repair_it_is_given(tmp_path: Path, cached: Run, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / cached.id
    shutil.copytree(cached.path, copy)
    shard = next((copy / "acts" / "0.mlp_in").glob("*.safetensors"))
    good = shard.read_bytes()
    shard.write_bytes(good[:-5] + bytes([good[-5] ^ 4]) + good[-4:])
    assert "does not match its sha256" in refused(capsys, "train", cached.id, "--root", tmp_path)
    shard.write_bytes(good[:-5])
    assert "bytes where its manifest says" in refused(capsys, "train", cached.id, "--root", tmp_path)
    for name in ("manifest.json", "config.json"):
        good = (copy / name).read_bytes()
        (copy / name).write_bytes(good[:-5])
        assert f"{name} is damaged" in refused(capsys, "train", cached.id, "--root", tmp_path)
        with pytest.raises(SystemExit, match="0"):
            main(["runs", "--root", str(tmp_path)])
        assert f"{name} is damaged" in capsys.readouterr().err
        (copy / name).write_bytes(good)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_ends_in_a_sentence_and_the_same_command_goes_on(tmp_path: Path, tiny_llama: Path, corpus_file: Path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        arguments = ("cache", "--sites", "0.z,1.resid_post", "--model", tiny_llama, "--text", f"files:{corpus_file}", "--context", 32,
                     "--dtype", "float32", "--shard-tokens", 512, "--root", small)  # fmt: skip
        assert "free and this needs" in interp(*arguments, "--tokens", 8192, code=2).stderr
        assert not list(small.iterdir())
        # Something else fills the disk while the work goes on: the plan saw room, the writes do not.
        (small / "other").write_bytes(bytes(250_000))
        lie = "import shutil, interp.cli\nshutil.disk_usage = lambda _: type('U', (), {'free': 10**12})()\n"
        code = f"{lie}interp.cli.main({[*map(str, arguments), '--tokens', '3500']!r})"
        full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert full.returncode == 2, full.stderr
        assert "the disk is full" in full.stderr
        (small / "other").unlink()
        interp(*arguments, "--tokens", 3500)
        (run,) = runs.list_runs(small)
        run.verify()
    finally:
        subprocess.run(["umount", small], check=True)
