"""Loss and accuracy of next-token prediction, with an interval over sequences.

What a bottleneck costs is the difference of two of these.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.evals.bootstrap import Estimate, estimate
from interp.models import Model

# Logits of one forward pass, in numbers: 256 MB in float32, with as much again for their logarithms.
_LOGITS = 1 << 26


@dataclass(frozen=True, eq=False)
class NextToken:
    """Sums per sequence over its predictions."""

    nll: Float[np.ndarray, " seq"]
    right: Float[np.ndarray, " seq"]
    """Predictions whose most likely token is the true one."""
    n: Float[np.ndarray, " seq"]

    def table(self) -> dict[str, Estimate]:
        """`loss` in nats a token, and `accuracy`."""
        sums = {"nll": self.nll, "right": self.right, "n": self.n}
        return {"loss": estimate(sums, lambda s: s["nll"] / s["n"]), "accuracy": estimate(sums, lambda s: s["right"] / s["n"])}


@torch.no_grad()
def next_token(model: Model, tokens: Int[Tensor, "seq pos"]) -> NextToken:
    """Predict every token but the first of each sequence."""
    batch = max(1, _LOGITS // (tokens.shape[1] * model.d_vocab))
    nll, right = [], []
    for part in tokens.long().split(batch):
        logits, wanted = model(part)[:, :-1].float(), part[:, 1:].to(model.device)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
        nll.append(losses.double().sum(1).cpu())
        right.append((logits.argmax(-1) == wanted).double().sum(1).cpu())
    return NextToken(torch.cat(nll).numpy(), torch.cat(right).numpy(), np.full(len(tokens), tokens.shape[1] - 1.0))
