"""What a training of some length and width takes by default: learning rate and its course, when a latent counts as dead."""

from dataclasses import dataclass
from typing import Literal

from saes.errors import InputError

# SmolLM2's residual stream, TopK, 4,608 latents, batches of 2,048, held-out fvu and silent latents: after 293 steps .134 and 0.07 %
# at 1.5e-3; after 1,172 .113 and 1 % at 1.3e-3, .115 and 0.07 % at 8e-4. Long runs take 2e-4 to 4e-4 in the literature.
FASTEST, SHORT, SLOWEST = 1.5e-3, 600, 0.2


@dataclass(frozen=True)
class FitConfig:
    """How to train: the optimiser (Adam), its schedule, and how often to report."""

    steps: int
    """Optimiser steps."""
    batch_size: int = 4096
    """Tokens in a batch."""
    lr: float | None = None
    """Peak learning rate. None takes 1.5e-3 / sqrt(d_dict / 16384) up to 600 steps, then less: a fifth of it from 15,000 steps on."""
    warmup: int | None = None
    """Steps of linear warm-up. None takes 1000, at most a tenth of the steps."""
    decay: float = 0.2
    """Share of the steps at the end over which the learning rate falls linearly to 0."""
    clip: float = 1.0
    """Largest norm of the gradient of all weights together."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's averaging of gradient and squared gradient. The usual 0.999 looks back further than a short run is long."""
    eps: float = 1e-8
    """Adam's epsilon."""
    dead_after: int | None = None
    """Tokens without firing after which a latent counts as dead. None takes 10 M, or 1 % of a shorter run, but at least 8 batches."""
    revive_every: int = 0
    """Steps between two revivals of dead latents, by losses that offer one; 0 revives none."""
    revive_until: float = 0.8
    """Share of the steps after which no latent is revived: the last ones to come need time to settle."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the dense products. Weights, moments and sums are float32 either way."""
    log_every: int = 50
    """Steps between two rows of metrics."""
    seed: int = 0
    """Seed of the generator that a loss may draw from."""

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "batch_size": self.batch_size, "log_every": self.log_every}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"{name}={count} is too small; it must be at least 1")
        if not 0 <= self.decay <= 1:
            raise InputError(f"decay={self.decay} is no share; choose a number between 0 and 1")
        if self.lr is not None and not self.lr > 0:
            raise InputError(f"lr={self.lr} trains nothing; choose a positive number, such as 3e-4")

    def peak_lr(self, d_dict: int) -> float:
        """The learning rate between warm-up and decay."""
        if self.lr is not None:
            return self.lr
        return FASTEST * min(1.0, max(SLOWEST, (SHORT / self.steps) ** 0.5)) / (d_dict / 2**14) ** 0.5

    def lr_at(self, step: int, d_dict: int) -> float:
        """The learning rate of the step that follows `step` steps: up over the warm-up, level, down to 0 over the decay."""
        warmup = min(1000, self.steps // 10) if self.warmup is None else self.warmup
        rise = (step + 1) / warmup if warmup else 1.0
        fall = (self.steps - step) / (self.decay * self.steps) if self.decay else 1.0
        return self.peak_lr(d_dict) * min(1.0, rise, fall)

    def revives(self, step: int) -> bool:
        """Whether dead latents are revived after so many steps."""
        return bool(self.revive_every) and step % self.revive_every == 0 and step <= self.revive_until * self.steps

    def dead_tokens(self) -> int:
        """Tokens of silence after which a latent counts as dead."""
        if self.dead_after is not None:
            return self.dead_after
        return max(min(10_000_000, self.steps * self.batch_size // 100), 8 * self.batch_size)


def clip_of(recipe: object) -> float:
    """The largest gradient norm that an architecture trains best with: its class variable CLIP, else the default."""
    return getattr(recipe, "CLIP", FitConfig.clip)
