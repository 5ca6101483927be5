"""Benchmarks without their peers: what they measure of ours can be measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_quality_of_ours_is_measured_on_a_cache_run(tiny_llama, corpus_file, tmp_path):
    config = Cache(model=str(tiny_llama), sites=(Site(1, "resid_post"),), text=f"files:{corpus_file}", tokens=3000, context=32)
    run = execute(config, Context(root=tmp_path, device="cpu"), say=print)
    assert run is not None
    options = "--no-speed --only ours --width 64 --k 4 --quality-batch 32 --tokens 6400 --threads 1 --json"
    line = [sys.executable, str(FOLDER / "dictionaries.py"), *options.split(), "--activations", str(run.path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens"] == 6400
    assert 0 < found["fvu_ours"] < 1
    assert 0 <= found["dead_share_ours"] < 1
