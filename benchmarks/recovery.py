"""How many planted features each architecture finds in data where they are known.

    python benchmarks/recovery.py --json

Every architecture gets the sparsity that the data has, and the data that its form is for: sums of features, one centre at a time for the
codebook, two sites for the crosscoder, two layers for the cross-layer transcoder.
"""

import dataclasses
import json
import sys
import time

import torch
import tyro

from saes.architectures import ARCHITECTURES
from saes.dictionary import Recipe, StartsFromData
from saes.normalise import measure
from saes.schedule import FitConfig, clip_of
from saes.synthetic import Planted, recovery
from saes.train import fit


@dataclasses.dataclass(frozen=True)
class Bench:
    """What to train."""

    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    seeds: int = 3
    steps: int = 2000
    batch: int = 512
    lr: float = 3e-3
    threads: int = 1
    """Matrices this small gain nothing from a second thread."""
    json: bool = False
    """Print one JSON object."""


def planted(architecture: str, seed: int) -> Planted:
    """The data that an architecture is held to."""
    kinds = {"Codebook": "centres", "Crosscoder": "sites", "CrossLayer": "layers"}
    return Planted(kind=kinds.get(architecture, "features"), seed=seed)  # pyright: ignore[reportArgumentType]


def recipe(architecture: str) -> Recipe:
    """The architecture with the sparsity of the data. Prefixes smaller than the number of features would have to blend them."""
    options = {"Codebook": {"k": 1}, "Matryoshka": {"k": 4, "prefixes": 2}}.get(architecture, {"k": 4})
    return ARCHITECTURES[architecture](**options)


def trained(architecture: Recipe, data: Planted, bench: Bench) -> dict[str, float]:
    """Train, then compare directions with features and the reconstruction with fresh data."""
    started = time.perf_counter()
    sample = data.batch(16_384, 0)
    norm = measure(*(sample if data.kind == "layers" else (sample[0], sample[0])), parts=data.parts)
    x, y = norm.x(sample[0]), norm.y(sample[1])
    dictionary = architecture.build(
        x.shape[1], y.shape[1], 2 * data.n_features, seed=data.seed, transcoder=data.kind == "layers", parts=data.parts
    )
    if isinstance(architecture, StartsFromData):
        architecture.start(dictionary, x)
    batches = ((norm.x(a), norm.y(b)) for a, b in (data.batch(bench.batch, step) for step in range(1, bench.steps + 1)))
    cfg = FitConfig(bench.steps, bench.batch, lr=bench.lr, clip=clip_of(architecture), precision="float32", log_every=bench.steps)
    for _ in fit(dictionary, batches, architecture.loss, cfg):
        pass
    architecture.finish(dictionary, x)
    with torch.no_grad():
        code = dictionary.encode(x)
        error = (y - dictionary(x)).square().sum() / (y - y.mean(0)).square().sum()
        found = recovery(dictionary.directions() / norm.scale_y, data.writes())
    return {
        "found": found.found,
        "mcc": round(found.mcc, 4),
        "fvu": round(float(error), 4),
        "l0": round(float((code > 0).float().sum(1).mean()), 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main(bench: Bench) -> dict[str, list[dict[str, float]]]:
    torch.set_num_threads(bench.threads)
    results: dict[str, list[dict[str, float]]] = {}
    for name in bench.architectures:
        results[name] = [trained(recipe(name), planted(name, seed), bench) for seed in range(bench.seeds)]
        print(f"{name:<12}", *(f"{r['found']:.3f} (mcc {r['mcc']:.3f}, l0 {r['l0']})" for r in results[name]), file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    bench = tyro.cli(Bench, description=__doc__)
    figures = main(bench)
    print(json.dumps(figures) if bench.json else "", end="\n" if bench.json else "")
