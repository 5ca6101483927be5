"""Arms of a steering experiment: what each pushes, and how often and how fluently its generations are on the topic.

none                    no steering
one, all                the topic's best code in one slot, its best codes in all slots
random_one, random_all  the same with codes of equal use
sae_one, sae_all        the topic's best latents of another dictionary, at each position as far as `one` or `all` goes there
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.evals.bootstrap import Estimate, estimate
from interp.steering.pushes import Push, add, equal_norm, force
from interp.steering.topics import Use
from saes.architectures import CodebookDictionary, Module

Arm = Literal["none", "one", "all", "random_one", "random_all", "sae_one", "sae_all"]
Mode = Literal["auto", "force", "add"]


@dataclass(frozen=True, eq=False)
class Source:
    """A dictionary, how its latents are used, and the latents of a topic, best first."""

    dictionary: Module
    use: Use
    latents: tuple[int, ...]

    def alike(self, seed: int) -> "Source":
        """The same with latents of equal use."""
        return Source(self.dictionary, self.use, tuple(self.use.alike(self.latents, seed)))

    def chosen(self, arm: Arm) -> tuple[int, ...]:
        """The latents that an arm takes."""
        return self.latents[:1] if arm.endswith("one") else self.latents

    def push(self, arm: Arm, mode: Mode, strength: float) -> Push:
        """Force them into one slot or all, or add what they write; auto forces codes and adds the directions of other latents."""
        latents, slots = self.chosen(arm), "one" if arm.endswith("one") else "all"
        levels = torch.from_numpy(self.use.level).to(next(self.dictionary.parameters()))
        if mode == "add" or (mode == "auto" and not isinstance(self.dictionary, CodebookDictionary)):
            return add(self.dictionary, latents, levels, strength)
        return force(self.dictionary, latents, slots, levels, strength)


def push(arm: Arm, own: Source, sae: Source | None, mode: Mode, strength: float, seed: int) -> tuple[Push, tuple[int, ...]] | None:
    """What an arm adds to an activation, and which latents it takes; None for the arm without steering."""
    if arm == "none":
        return None
    if arm.startswith("random"):
        other = own.alike(seed)
        return other.push(arm, mode, strength), other.chosen(arm)
    if arm.startswith("sae"):
        assert sae is not None, f"the arm {arm} needs a second dictionary"
        latents = sae.chosen(arm)
        return equal_norm(sae.dictionary, latents, own.push(arm, mode, strength)), latents
    return own.push(arm, mode, strength), own.chosen(arm)


def arms(second: bool) -> tuple[Arm, ...]:
    """All arms; those of the second dictionary only where there is one."""
    return ("none", "one", "all", "random_one", "random_all", *(("sae_one", "sae_all") if second else ()))


def distinct(row: Int[np.ndarray, " length"]) -> float:
    """Share of pairs of neighbouring tokens that are different pairs: low where text repeats itself, which a model's loss rewards."""
    return len({*zip(row[:-1].tolist(), row[1:].tolist(), strict=True)}) / max(1, len(row) - 1)


def figures(
    on_topic: Sequence[bool], losses: Float[np.ndarray, "row length"], repetition: Sequence[float], n_resamples: int = 1000
) -> Mapping[str, Estimate]:
    """Topic rate, loss a token and distinct share of an arm, with bootstrap intervals over generations."""
    n = np.ones(len(on_topic))
    columns = {"rate": np.asarray(on_topic, float), "loss": losses.mean(1), "distinct": np.asarray(repetition, float)}
    return {name: estimate({"x": column, "n": n}, lambda s: s["x"] / s["n"], n_resamples) for name, column in columns.items()}
