"""A grid is nothing but its members: the product of command lines, and the same runs as each line alone."""

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from interp import runs
from interp.cli import main
from interp.grid import product
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute, execute_all
from interp.stages.cache import Cache
from interp.stages.describe import Describe
from interp.stages.health import Log
from interp.stages.train import Train
from saes import checkpoint
from saes.architectures import TopK
from saes.errors import InputError

OPTIONS = ("--width", 64, "--epochs", 2, "--batch-size", 128, "--precision", "float32", "--log-every", 5)
FILES = ("weights.safetensors", "dictionary.json", "sample.safetensors", "metrics.parquet")


# The product of command lines.


def test_blanks_commas_and_equals_signs_separate_values():
    expected = [["RUN", "--k", "2", "--lr", "1e-3"], ["RUN", "--k", "4", "--lr", "1e-3"]]
    for words in ("--k 2 4", "--k 2,4", "--k=2,4", "--k=2 4", "--k 2, 4", "--k ,2,,4,"):
        assert product(["RUN", *words.split(), "--lr", "1e-3"]) == expected


def test_a_negative_number_is_a_value_and_an_option_is_not():
    expected = [["--penalty", value, "--k", "2"] for value in ("-1", "-.5", "-1e-3")]
    for words in ("-1 -.5 -1e-3", "-1,-.5,-1e-3", "-1, -.5 -1e-3"):
        assert product(["--penalty", *words.split(), "--k", "2"]) == expected
    assert product(["--penalty=-1,-.5,-1e-3", "--k", "2"]) == expected
    assert product(["RUN", "-h"]) == [["RUN", "-h"]]


def test_a_switch_takes_no_value_so_what_follows_it_is_positional():
    switches = frozenset({"--plan", "--skip"})
    assert product(["--plan", "A", "B", "--k", "2"], switches) == [["A", "--plan", "--k", "2"], ["B", "--plan", "--k", "2"]]
    assert product(["A", "--skip", "--k", "2", "4"], switches) == [["A", "--skip", "--k", "2"], ["A", "--skip", "--k", "4"]]


def test_a_path_that_all_share_is_handed_on_as_it_is():
    shared = frozenset({"--root"})
    assert product(["A", "B", "--root", "/a,b c"], shared=shared) == [["A", "--root", "/a,b c"], ["B", "--root", "/a,b c"]]
    assert product(["A", "--root=/a,b"], shared=shared) == [["A", "--root", "/a,b"]]


def test_an_empty_line_is_one_line():
    assert product([]) == [[]]


numbers = st.integers(-999, 999).map(str) | st.floats(-1e6, 1e6, allow_nan=False).map(repr)
words = st.from_regex(r"[a-z0-9][a-zA-Z0-9_.+:/]{0,8}", fullmatch=True)
values = st.lists(numbers | words, min_size=1, max_size=3)
options = st.dictionaries(st.sampled_from(["--k", "--lr", "--seed", "--sites", "--aux-coefficient"]), values, max_size=3)
WRITTEN: list[Callable[[str, list[str]], list[str]]] = [
    lambda name, given: [name, *given],
    lambda name, given: [name, ",".join(given)],
    lambda name, given: [f"{name}={','.join(given)}"],
    lambda name, given: [f"{name}={given[0]}", *given[1:]],
    lambda name, given: [name, f"{given[0]},", *given[1:]],
]


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(words, max_size=3), options, st.lists(st.sampled_from(["--plan", "--skip"]), unique=True), st.data())
def test_the_product_is_its_literal_twin_and_a_line_of_it_is_its_own_product(
    positional: list[str], options: dict[str, list[str]], given_switches: list[str], data: st.DataObject
):
    switches = frozenset({"--plan", "--skip"})
    line = [*positional]
    for name, given in options.items():
        line += data.draw(st.sampled_from(WRITTEN))(name, given)
    twin: list[list[str]] = [[]]
    if positional:
        twin = [[word] for word in positional]
    for name, given in options.items():
        twin = [[*before, name, value] for before in twin for value in given]
    found = product([*line, *given_switches], switches)
    assert found == [[*members, *given_switches] for members in twin]
    assert all(product(member, switches) == [member] for member in found)


# Members and their own command lines.


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    stage = Cache(
        sites=(Site(1, "resid_post"),), model=str(tiny_llama), text=f"files:{corpus_file}", tokens=2048, context=32, dtype="float32"
    )
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


@pytest.fixture
def root(tmp_path: Path, cached: Run) -> Path:
    """A folder of runs of its own, with the cache run in it."""
    shutil.copytree(cached.path, tmp_path / "runs" / cached.id)
    return tmp_path / "runs"


def interp(*arguments: object) -> None:
    """A command that succeeds, in this process."""
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    assert leave.value.code == 0


def contents(root: Path) -> dict[str, dict[str, bytes]]:
    """The files of every train run, by run."""
    return {run.id: {name: run.file(name).read_bytes() for name in FILES} for run in runs.list_runs(root, "train")}


def test_members_of_a_grid_are_the_same_runs_and_bits_as_their_own_command_lines(cached: Run, root: Path, tmp_path: Path):
    interp("train", cached.id, "--k", 2, 4, "--seed", "0,1", *OPTIONS, "--root", root)
    alone = tmp_path / "alone"
    shutil.copytree(cached.path, alone / cached.id)
    for k, seed in ((2, 0), (2, 1), (4, 0), (4, 1)):
        interp("train", cached.id, "--k", k, "--seed", seed, *OPTIONS, "--root", alone)
    together = contents(root)
    assert len(together) == 4
    assert len({files["weights.safetensors"] for files in together.values()}) == 4
    assert together == contents(alone)


def test_a_member_names_its_own_command_line_which_finds_it(cached: Run, root: Path, capsys: pytest.CaptureFixture[str]):
    interp("train", cached.id, "--k", "2,4", f"--root={root}", "--architecture", "TopK", "gated", *OPTIONS, "--json", "--device", "cpu")
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({result["run"] for result in results}) == 4
    for result, k, architecture in zip(results, (2, 2, 4, 4), ("TopK", "gated") * 2, strict=True):
        run = runs.open_run(root, result["run"])
        assert run.command == f"interp train {cached.id} --k {k} --architecture {architecture} " + " ".join(map(str, OPTIONS))
        interp(*shlex.split(run.command)[1:], "--root", root)
        assert f"{run.id} is there already: nothing to do" in capsys.readouterr().err


def test_only_the_members_that_are_missing_are_trained(cached: Run, root: Path, capsys: pytest.CaptureFixture[str]):
    interp("train", cached.id, "--k", 4, *OPTIONS, "--root", root)
    (first,) = runs.list_runs(root, "train")
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    capsys.readouterr()
    interp("train", cached.id, "--k", 2, 4, 8, *OPTIONS, "--root", root)
    said = capsys.readouterr().err
    assert f"{first.id} is there already: nothing to do" in said
    assert "TopK k 2 on" in said
    assert "TopK k 4 on" not in said, "the plan lists what will be trained"
    assert len(contents(root)) == 3
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before


def test_the_same_member_asked_for_twice_is_trained_once(cached: Run, root: Path):
    interp("train", cached.id, "--k", 2, 2, *OPTIONS, "--root", root)
    assert len(contents(root)) == 1


def test_members_of_different_lengths_end_when_they_end(cached: Run, root: Path, tmp_path: Path):
    short = [word for word in OPTIONS if word not in ("--epochs", 2)]
    interp("train", cached.id, "--k", 4, "--epochs", 1, 3, *short, "--root", root)
    alone = tmp_path / "alone"
    shutil.copytree(cached.path, alone / cached.id)
    for epochs in (1, 3):
        interp("train", cached.id, "--k", 4, "--epochs", epochs, *short, "--root", alone)
    assert contents(root) == contents(alone)


@pytest.mark.parametrize("option", ["batch-size", "shuffle"])
def test_trainings_that_read_different_batches_are_refused_in_one_sentence(
    cached: Run, root: Path, capsys: pytest.CaptureFixture[str], option: str
):
    with pytest.raises(SystemExit) as leave:
        main(["train", cached.id, "--k", "4", "--width", "64", f"--{option}", "64", "128", "--root", str(root)])
    assert leave.value.code == 2
    said = f"interp: trainings with different --{option} read different batches; start them one by one"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert [path.name for path in root.iterdir()] == [cached.id], "nothing was started"


def test_a_stage_that_works_on_one_thing_refuses_several(cached: Run, root: Path, capsys: pytest.CaptureFixture[str]):
    interp("train", cached.id, "--k", 2, 4, *OPTIONS, "--root", root)
    first, second = (run.id for run in runs.list_runs(root, "train"))
    with pytest.raises(InputError, match="interp describe does one thing at a time: give a single value for each option"):
        execute_all([Describe(first), Describe(second)], Context(root))
    with pytest.raises(SystemExit) as leave:
        main(["describe", first, second, "--root", str(root)])
    assert leave.value.code == 2
    assert second in capsys.readouterr().err
    assert not list(root.glob("describe-*"))


class Killed(BaseException):
    """What ends a training on the spot in these tests."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, train: Callable[[], object]) -> None:
    """Run a training and end it right after its first checkpoint at that step or later."""
    original = checkpoint.write

    def write(path: Path, saved: checkpoint.Checkpoint) -> None:
        original(path, saved)
        if saved.step >= step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", write)
        with pytest.raises(Killed):
            train()


def members(cached: Run, seconds: float = 30.0) -> list[Train]:
    settings = {"width": 64, "epochs": 4.0, "batch_size": 128, "precision": "float32", "log_every": 5, "checkpoint_seconds": seconds}
    return [Train(cached.id, TopK(k), **settings) for k in (2, 4, 8)]  # pyright: ignore[reportArgumentType]


def test_members_resumed_from_different_steps_catch_up_and_end_in_the_same_bits(
    cached: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second, _ = members(cached, seconds=0.0)
    killed_at(40, monkeypatch, lambda: execute(first, Context(root)))
    killed_at(15, monkeypatch, lambda: execute(second, Context(root)))
    steps = sorted(checkpoint.read(path / "checkpoint").step for path in root.glob("train-*.part"))
    assert steps == [15, 40]
    execute_all(members(cached), Context(root))
    alone = tmp_path / "alone"
    shutil.copytree(cached.path, alone / cached.id)
    for stage in members(cached):
        execute(stage, Context(alone))
    assert len(contents(root)) == 3
    assert contents(root) == contents(alone)


def test_a_grid_that_is_catching_up_stops_at_once_when_told_to(cached: Run, root: Path, monkeypatch: pytest.MonkeyPatch):
    """The member ahead is not asked for a checkpoint that it has already."""
    first, second, _ = members(cached, seconds=0.0)
    killed_at(40, monkeypatch, lambda: execute(first, Context(root)))
    (ahead,) = root.glob("train-*.part")
    append = Log.append

    def told(self: Log, *arguments: object) -> None:
        append(self, *arguments)  # pyright: ignore[reportArgumentType]
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", told)
        with pytest.raises(KeyboardInterrupt):
            execute_all([first, second], Context(root))
    (behind,) = set(root.glob("train-*.part")) - {ahead}
    assert checkpoint.read(ahead / "checkpoint").step == 40
    assert checkpoint.read(behind / "checkpoint").step == 10, "told while it logged step 5, it stops at the next row"
