"""What is known of a trained model's edges: its answers when each edge alone, and all that are no part of the circuit, are resampled.

A circuit is certified when the model answers as the program with every other edge resampled, one by one and all together, and when every
edge of it is needed: resampled alone, it costs accuracy. Beside accuracy, which saturates, stands how far the *margin* moves, the logit of
the answer minus the largest other logit, so that a certificate also says how far the circuit stands out of what is left of the rest.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.trained.network import Network
from interp.models.trained.programs import Program
from saes.errors import InputError

# Rows of [source, pos, d_model] run at once.
ROWS = 1024
SEED = 20_000_000
"""Far from the seeds that training draws its prompts with."""


@dataclass(frozen=True)
class Limits:
    """What a certificate must show."""

    accuracy: float = 0.99
    """Least accuracy of the whole model, and with other edges resampled, one by one and together."""
    damage: float = 0.1
    """Least accuracy lost by resampling an edge of the circuit alone."""


@dataclass(frozen=True)
class Certificate:
    """Measured on `n` prompts, each resampled from another one. Edges are written `0.1->m1`."""

    program: str
    revision: str
    """Hash of the weights that were measured."""
    n: int
    seed: int
    limits: Limits
    whole: float
    """Accuracy of the whole model."""
    joint: float
    """Accuracy with all edges outside the circuit resampled."""
    outside: dict[str, float]
    """Accuracy with each edge outside the circuit resampled alone."""
    damage: dict[str, float]
    """Accuracy lost when each edge of the circuit is resampled alone."""
    joint_shift: float
    """Mean |change of the margin| with all edges outside the circuit resampled."""
    shift: dict[str, float]
    """Mean |change of the margin| when each edge is resampled alone."""

    @property
    def separation(self) -> float:
        """The least shift of an edge of the circuit over the largest of another edge: above 1, the margin too tells them apart."""
        return min(self.shift[name] for name in self.damage) / max(self.shift[name] for name in self.outside)

    def failures(self) -> list[str]:
        """What falls short, in words; nothing for a circuit that is certified."""
        least, found = self.limits, []
        worst, weakest = min(self.outside, key=self.outside.__getitem__), min(self.damage, key=self.damage.__getitem__)
        if self.whole < least.accuracy:
            found.append(f"accuracy {self.whole:.3f}")
        if self.joint < least.accuracy:
            found.append(f"accuracy {self.joint:.3f} with all other edges resampled")
        if self.outside[worst] < least.accuracy:
            found.append(f"accuracy {self.outside[worst]:.3f} with {worst} resampled, which is no part of the circuit")
        if self.damage[weakest] < least.damage:
            found.append(f"accuracy falls by {self.damage[weakest]:.3f} with {weakest} resampled, which is part of the circuit")
        return found

    def require(self) -> None:
        """Raises InputError unless the circuit is certified."""
        if failures := self.failures():
            raise InputError(
                f"the circuit of trained/{self.program} is not certified: {'; '.join(failures)} (wanted: accuracy of at least "
                f"{self.limits.accuracy}, losses of at least {self.limits.damage}); train it longer, or with another seed"
            )


@torch.no_grad()
def certify(network: Network, program: Program, revision: str, n: int = 512, seed: int = SEED, limits: Limits | None = None) -> Certificate:
    """Measure every edge. Prompts of a pair have different answers only as often as the program's prompts do."""
    sizes, rng = network.sizes, torch.Generator().manual_seed(seed)
    tokens, other = program.draw(n, rng), program.draw(n, rng)
    answers, away = program.answers(tokens), network(other)[1]
    logits = network(tokens)[0]
    whole = _right(logits, answers)
    circuit, place = set(program.edges), [sizes.place(edge) for edge in sizes.edges]
    alone = torch.zeros(len(place), len(sizes.sources), len(sizes.destinations))
    for row, (source, destination) in zip(alone, place, strict=True):
        row[source, destination] = 1
    rest = torch.tensor([edge not in circuit for edge in sizes.edges])
    masks = torch.cat((alone[rest].sum(0, keepdim=True), alone))
    found = torch.cat([_logits(network, tokens, mask, away) for mask in masks.split(max(1, ROWS // n))])
    accuracies = [_right(one, answers) for one in found]
    shifts = (_margin(found, answers) - _margin(logits[None], answers)).abs().mean(1).tolist()
    names = ["->".join(edge) for edge in sizes.edges]
    accuracy, shift = dict(zip(names, accuracies[1:], strict=True)), dict(zip(names, shifts[1:], strict=True))
    inside = {"->".join(edge) for edge in circuit}
    return Certificate(
        program=program.name,
        revision=revision,
        n=n,
        seed=seed,
        limits=limits or Limits(),
        whole=whole,
        joint=accuracies[0],
        outside={name: value for name, value in accuracy.items() if name not in inside},
        damage={name: whole - value for name, value in accuracy.items() if name in inside},
        joint_shift=shifts[0],
        shift=shift,
    )


def _logits(
    network: Network, tokens: Int[Tensor, "input pos"], masks: Float[Tensor, "mask source destination"], away: Tensor
) -> Float[Tensor, "mask input vocab"]:
    n = len(masks)
    cut = masks.repeat_interleave(len(tokens), 0)
    return network(tokens.repeat(n, 1), cut, away.repeat(n, 1, 1, 1))[0].unflatten(0, (n, -1))


def _right(logits: Float[Tensor, "input vocab"], answers: Int[Tensor, " input"]) -> float:
    return float((logits.argmax(-1) == answers).double().mean())


def _margin(logits: Float[Tensor, "mask input vocab"], answers: Int[Tensor, " input"]) -> Float[Tensor, "mask input"]:
    index = answers.expand(len(logits), -1)[..., None]
    return (logits.gather(2, index) - logits.scatter(2, index, -torch.inf).amax(2, keepdim=True))[..., 0]
