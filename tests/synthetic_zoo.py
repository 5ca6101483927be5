"""Synthetic runs of many kinds of dictionaries: those that lack something, those that name it differently, and a grid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_runs import (
    NO_COSINE,
    NO_LOGITS,
    WIDTH,
    activations,
    token_matrix,
    train_config,
    vocabulary,
    write_cache,
    write_describe,
    write_evaluate,
    write_running,
    write_train,
)

from interp.runs import Run

MLP = {"site": "10.mlp_in", "write": "10.mlp_out"}
LAYERS = {"site": "10.mlp_in+11.mlp_in", "write": "10.mlp_out+11.mlp_out"}
KINDS: dict[str, tuple[dict[str, Any], frozenset[str]]] = {
    "transcoder": (train_config(32, **MLP), NO_COSINE),
    "skip": (train_config(32, **MLP, skip=True), NO_COSINE),
    "codebook": (train_config(8, "Codebook"), frozenset()),
    "discrete": (train_config(4, "Discrete"), frozenset()),
    "crosslayer": (train_config(16, "CrossLayer", **LAYERS), NO_COSINE),
    "crosscoder": (train_config(32, "Crosscoder", site="10.mlp_in+10.resid_post"), frozenset()),
    "no_logits": (train_config(32, site="10.mlp_in"), NO_LOGITS),
    "unknown": (train_config(None, "Perceptron"), frozenset()),
}
"""Name to config and what its describe run lacks."""
CONSTANT = {"codebook": 1 / 8, "discrete": 1.0}


@dataclass(frozen=True)
class Zoo:
    """Train and describe run of each kind, and a grid of six: two architectures, three k."""

    root: Path
    trains: dict[str, Run]
    describes: dict[str, Run]
    grid: tuple[Run, ...]
    running: tuple[Path, ...]
    acts: np.ndarray


def write_zoo(root: Path) -> Zoo:
    """Write all of them under `root`; the grid is evaluated, but for its last run, and the other kinds are not."""
    rng = np.random.default_rng(1)
    vocab = vocabulary(False)
    tokens = token_matrix(rng, vocab, False)
    acts = activations(rng, tokens, vocab)
    cache = write_cache(root, vocab, tokens)
    trains = {name: write_train(root, rng, cache, config, 60) for name, (config, _) in KINDS.items()}
    describes = {}
    for name, train in trains.items():
        mine = np.where(acts > 0, np.float32(CONSTANT[name]), np.float32(0)) if name in CONSTANT else acts
        describes[name] = write_describe(root, rng, train, mine, tokens, len(vocab), KINDS[name][1])
    configs = [train_config(k, kind, width=2 * WIDTH) for kind in ("TopK", "BatchTopK") for k in (8, 16, 32)]
    grid = tuple(write_train(root, rng, cache, config, 60) for config in configs)
    for train in grid[:-1]:
        write_evaluate(root, train)
    return Zoo(root, trains, describes, grid, tuple(write_running(root, rng, cache, k) for k in (64, 128)), acts)


if __name__ == "__main__":
    import sys

    print(write_zoo(Path(sys.argv[1])))
