"""Imports point one way."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_import_linter_finds_no_broken_contract():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_pickle_is_read_anywhere():
    for path in (p for name in ("saes", "interp", "app") for p in (ROOT / name).rglob("*.py")):
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "torch.load(" not in text.replace("torch.load(path, weights_only=True", ""), path
        assert "unsafe_allow_html" not in text, path
        assert "unsafe_allow_javascript" not in text, path
