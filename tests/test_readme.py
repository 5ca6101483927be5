"""The README says what is true: its Python runs, its commands parse, its files exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from interp.circuits.methods import METHODS
from interp.cli import COMMANDS, _members

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path):
    code = "\n".join(blocks("python"))
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code + "\nassert logits.shape[-1] == 49152\nassert share.isfinite()"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines() if line.startswith("interp ")])
def test_the_commands_of_the_readme_parse(line: str):
    name, *arguments = shlex.split(line, comments=True)[1:]
    module, kind, _ = COMMANDS[name]
    members, _ = _members(name, getattr(importlib.import_module(module), kind), arguments)
    assert {type(command).__name__ for _, command in members} == {kind}


def test_every_command_stands_in_the_readme():
    assert all(f"interp {name}" in README or f"make {name}" in README for name in COMMANDS)


def test_every_method_of_circuits_stands_in_the_readme():
    section = README[README.index("### Circuits") : README.index("Sites are written")]
    assert all(re.search(rf"\b{name}\b", section) for name in METHODS)


def test_every_path_that_the_readme_names_exists():
    table = README[README.index("## What is where") : README.index("## Models and hardware")]
    for path in re.findall(r"`([\w./]+(?:/|\.md|\.py)|(?:interp|saes)/\w+)`", table):
        assert (ROOT / path).exists() or (ROOT / "interp" / path).exists(), path
