"""Generation under edits, with cached keys and values, and the loss of the unedited model on what was generated."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks import Edit, patched
from interp.models.bridge import Model
from interp.sites import Site

# Rows whose logits over all positions are held at once.
SCORED = 8


@torch.no_grad()
def generate(
    model: Model,
    prompt: Sequence[int],
    seeds: Sequence[int],
    length: int,
    edits: Mapping[Site, Edit] | None = None,
    temperature: float = 1.0,
) -> Int[Tensor, "row length"]:
    """`length` tokens after the prompt, one row a seed, with the sites edited at every position but the first.

    The first position is left alone because most models use it as a sink with a norm of its own. A token is the inverse of the cumulative
    distribution at a uniform number that seed and position give: a row does not depend on the others, and arms with the same seeds are
    paired. At temperature 0 the likeliest token is taken. The end-of-sequence token is never drawn, so that all rows have one length.
    """
    assert prompt, "a generation needs a prompt of one token at least"
    rows = torch.tensor([list(prompt)] * len(seeds), device=model.device)
    uniform = torch.from_numpy(np.stack([np.random.default_rng(seed).random(length) for seed in seeds])).to(model.device)
    logits, past = model.step(rows[:, :1])
    found: list[Tensor] = []
    with patched(model, edits or {}):
        if rows.shape[1] > 1:
            logits, past = model.step(rows[:, 1:], past)
        for draw in uniform.unbind(1):
            found.append(_drawn(_without_end(model, logits[:, -1]), draw, temperature))
            if len(found) < length:
                logits, past = model.step(found[-1][:, None], past)
    return torch.stack(found, 1)


@torch.no_grad()
def losses(model: Model, prompt: Sequence[int], rows: Int[Tensor, "row length"]) -> Float[Tensor, "row length"]:
    """Cross-entropy in nats of each generated token under the model as it is, given the prompt and what came before: fluency."""
    parts = []
    for part in rows.split(SCORED):
        before = torch.tensor([list(prompt)] * len(part), device=part.device)
        logits = model(torch.cat([before, part], 1))[:, len(prompt) - 1 : -1].float()
        parts.append(-logits.log_softmax(-1).gather(-1, part[..., None].to(logits.device))[..., 0])
    return torch.cat(parts)


def _without_end(model: Model, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
    end = model.tokenizer.eos_token_id
    return logits if end is None else logits.index_fill(1, torch.tensor([end], device=logits.device), -torch.inf)


def _drawn(logits: Float[Tensor, "row vocab"], uniform: Float[Tensor, " row"], temperature: float) -> Int[Tensor, " row"]:
    if temperature == 0:
        return logits.argmax(1)
    # float64: over 50,000 words float32 sums lose the last ones.
    cumulative = (logits.double() / temperature).softmax(1).cumsum(1)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp(max=logits.shape[1] - 1)
