"""What a model has learned of a finite state machine, measured by the machine itself (codebook features, arXiv 2310.17230, section 3).

State accuracy: the share of generated transitions that exist. Precision of detectors at equal recall: a code, neuron or latent detects
a state if it is active at the state's last digit and nowhere else. The causal test: the distance between what a forced model predicts
and what the machine would do in the state that was forced.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models import Model
from interp.text.machine import Machine

# Codes below this recall say nothing of a state: one that fires once is always right.
RECALL_FLOOR = 0.05


@torch.no_grad()
def state_accuracy(model: Model, machine: Machine, n: int, seed: int) -> float:
    """The share of existing transitions where both digits of a walk's last state are drawn from the model."""
    walks = machine.walks(n, seed)
    tokens, rng = machine.tokens(walks)[:, :-2], torch.Generator().manual_seed(seed + 1)
    for _ in range(2):
        chance = model(tokens)[:, -1, :10].float().softmax(-1).cpu()
        tokens = torch.cat([tokens, torch.multinomial(chance, 1, generator=rng)], 1)
    state = (tokens[:, -2] * 10 + tokens[:, -1]).clamp_max(machine.n_states - 1)
    exists = tokens[:, -2] * 10 + tokens[:, -1] < machine.n_states
    return float((machine.allowed[walks[:, -2], state] & exists).float().mean())


def state_of(machine: Machine, walks: Int[Tensor, "walk length"]) -> Int[Tensor, " position"]:
    """The state that ends at each position of the token matrix, flattened; -1 at BOS and at first digits."""
    ends = torch.full((len(walks), machine.n_tokens), -1)
    ends[:, 2::2] = walks
    return ends.flatten()


@dataclass(frozen=True)
class Detector:
    """What found a state best, on the tokens that it was not chosen on."""

    state: int
    unit: int
    precision: float
    recall: float


def best_codes(active: Bool[Tensor, "position unit"], states: Int[Tensor, " position"], n_states: int) -> list[Detector]:
    """For each state the code of highest precision among those with recall over the floor, chosen on the first half of the positions,
    measured on the second; states that no code finds have a detector of precision 0."""
    half = len(active) // 2
    first, second = (_table(active[part], states[part], n_states) for part in (slice(0, half), slice(half, None)))
    found = []
    for state in range(n_states):
        precision, recall = (column[state] for column in first)
        unit = int(torch.where(recall > RECALL_FLOOR, precision + 1e-6 * recall, -1).argmax())
        there = bool(recall[unit] > RECALL_FLOOR)
        found.append(Detector(state, unit, *(float(column[state, unit]) if there else 0.0 for column in second)))
    return found


def best_values(
    values: Float[Tensor, "position unit"], states: Int[Tensor, " position"], recalls: Float[Tensor, " state"]
) -> list[Detector]:
    """For each state the unit of highest precision when its threshold is set for the given recall: unit and threshold from the first half
    of the positions, precision and recall from the second. It gives neurons and latents the recall that codes have."""
    half = len(values) // 2
    found = []
    for state, recall in enumerate(recalls.tolist()):
        chosen = states[:half] == state
        keep = max(1, round(recall * int(chosen.sum())))
        if not chosen.any():
            found.append(Detector(state, 0, 0.0, 0.0))
            continue
        threshold = values[:half][chosen].topk(min(keep, int(chosen.sum())), dim=0).values[-1]
        above = (values[:half] >= threshold) & (values[:half] > values[:half].amin(0))
        precision = (above & chosen[:, None]).sum(0) / above.sum(0).clamp_min(1)
        unit = int(precision.argmax())
        hit, true = values[half:, unit] >= threshold[unit], states[half:] == state
        both = int((hit & true).sum())
        found.append(Detector(state, unit, both / max(1, int(hit.sum())), both / max(1, int(true.sum()))))
    return found


def _table(active: Tensor, states: Tensor, n_states: int) -> tuple[Float[Tensor, "state unit"], Float[Tensor, "state unit"]]:
    """Precision and recall of every unit for every state."""
    member = torch.nn.functional.one_hot(states.clamp_min(0), n_states).float() * (states >= 0)[:, None]
    both = member.t() @ active.float()
    return both / active.sum(0).clamp_min(1), both / member.sum(0).clamp_min(1)[:, None]


def divergence(p: Float[Tensor, "*batch n"], q: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence in nats: the mean of KL(p || m) and KL(q || m), m their mean."""
    m = (p + q) / 2
    both = torch.stack([p, q])
    return (torch.xlogy(both, both) - torch.xlogy(both, m)).sum(-1).mean(0)


@torch.no_grad()
def distance_to(logits: Callable[[], Float[Tensor, "seq vocab"]], target: Float[Tensor, "seq digit"]) -> float:
    """Mean divergence between the next digit that a model predicts and the machine's."""
    return float(divergence(logits()[:, :10].float().softmax(-1).cpu(), target).mean())
