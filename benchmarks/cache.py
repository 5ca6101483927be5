"""Caching against the bare model.

Tokens per second of `interp cache`, shards and checksums written, over those of a plain transformers forward pass.

    python benchmarks/cache.py --json        # {"ratio": ..., "ours": ..., "bare": ...}

Both run in one process on the same tokens, to the same layer, in the same dtype. They take turns, the order of each pair alternates, and
the ratio is the median over the pairs.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from interp import runs
from interp.models import DTYPES, load
from interp.models.packaged import Packaged
from interp.sites import Site
from interp.stages.base import Context
from interp.stages.cache import Cache, write_tokens


class Reached(Exception):
    """The layer has been computed."""


def bare(model: torch.nn.Module, tokens: torch.Tensor, layer: int, batch: int) -> float:
    """Seconds of the transformers model, stopped after the layer, its output kept by nobody."""

    def stop(*_: object) -> None:
        raise Reached

    handle = model.model.layers[layer].register_forward_hook(stop)
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(tokens), batch):
            try:
                model(tokens[first : first + batch], use_cache=False)
            except Reached:
                continue
    handle.remove()
    return time.perf_counter() - start


def ours(stage: Cache, tokens: torch.Tensor, root: Path) -> float:
    """Seconds from packed tokens to a sealed run: forward passes, shards, sha256, manifest."""
    ctx = Context(root)
    with runs.draft(root, "cache", {"once": time.time_ns()}, {}) as draft:
        write_tokens(draft.path, tokens, torch.zeros_like(tokens))
        start = time.perf_counter()
        stage.work(draft, ctx)
        draft.seal()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=9)
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    stage = Cache(sites=(Site(args.layer, "resid_post"),), dtype=args.dtype, tokens=args.sequences * 128)
    tokens = torch.randint(1000, 40_000, (args.sequences, 128), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(Packaged().folder(), dtype=DTYPES[args.dtype]).eval()
    load(stage.model, args.dtype)
    measure = {"bare": lambda root: bare(plain, tokens, args.layer, 16), "ours": lambda root: ours(stage, tokens, root)}
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as root:
        bare(plain, tokens[:16], args.layer, 16)
        for pair in range(args.pairs):
            for name in sorted(measure, reverse=pair % 2 == 1):
                seconds[name].append(measure[name](Path(root)))
    rates = {name: tokens.numel() / statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True))
    result = {"ratio": round(ratio, 3), **{name: round(rate) for name, rate in rates.items()}, "dtype": args.dtype, "layer": args.layer}
    print(json.dumps(result) if args.json else "\n".join(f"{key:8} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
