"""The command line: one habit, one sentence for bad input, exit code 2, nothing lost."""

import json
import os
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
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("interp: ")
    return sentence


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    stage = Cache(
        sites=(Site(1, "resid_post"),), model=str(tiny_llama), text=f"files:{corpus_file}", tokens=2048, context=32, dtype="float32"
    )
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
    assert "empty" in refused(capsys, *cache, "--sites", "0.z", "--text", f"files:{empty}")
    assert "there is no run" in refused(capsys, "train", "cache-00000000", "--root", root)
    assert "k=999" in refused(capsys, "train", cached.id, "--k", 999, "--width", 64, "--root", root)
    assert "is a cache run, a train run is needed" in refused(capsys, "eval", cached.id, "--root", root)
    assert "is no command" in refused(capsys, "trian")
    assert "is no address" in refused(capsys, "show", "a:b:c", "--root", root)
    assert runs.list_runs(root) == [cached]


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert "cannot be used" in refused(capsys, "app", "--port", busy.getsockname()[1])


def test_a_damaged_shard_is_refused_and_the_command_to_repair_it_is_given(tmp_path: Path, cached: Run, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / cached.id
    shutil.copytree(cached.path, copy)
    shard = next((copy / "acts").rglob("*.safetensors"))
    good = shard.read_bytes()
    shard.write_bytes(good[:-5] + bytes([good[-5] ^ 4]) + good[-4:])
    assert "does not match its sha256" in refused(capsys, "train", cached.id, "--root", tmp_path)
    shard.write_bytes(good[:-5])
    assert "bytes where its manifest says" in refused(capsys, "train", cached.id, "--root", tmp_path)


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
