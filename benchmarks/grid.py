"""What twelve trainings cost together, as a share of what they cost one by one, streamed and from the disk.

    python benchmarks/grid.py --json

The model runs once for all members of a streamed grid: there the data path dominates. From the disk the members share a reading.
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path

import tyro

from interp.sites import Site
from interp.stages.base import Context, execute, execute_all
from interp.stages.cache import Cache
from interp.stages.train import Train
from saes.architectures import TopK


@dataclasses.dataclass(frozen=True)
class Bench:
    """What to train."""

    model: str = "smollm2"
    site: str = "10.resid_post"
    tokens: int = 32_768
    width: int = 512
    members: int = 12
    epochs: float = 1.0
    json: bool = False
    """Print one JSON object."""


def members(store: str, bench: Bench) -> list[Train]:
    """Six sizes of k, two seeds each."""
    choices = [(k, seed) for seed in range(-(-bench.members // 6)) for k in (4, 8, 12, 16, 24, 32)][: bench.members]
    return [Train(store, architecture=TopK(k=k), width=bench.width, epochs=bench.epochs, seed=seed) for k, seed in choices]


def share(bench: Bench, folder: Path, stored: bool) -> float:
    """Seconds together over seconds one by one."""
    seconds = []
    for name in ("together", "apart"):
        ctx = Context(folder / f"{name}-{stored}")
        cache = execute(Cache((Site.parse(bench.site),), model=bench.model, tokens=bench.tokens, stored=stored), ctx)
        assert cache is not None, "a stage without --plan ends in a run"
        started = time.perf_counter()
        trainings = members(cache.id, bench)
        for group in [trainings] if name == "together" else [[one] for one in trainings]:
            execute_all(group, ctx)
        seconds.append(time.perf_counter() - started)
    return round(seconds[0] / seconds[1], 3)


def main(bench: Bench) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return {"streamed": share(bench, Path(folder), stored=False), "stored": share(bench, Path(folder), stored=True)}


if __name__ == "__main__":
    bench = tyro.cli(Bench, description=__doc__)
    figures = main(bench)
    print(json.dumps({**dataclasses.asdict(bench), **figures}) if bench.json else figures)
