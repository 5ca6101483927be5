"""Speed of a TopK training step beside the product that no step can do without.

    python benchmarks/dictionary_step.py --d-dict 4608 --batch 4096 --json

`encode_floor` is the rate of the encoder's matrix product alone, in the same precision; `ratio` is the rate of the whole step (encode,
select, decode, gradients, clipping, Adam) over it. Both come from one run on random data. `dead` latents, if any, switch the auxiliary loss
on.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Literal

import torch
import tyro

from saes.architectures.topk import TopK
from saes.schedule import FitConfig
from saes.train import fit


@dataclasses.dataclass(frozen=True)
class Bench:
    """What to time."""

    d: int = 576
    d_dict: int = 4608
    k: int = 32
    batch: int = 4096
    steps: int = 12
    dead: int = 0
    """Latents that cannot fire."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    threads: int = 1
    json: bool = False
    """Print one JSON object."""


def main(bench: Bench) -> dict[str, float]:
    torch.set_num_threads(bench.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(bench.batch, bench.d, generator=generator)
    floor = encode_floor(x, bench)
    step = training_step(x, bench)
    return {
        "tokens_per_s": round(bench.batch / step),
        "encode_floor": round(bench.batch / floor),
        "ratio": round(floor / step, 3),
        "step_ms": round(step * 1000, 1),
        "encode_ms": round(floor * 1000, 1),
    }


def encode_floor(x: torch.Tensor, bench: Bench) -> float:
    kind = torch.bfloat16 if bench.precision == "bfloat16" else torch.float32
    weight, h = torch.randn(bench.d, bench.d_dict).to(kind), x.to(kind)
    out = torch.empty(bench.batch, bench.d_dict, dtype=kind)
    return fastest(lambda: torch.mm(h, weight, out=out), bench.steps)


def training_step(x: torch.Tensor, bench: Bench) -> float:
    architecture = TopK(k=bench.k)
    dictionary = architecture.build(bench.d, bench.d, bench.d_dict)
    with torch.no_grad():
        dictionary.b_enc[: bench.dead] = -1e4
    cfg = FitConfig(bench.steps + 3, bench.batch, precision=bench.precision, log_every=1, dead_after=bench.batch if bench.dead else None)
    rows = fit(dictionary, ((x, x) for _ in range(cfg.steps)), architecture.loss, cfg)
    next(rows), next(rows)
    return fastest(lambda: next(rows), bench.steps)


def fastest(work: Callable[[], object], n: int) -> float:
    """Seconds of the fastest of n runs, which other programs disturbed least."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    bench = tyro.cli(Bench, description=__doc__)
    figures = main(bench)
    print(json.dumps({**dataclasses.asdict(bench), **figures}) if bench.json else figures)
