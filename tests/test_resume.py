"""Interrupted at any moment and by anything, a training ends in the bits of one never stopped: every architecture, alone and in a grid."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from interp import runs
from interp.cli import main
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from saes import checkpoint
from saes.architectures import ARCHITECTURES
from saes.errors import InputError

FILES = ("weights.safetensors", "dictionary.json", "sample.safetensors", "metrics.parquet")
PAIR = ("--sites", "0.mlp_in+1.mlp_in")
# What an architecture needs beside its name; the others take one site.
PLACES = {"Crosscoder": PAIR, "CrossLayer": (*PAIR, "--write", "mlp_out")}
ONE = ("--sites", "1.mlp_in")
LINES = {name: ("--architecture", name, *PLACES.get(name, ONE)) for name in ARCHITECTURES}
LINES["transcoder"] = ("--architecture", "TopK", *ONE, "--write", "mlp_out", "--skip")
GRIDS = {
    "one site": ("--architecture", *(name for name in ARCHITECTURES if name not in PLACES), *ONE),
    "two sites": ("--architecture", "CrossLayer", "Crosscoder", *PAIR, "--write", "mlp_out"),
}
SHORT = ("--k", "4", "--width", "64", "--epochs", "2", "--batch-size", "128", "--precision", "float32", "--log-every", "5")
EVERY = 2
LONG = ("--k", "4", "--width", "128", "--epochs", "16", "--batch-size", "128", "--precision", "float32", "--log-every", str(EVERY))


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    sites = tuple(Site.parse(text) for text in ("0.mlp_in", "0.mlp_out", "1.mlp_in", "1.mlp_out"))
    stage = Cache(sites=sites, model=str(tiny_llama), text=f"files:{corpus_file}", tokens=2048, context=32, dtype="float32")
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


def root_of(cached: Run, folder: Path) -> Path:
    """A folder of runs of its own, with the cache run in it."""
    shutil.copytree(cached.path, folder / cached.id)
    return folder


def ends(code: int, *arguments: object) -> None:
    """Run a command in this process, to that exit code."""
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    assert leave.value.code == code


def contents(root: Path) -> dict[str, dict[str, bytes]]:
    """The files of every train run, by run."""
    return {run.id: {name: run.file(name).read_bytes() for name in FILES} for run in runs.list_runs(root, "train")}


class Killed(BaseException):
    """What ends a training on the spot in these tests."""


@contextlib.contextmanager
def dying_at(checkpoints: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that ends right after so many checkpoints."""
    original, left = checkpoint.write, iter(range(checkpoints - 1))

    def write(path: Path, saved: checkpoint.Checkpoint) -> None:
        original(path, saved)
        if next(left, None) is None:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", write)
        with pytest.raises(Killed):
            yield


def test_every_architecture_is_in_this_matrix():
    in_grids = {word for line in GRIDS.values() for word in line}
    assert set(ARCHITECTURES) <= set(LINES)
    assert set(ARCHITECTURES) <= in_grids


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_a_training_that_died_goes_on_after_its_checkpoint_to_the_same_bits(
    cached: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    line = ("train", cached.id, *LINES[name], *SHORT, "--checkpoint-seconds", 0, "--root")
    whole, broken = root_of(cached, tmp_path / "whole"), root_of(cached, tmp_path / "broken")
    ends(0, *line, whole)
    with dying_at(2, monkeypatch):
        main([str(word) for word in (*line, broken)])
    (part,) = broken.glob("train-*.part")
    assert checkpoint.read(part / "checkpoint").step == 10
    with (part / "progress.jsonl").open("a") as log:
        log.write('{"step": 15, "tok')
    ends(0, *line, broken)
    assert contents(broken) == contents(whole)


def test_a_training_told_to_stop_writes_a_checkpoint_and_says_how_to_go_on(
    cached: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    line = ("train", cached.id, *LINES["TopK"], *SHORT, "--root")
    root = root_of(cached, tmp_path / "runs")
    monkeypatch.setattr("interp.stages.train.warnings", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or [])
    ends(130, *line, root)
    assert capsys.readouterr().err.splitlines()[-1] == "interp: interrupted; the same command goes on where it stopped"
    (part,) = root.glob("train-*.part")
    assert checkpoint.read(part / "checkpoint").step == 10, "told at step 5, it stops at its next row, long before a checkpoint is due"


def full_disk(path: object, *_: object) -> None:
    """A write that gets half-way."""
    Path(str(path)).write_bytes(bytes(1000))
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_during_a_checkpoint_leaves_the_one_before_which_can_be_resumed(
    cached: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    line = ("train", cached.id, *GRIDS["two sites"], *SHORT, "--checkpoint-seconds", 0, "--root")
    whole, broken = root_of(cached, tmp_path / "whole"), root_of(cached, tmp_path / "broken")
    ends(0, *line, whole)
    save_file, count = checkpoint.save_file, iter(range(5))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", lambda tensors, path, head: (save_file if next(count, None) is not None else
                      lambda t, p, h: full_disk(p))(tensors, path, head))  # fmt: skip
        ends(2, *line, broken)
    assert "the disk is full; nothing finished is lost" in capsys.readouterr().err.splitlines()[-1]
    parts = sorted(broken.glob("train-*.part"))
    assert sorted(checkpoint.read(part / "checkpoint").step for part in parts) == [10, 15]
    assert not list(broken.rglob("*.aside")), "what was half written is gone"
    ends(0, *line, broken)
    assert contents(broken) == contents(whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_training_on_a_disk_that_is_really_full_goes_on_when_there_is_room_again(
    cached: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    small, write, count = tmp_path / "small", checkpoint.write, iter(range(1))
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")

    def then_fill(path: Path, saved: checkpoint.Checkpoint) -> None:
        write(path, saved)
        if next(count, None) is None:
            (small / "other").write_bytes(bytes(shutil.disk_usage(small).free - 20_000))

    line = ("train", cached.id, *LINES["TopK"], *SHORT, "--checkpoint-seconds", 0, "--root")
    whole = root_of(cached, tmp_path / "whole")
    ends(0, *line, whole)
    try:
        broken = root_of(cached, small / "runs")
        monkeypatch.setattr(checkpoint, "write", then_fill)
        ends(2, *line, broken)
        assert "the disk is full; nothing finished is lost" in capsys.readouterr().err.splitlines()[-1]
        monkeypatch.setattr(checkpoint, "write", write)
        assert steps(broken) == [10]
        (small / "other").unlink()
        ends(0, *line, broken)
        assert contents(broken) == contents(whole)
    finally:
        # Shards are mapped into the memory of this process: it lets go of them when they are forgotten.
        subprocess.run(["umount", "--lazy", small], check=True)


def test_a_damaged_checkpoint_is_refused_and_the_way_out_is_given(cached: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    line = [str(word) for word in ("train", cached.id, *LINES["TopK"], *SHORT, "--checkpoint-seconds", 0, "--root")]
    root = root_of(cached, tmp_path / "runs")
    with dying_at(1, monkeypatch):
        main([*line, str(root)])
    (part,) = root.glob("train-*.part")
    good = (part / "checkpoint").read_bytes()
    (part / "checkpoint").write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
    with pytest.raises(InputError, match="does not match its checksum: it is damaged; delete it"):
        checkpoint.read(part / "checkpoint")
    ends(2, *line, root)
    (part / "checkpoint").unlink()
    ends(0, *line, root)


# Real processes, real signals.


@pytest.fixture(scope="module")
def whole(cached: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Every training of `LINES` and `GRIDS`, alone, in this process, never stopped."""
    root = root_of(cached, tmp_path_factory.mktemp("whole"))
    for line in LINES.values():
        ends(0, "train", cached.id, *line, *LONG, "--root", root)
    ends(0, "train", cached.id, "--architecture", "Crosscoder", *PAIR, "--write", "mlp_out", *LONG, "--root", root)
    return contents(root)


def wait_for_rows(alive: "BaseProcess | subprocess.Popen[bytes]", root: Path, rows: int) -> None:
    """Until a training has logged so many rows since the process was started, so that a signal falls into the work, not the imports."""
    before = {path: (path.stat().st_mtime_ns, reached(path.parent)) for path in root.glob("*.part/progress.jsonl")}
    while running(alive):
        for path in root.glob("*.part/progress.jsonl"):
            then, step = before.get(path, (0, 0))
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime_ns != then and EVERY * (len(path.read_text().splitlines()) - 1) >= step + EVERY * rows:
                    return
        time.sleep(0.002)


def reached(part: Path) -> int:
    """The step of the checkpoint of a run in progress."""
    path = part / "checkpoint"
    return checkpoint.read(path).step if path.exists() else 0


def running(process: "BaseProcess | subprocess.Popen[bytes]") -> bool:
    return process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()


def steps(root: Path) -> list[int]:
    """The steps of the checkpoints that are there."""
    return [step for part in root.glob("train-*.part") if (step := reached(part))]


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_killed_and_stopped_at_random_moments_gives_the_bits_of_each_member_alone(
    cached: Run, tmp_path: Path, whole: dict[str, dict[str, bytes]], name: str
):
    root = root_of(cached, tmp_path / "runs")
    command = [sys.executable, "-m", "interp", "train", cached.id, *GRIDS[name], *LONG, "--checkpoint-seconds", "0.02", "--root", str(root)]
    hit, generator, at = 0, np.random.default_rng(len(name)), []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_rows(process, root, int(generator.integers(3, 40)))
        process.send_signal(number)
        hit += process.wait() == (130 if number == signal.SIGTERM else -number)
        at += steps(root)
    assert hit >= 2
    assert at, "it was resumed from a checkpoint"
    subprocess.run(command, check=True, capture_output=True)
    found = contents(root)
    assert len(found) == len(GRIDS[name][1 : GRIDS[name].index("--sites")])
    assert found == {run: whole[run] for run in found}


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """Processes in which everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["interp.cli", "interp.stages.train", "tyro"])
    return context


def interp_process(argv: list[str]) -> None:
    """What `python -m interp` does."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main(argv)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_killed_and_stopped_at_random_moments_a_training_alone_ends_in_the_same_bits(
    cached: Run, tmp_path: Path, whole: dict[str, dict[str, bytes]], processes: multiprocessing.context.ForkServerContext, name: str
):
    root = root_of(cached, tmp_path / "runs")
    line = ["train", cached.id, *LINES[name], *LONG, "--checkpoint-seconds", "0.02", "--root", str(root)]
    hit, generator, at = 0, np.random.default_rng(len(name)), []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = processes.Process(target=interp_process, args=(line,))
        process.start()
        wait_for_rows(process, root, int(generator.integers(3, 40)))
        process.kill() if number == signal.SIGKILL else process.terminate()
        process.join()
        hit += process.exitcode == (130 if number == signal.SIGTERM else -number)
        at += steps(root)
    assert hit >= 2
    assert at, "it was resumed from a checkpoint"
    process = processes.Process(target=interp_process, args=(line,))
    process.start()
    process.join()
    assert process.exitcode == 0
    ((run, files),) = contents(root).items()
    assert files == whole[run]
