"""What every head attends to, on repeated random tokens: BOS, `half` random tokens, the same tokens again.

Random tokens leave nothing to attend to but position and identity, so one set of sequences serves all five scores. With A[q, k] the
attention from query q to key k, and t the position of a random token, each score is a mean over queries:

    previous_token    A[t, t - 1]             all but the first random token (its previous one is BOS, a sink)
    duplicate_token   A[t, t - half]          second half: attention to the earlier copy of the same token (Wang et al. 2022)
    induction         A[t, t - half + 1]      second half: attention to the token after the earlier copy, the prefix matching
                                              score of Olsson et al. 2022
    bos               A[t, 0]                 attention to the first position, BOS where the model has one: the resting place of idle heads
    entropy           -sum_k A log A / log(t + 1)     0: one key, 1: uniform over all keys that a causal head may see

The scores say what a head does on this input, not what it is for: prose has other triggers, and effects on a task belong to
`interp.circuits`. A score is the mean over sequences, with a 95 % interval by Student's t over the per-sequence values, cut to [0, 1].
Its baseline is the same score of a uniform causal pattern, A[q, k] = 1 / (q + 1).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from interp.heads.reduce import reduced
from interp.models import Model
from interp.sites import Site

PATTERN_METRICS = ("previous_token", "duplicate_token", "induction", "bos", "entropy")


@dataclass(frozen=True, eq=False)
class Estimate:
    """One metric of every head: mean, 95 % interval, the number of things averaged, and what no mechanism would score."""

    value: Float[np.ndarray, "layer head"]
    low: Float[np.ndarray, "layer head"]
    high: Float[np.ndarray, "layer head"]
    n: int
    baseline: Float[np.ndarray, "layer head"]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The heads with the largest values, printed `layer.head`, largest first."""
        order = np.argsort(-self.value, axis=None, kind="stable")[:count]
        heads = self.value.shape[1]
        return [(f"{i // heads}.{i % heads}", float(self.value.flat[i])) for i in order]


def pattern_scores(pattern: Float[Tensor, "batch head pos pos"], half: int) -> Float[Tensor, "batch head metric"]:
    """The five scores of each sequence and head, in the order of PATTERN_METRICS."""
    pattern = pattern.float()
    first = pattern.shape[-1] - 2 * half  # position of the first random token: 1 after a BOS
    visible = torch.arange(2, pattern.shape[-1] + 1, device=pattern.device)
    scores = (
        _back(pattern, 1)[..., first:].mean(-1),
        _back(pattern, half)[..., first:].mean(-1),
        _back(pattern, half - 1)[..., first + 1 :].mean(-1),
        pattern[..., 1:, 0].mean(-1),
        (torch.special.entr(pattern[..., 1:, :]).sum(-1) / visible.log()).mean(-1),
    )
    return torch.stack(scores, dim=-1)


def _back(pattern: Float[Tensor, "batch head pos pos"], offset: int) -> Float[Tensor, "batch head key"]:
    """Attention from position key + offset to key."""
    return pattern.diagonal(-offset, dim1=-2, dim2=-1)


def uniform(length: int) -> Float[Tensor, "1 1 pos pos"]:
    """The causal pattern that attends to all it may see alike."""
    rows = torch.ones(length, length).tril()
    return (rows / rows.sum(-1, keepdim=True))[None, None]


def score_batches(
    model: Model, tokens: Int[Tensor, "n_seq pos"], half: int, batch: int
) -> Iterator[Float[Tensor, "batch layer head metric"]]:
    """The scores of each sequence, batch by batch: one pass through the model for all layers, no pattern kept."""
    sites = [Site(layer, "pattern") for layer in range(model.n_layers)]
    for part in tokens.split(batch):
        layers = reduced(model, sites, lambda pattern: pattern_scores(pattern, half).cpu(), lambda part=part: model(part))
        yield torch.stack(layers, dim=1)


def estimates(scores: Float[Tensor, "n_seq layer head metric"], half: int, length: int) -> dict[str, Estimate]:
    """Mean, interval and baseline of each metric. Needs two sequences at least."""
    n = scores.shape[0]
    values = scores.double().numpy()
    mean = values.mean(0)
    margin = stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    low, high = (mean - margin).clip(0, 1), (mean + margin).clip(0, 1)
    null = pattern_scores(uniform(length), half)[0, 0].double().numpy()
    shape = mean.shape[:2]
    return {name: Estimate(mean[..., i], low[..., i], high[..., i], n, np.full(shape, null[i])) for i, name in enumerate(PATTERN_METRICS)}


def score_table(metrics: Mapping[str, Estimate]) -> pa.Table:
    """Tidy: one row for each metric and head."""
    parts = []
    for name, estimate in metrics.items():
        layers, heads = np.indices(estimate.value.shape)
        columns = {"layer": pa.array(layers.ravel(), pa.int16()), "head": pa.array(heads.ravel(), pa.int16())}
        columns["metric"] = pa.array([name] * layers.size)
        columns |= {key: pa.array(getattr(estimate, key).ravel(), pa.float32()) for key in ("value", "low", "high")}
        columns |= {"n": pa.array([estimate.n] * layers.size, pa.int32()), "baseline": pa.array(estimate.baseline.ravel(), pa.float32())}
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)
