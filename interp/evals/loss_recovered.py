"""What splicing a dictionary into the model costs: cross-entropy clean, reconstructed, zero- and mean-ablated, CE recovered, KL.

CE recovered = (CE_ablated - CE_reconstructed) / (CE_ablated - CE_clean), with zero and with mean ablation as reference. Tokens that the
dictionary was not trained for (BOS, padding, outliers) keep their activation in every run, so that the runs differ by the others alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.evals.bootstrap import Estimate, estimate
from interp.hooks import patched, record
from interp.models import Model
from interp.sites import Site

Replace = Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d"]]
RUNS = ("clean", "recon", "zero", "mean")


@dataclass(frozen=True, eq=False)
class LossRecovered:
    """Sums per sequence of next-token cross-entropy (nats) of each run, of KL(clean || reconstructed), and of predictions."""

    ce: dict[str, Float[np.ndarray, " seq"]]
    kl: Float[np.ndarray, " seq"]
    predictions: Float[np.ndarray, " seq"]

    def table(self) -> dict[str, Estimate]:
        sums = {**self.ce, "kl": self.kl, "n": self.predictions}
        found = {f"ce_{run}": estimate(sums, lambda s, run=run: s[run] / s["n"]) for run in RUNS}
        for reference in ("zero", "mean"):
            found[f"ce_recovered_{reference}"] = estimate(sums, lambda s, r=reference: (s[r] - s["recon"]) / (s[r] - s["clean"]))
        return {**found, "kl": estimate(sums, lambda s: s["kl"] / s["n"])}


@torch.no_grad()
def loss_recovered(
    model: Model,
    site: Site,
    reconstruct: Replace,
    mean: Float[Tensor, " d"],
    batches: Iterable[tuple[Int[Tensor, "seq pos"], Bool[Tensor, "seq pos"]]],
) -> LossRecovered:
    """Run each batch of (tokens, which tokens are replaced) clean and with the three replacements, from the site's layer on."""
    ce: dict[str, list[Tensor]] = {run: [] for run in RUNS}
    kl, predictions = [], []
    replacements: dict[str, Replace] = {"recon": reconstruct, "zero": torch.zeros_like, "mean": lambda x: mean.to(x).expand_as(x)}
    start = Site(site.layer, "resid_pre")
    for tokens, keep in batches:
        tokens, keep = tokens.to(model.device), keep.to(model.device)
        resid = record(model, tokens, [start])[start]
        clean = model.forward_from(site.layer, resid)[:, :-1].float().log_softmax(-1)
        ce["clean"].append(_cross_entropy(clean, tokens))
        predictions.append(torch.full((len(tokens),), tokens.shape[1] - 1, dtype=torch.float64))
        for run, replace in replacements.items():
            with patched(model, {site: lambda x, keep=keep, f=replace: _replaced(x, keep, f)}):
                log_p = model.forward_from(site.layer, resid)[:, :-1].float().log_softmax(-1)
            ce[run].append(_cross_entropy(log_p, tokens))
            if run == "recon":
                kl.append((clean.exp() * (clean - log_p)).sum((1, 2)).double())
    return LossRecovered({run: _join(parts) for run, parts in ce.items()}, _join(kl), _join(predictions))


def _join(parts: list[Tensor]) -> Float[np.ndarray, " seq"]:
    return torch.cat(parts).cpu().numpy()


def _replaced(activation: Tensor, keep: Tensor, replace: Replace) -> Tensor:
    """The activation with the rows that count replaced; heads are joined for the replacement and split again."""
    rows = activation.flatten(2)
    out = rows.clone()
    out[keep] = replace(rows[keep].float()).to(rows.dtype)
    return out.view_as(activation)


def _cross_entropy(log_p: Tensor, tokens: Tensor) -> Tensor:
    return -log_p.gather(-1, tokens[:, 1:, None])[..., 0].sum(1).double()
