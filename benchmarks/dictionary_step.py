"""Speed of a TopK training step beside the product that no step can do without.

    python benchmarks/dictionary_step.py --d-dict 4608 --batch 4096 --json

`encode_floor` is the rate of the encoder's matrix product alone, in the same precision and written into memory that is there already. Steps
and products alternate; the rates are those of the fastest, `ratio` is the median over the pairs, so that other programs disturb it little.
`--dead N` keeps N latents from firing, which switches the auxiliary loss on.
"""

import dataclasses
import json
import statistics
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
    x = torch.randn(bench.batch, bench.d, generator=torch.Generator().manual_seed(0))
    step, encode = training_step(x, bench), encoder_product(x, bench)
    for warm in (step, step, encode):
        warm()
    pairs = [(seconds(encode), seconds(step)) for _ in range(bench.steps)]
    floor, whole = (min(times) for times in zip(*pairs, strict=True))
    return {
        "tokens_per_s": round(bench.batch / whole),
        "encode_floor": round(bench.batch / floor),
        "ratio": round(statistics.median(one / other for one, other in pairs), 3),
        "step_ms": round(whole * 1000, 1),
        "encode_ms": round(floor * 1000, 1),
    }


def encoder_product(x: torch.Tensor, bench: Bench) -> Callable[[], object]:
    kind = torch.bfloat16 if bench.precision == "bfloat16" else torch.float32
    weight, h = torch.randn(bench.d, bench.d_dict).to(kind), x.to(kind)
    out = torch.empty(bench.batch, bench.d_dict, dtype=kind)
    return lambda: torch.mm(h, weight, out=out)


def training_step(x: torch.Tensor, bench: Bench) -> Callable[[], object]:
    architecture = TopK(k=bench.k)
    dictionary = architecture.build(bench.d, bench.d, bench.d_dict)
    with torch.no_grad():
        dictionary.b_enc[: bench.dead] = -1e4
    cfg = FitConfig(bench.steps + 2, bench.batch, precision=bench.precision, log_every=1, dead_after=bench.batch if bench.dead else None)
    rows = fit(dictionary, ((x, x) for _ in range(cfg.steps)), architecture.loss, cfg)
    return lambda: next(rows)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    bench = tyro.cli(Bench, description=__doc__)
    figures = main(bench)
    print(json.dumps({**dataclasses.asdict(bench), **figures}) if bench.json else figures)
