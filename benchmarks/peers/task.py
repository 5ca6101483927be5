"""What a worker is told before it starts: plain values, sent as one line of JSON."""

import dataclasses
import json
from collections.abc import Callable
from typing import Literal

from torch import Tensor

Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What training gives back: rows to their reconstruction and to the latents that are active on any of them."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One training."""

    trainer: str
    """Which `train_<trainer>.py`."""
    rows: str
    """A safetensors file: `speed` feeds its `train` rows as they lie, `quality` by its `order`."""
    d: int
    d_dict: int
    k: int
    batch: int
    steps: int
    """Steps that schedules are laid out for; `quality` takes as many."""
    threads: int
    setting: str = "float32"
    """How a library is asked to run fast, see `SETTINGS` in dictionaries.py."""
    recipe: Literal["defaults", "ours"] = "defaults"
    """Learning rate and schedule: the library's, or ours where it has an option for it."""
    lr: float = 0.0
    """Our learning rate."""
    dead: int = 0
    """Latents of ours that cannot fire, which switches our auxiliary loss on."""
    mode: Literal["speed", "quality"] = "speed"

    @property
    def warmup(self) -> int:
        """Our warm-up. A library's own of 1,000 steps is longer than a short run, so it gets ours there."""
        return min(1000, self.steps // 10)

    @property
    def decay(self) -> int:
        """Steps at the end over which our learning rate falls."""
        return self.steps // 5

    @property
    def dead_steps(self) -> int:
        """Steps without firing after which a latent of ours is dead."""
        return max(8, min(10_000_000 // self.batch, self.steps // 100))

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @staticmethod
    def parse(line: str) -> "Task":
        return Task(**json.loads(line))
