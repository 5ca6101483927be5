"""Steering SmolLM2 by the codes of a codebook and the latents of an SAE: topic rate and fluency of every arm.

    python benchmarks/steering.py --json            # 6 topics, 40 generations an arm
    python benchmarks/steering.py --json --quick    # a small cache, 8 generations an arm

Caches `docs` text, trains a codebook and a TopK SAE of matched bits on one site, and runs `interp steer` on them; what is there already is
found again. Bits a token: k log2(C) for codes, k (log2(d_dict) + 8) for latents with values of 8 bits.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import tyro

from interp.runs import Run, read_json
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.steer import Steer
from interp.stages.train import Train
from saes.architectures import Codebook, TopK

TOPICS = ("graphs", "tables", "algebra", "statistics", "distributed", "apps")


@dataclass(frozen=True)
class Bench:
    """What is trained and generated."""

    site: str = "14.resid_post"
    """Where codes and latents are."""
    tokens: int = 400_000
    """Tokens of the cache."""
    codes: int = 8192
    """Codes of the codebook."""
    slots: int = 16
    """Codes of a token."""
    latents: int = 4608
    """Latents of the SAE."""
    generations: int = 40
    """Generations of an arm."""
    strength: float = 1.0
    """Multiple of a latent's level."""
    seed: int = 0
    """Seed of weights and generations."""
    quick: bool = False
    """The small form."""
    json: bool = False
    """Print one JSON object on the last line."""
    root: Path = Path("data/runs")
    """Folder of the run folders."""


def made(stage: object, ctx: Context) -> Run:
    """The run of a stage."""
    run = execute(stage, ctx)  # pyright: ignore[reportArgumentType]
    assert run is not None
    return run


def bench(given: Bench) -> dict[str, object]:
    """Make the runs, and the figures of the steering run."""
    ctx, small = Context(given.root), given.quick
    n, codes, latents, epochs = (40_960, 1024, 2048, 3.0) if small else (given.tokens, given.codes, given.latents, 4.0)
    cache = made(Cache(sites=(Site.parse(given.site),), tokens=n), ctx)
    # The number of latents whose places and 8-bit values cost what the codes cost.
    bits = given.slots * math.log2(codes)
    k = max(1, round(bits / (math.log2(latents) + 8)))
    book = made(Train(cache.id, architecture=Codebook(k=given.slots), width=codes, epochs=epochs, seed=given.seed), ctx)
    sae = made(Train(cache.id, architecture=TopK(k=k), width=latents, epochs=epochs, seed=given.seed), ctx)
    chosen = TOPICS[:5] if small else TOPICS
    sizes = {"generations": 8, "length": 24, "texts": 60} if small else {"generations": given.generations}
    run = made(Steer(book.id, sae=sae.id, topics=chosen, strength=given.strength, seed=given.seed, **sizes), ctx)
    table = [
        {name: value for name, value in row.items() if name != "latents"} for row in pq.read_table(run.file("arms.parquet")).to_pylist()
    ]
    fvu = {name: read_json(one.file("summary.json"))["fvu"] for name, one in (("codebook", book), ("sae", sae))}
    head = {"run": run.id, "seeds": [given.seed + i for i in range(int(sizes["generations"]))], "bits": bits, "sae_k": k, "fvu": fvu}
    return head | {"arms": table, "probe": pq.read_table(run.file("probe.parquet")).to_pylist()} | read_json(run.file("summary.json"))


def show(found: dict[str, object]) -> None:
    """Topic by arm: rate and loss."""
    rows = found["arms"]
    assert isinstance(rows, list)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    print(f"{'topic':<14}" + "".join(f"{arm:>16}" for arm in arms))
    for topic in dict.fromkeys(row["topic"] for row in rows):
        cells = [f"{row['rate']:.0%} / {row['loss']:.2f}" for row in rows if row["topic"] == topic]
        print(f"{topic:<14}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    arguments = tyro.cli(Bench)
    result = bench(arguments)
    show(result)
    if arguments.json:
        print(json.dumps(result))
