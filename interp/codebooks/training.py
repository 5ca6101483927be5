"""`fit` with a file to go on from: what every training inside a model runs through."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from interp.codebooks.bottleneck import Bottlenecked
from saes import checkpoint
from saes.schedule import FitConfig
from saes.train import Row, fit


def train(
    module: Bottlenecked,
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    cfg: FitConfig,
    path: Path,
    *,
    seconds: float = 30.0,
    seen: Callable[[Row], object] = lambda row: None,
) -> None:
    """Train the module in place, from the checkpoint at `path` where there is one, with batches from a step on.

    A checkpoint is written every so many seconds, at a row, and at the end: called again, a finished training only reads it.
    """
    resume = checkpoint.read(path) if path.exists() else None
    saved = time.monotonic()
    for row in fit(module, batches(resume.step if resume else 0), module.loss, cfg, resume=resume):
        if row.step == cfg.steps or time.monotonic() - saved > seconds:
            checkpoint.write(path, row.checkpoint())
            saved = time.monotonic()
        seen(row)
