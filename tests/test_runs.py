"""Run folders: one folder for equal work, sealed last, checked when read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interp import runs
from saes.errors import InputError


def make(root: Path, text: str = "hello", **config: object) -> runs.Run:
    with runs.draft(root, "cache", {"config": 1, **config}, {}) as work:
        (work.path / "a.txt").write_text(text)
        work.write_json("summary.json", {"n": 1})
        return work.seal()


def test_equal_work_has_one_name_and_parents_count(tmp_path: Path):
    a = runs.run_id("train", {"k": 1}, {"store": "cache-00000000"})
    assert a == runs.run_id("train", {"k": 1}, {"store": "cache-00000000"})
    assert (
        len({a, runs.run_id("train", {"k": 2}, {"store": "cache-00000000"}), runs.run_id("train", {"k": 1}, {"store": "cache-00000001"})})
        == 3
    )


def test_a_sealed_run_lists_every_file_with_its_hash(tmp_path: Path):
    run = make(tmp_path)
    assert set(run.manifest) == {"a.txt", "config.json", "summary.json"}
    assert run.manifest["a.txt"]["sha256"] == runs.sha256(run.path / "a.txt")
    run.verify()
    assert runs.list_runs(tmp_path) == [run]


def test_a_folder_in_progress_is_no_run_and_names_its_command(tmp_path: Path):
    with runs.draft(tmp_path, "cache", {}, {}) as work:
        assert runs.list_runs(tmp_path) == []
        with pytest.raises(InputError, match="unfinished; run the command"):
            runs.open_run(tmp_path, work.id)


def test_a_draft_is_resumed_with_its_files(tmp_path: Path):
    with runs.draft(tmp_path, "cache", {}, {}) as work:
        (work.path / "kept").write_text("x")
    with runs.draft(tmp_path, "cache", {}, {}) as again:
        assert again == work
        assert (again.path / "kept").read_text() == "x"


def test_two_processes_cannot_hold_one_draft(tmp_path: Path):
    code = "import sys\nfrom pathlib import Path\nfrom interp import runs\nwith runs.draft(Path(sys.argv[1]), 'cache', {}, {}): pass"
    with runs.draft(tmp_path, "cache", {}, {}):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "another process is working on" in done.stderr


@pytest.mark.parametrize("damage", [b"hell", b"hellO"])
def test_a_cut_or_flipped_file_is_found(tmp_path: Path, damage: bytes):
    run = make(tmp_path)
    (run.path / "a.txt").write_bytes(damage)
    with pytest.raises(InputError, match="the file is damaged"):
        run.verify("a.txt")


@pytest.mark.parametrize("name", ["../etc", "train-123", "/tmp", "train-1234567g", ""])
def test_what_is_no_run_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="no run"):
        runs.open_run(tmp_path, name)


def test_another_schema_is_refused_with_the_command(tmp_path: Path):
    run = make(tmp_path)
    (run.path / "config.json").write_text(json.dumps({**run.config, "schema": 99}))
    with pytest.raises(InputError, match="schema 99"):
        runs.open_run(tmp_path, run.id)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), runs.written(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_run_folders_are_read_without_torch():
    code = "import sys, interp.runs, interp.tables, interp.sites; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
