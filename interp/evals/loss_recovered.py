"""What splicing a dictionary into the model costs: cross-entropy clean, reconstructed, zero- and mean-ablated, CE recovered, KL.

CE recovered = (CE_ablated - CE_reconstructed) / (CE_ablated - CE_clean), with zero and with mean ablation as reference. Tokens that the
dictionary was not trained for (BOS, padding, outliers) keep their activation in every run, so that the runs differ by the others alone.

A dictionary reads the clean activations of its sites, and what it makes of them replaces the activations where it writes. All dictionaries
share the clean run, and those that write to the same sites share the ablations.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.evals.bootstrap import Estimate, estimate
from interp.hooks import patched, record
from interp.models import Model
from interp.sites import Site

Replace = Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d_out"]]
Sites = tuple[Site, ...]
RUNS = ("clean", "recon", "zero", "mean")


@dataclass(frozen=True, eq=False)
class Spliced:
    """A function from the activations of some sites to those of others."""

    reads: Sites
    writes: Sites
    reconstruct: Replace


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
    dictionaries: Sequence[Spliced],
    means: Mapping[Site, Float[Tensor, " d"]],
    batches: Iterable[tuple[Int[Tensor, "seq pos"], Bool[Tensor, "seq pos"]]],
) -> list[LossRecovered]:
    """Run each batch of (tokens, which tokens are replaced) clean, ablated and with each dictionary, from the lowest layer concerned on."""
    parts = [_Parts({run: [] for run in RUNS}, [], []) for _ in dictionaries]
    layer = min(site.layer for d in dictionaries for site in d.reads + d.writes)
    for tokens, keep in batches:
        batch = _Pass(model, tokens.to(model.device), keep.to(model.device), layer)
        batch.run_clean({site for d in dictionaries for site in d.reads + d.writes})
        for part, dictionary in zip(parts, dictionaries, strict=True):
            part.add(batch, dictionary, means)
    return [LossRecovered({run: _join(found) for run, found in part.ce.items()}, _join(part.kl), _join(part.n)) for part in parts]


@dataclass(eq=False)
class _Pass:
    """One batch: its clean run, and the runs that dictionaries share."""

    model: Model
    tokens: Tensor
    keep: Tensor
    layer: int

    def run_clean(self, sites: set[Site]) -> None:
        """Logits and the activations of these sites."""
        start = Site(self.layer, "resid_pre")
        self.resid = record(self.model, self.tokens, [start])[start]
        self.rows: dict[Site, Tensor] = {}
        self._ablated: dict[tuple[Sites, str], Tensor] = {}

        def keep_rows(site: Site) -> Callable[[Tensor], None]:
            def hook(activation: Tensor) -> None:
                self.rows[site] = activation.flatten(2)[self.keep].float()

            return hook

        with self.model.hooked({site: keep_rows(site) for site in sites}):
            self.clean = self._log_p()

    def ablated(self, writes: Sites, kind: str, means: Mapping[Site, Tensor]) -> Tensor:
        """Cross-entropy with zeros or means where a dictionary would write."""
        if (writes, kind) not in self._ablated:
            rows = {
                s: torch.zeros_like(self.rows[s]) if kind == "zero" else means[s].to(self.rows[s]).expand_as(self.rows[s]) for s in writes
            }
            self._ablated[writes, kind] = _cross_entropy(self.replaced(rows), self.tokens)
        return self._ablated[writes, kind]

    def replaced(self, rows: Mapping[Site, Tensor]) -> Tensor:
        """Log-probabilities with the kept rows of these sites replaced."""
        with patched(self.model, {site: lambda x, new=new: _replaced(x, self.keep, new) for site, new in rows.items()}):
            return self._log_p()

    def _log_p(self) -> Tensor:
        return self.model.forward_from(self.layer, self.resid)[:, :-1].float().log_softmax(-1)


@dataclass(frozen=True, eq=False)
class _Parts:
    """What has been summed for a dictionary, batch by batch."""

    ce: dict[str, list[Tensor]]
    kl: list[Tensor]
    n: list[Tensor]

    def add(self, batch: _Pass, dictionary: Spliced, means: Mapping[Site, Tensor]) -> None:
        x = torch.cat([batch.rows[site] for site in dictionary.reads], 1)
        widths = [batch.rows[site].shape[1] for site in dictionary.writes]
        log_p = batch.replaced(dict(zip(dictionary.writes, dictionary.reconstruct(x).split(widths, 1), strict=True)))
        self.ce["clean"].append(_cross_entropy(batch.clean, batch.tokens))
        self.ce["recon"].append(_cross_entropy(log_p, batch.tokens))
        for kind in ("zero", "mean"):
            self.ce[kind].append(batch.ablated(dictionary.writes, kind, means))
        self.kl.append((batch.clean.exp() * (batch.clean - log_p)).sum((1, 2)).double())
        self.n.append(torch.full((len(batch.tokens),), batch.tokens.shape[1] - 1, dtype=torch.float64))


def _join(parts: list[Tensor]) -> Float[np.ndarray, " seq"]:
    return torch.cat(parts).cpu().numpy()


def _replaced(activation: Tensor, keep: Tensor, new: Tensor) -> Tensor:
    """The activation with the rows that count replaced; heads are joined for the replacement and split again."""
    out = activation.flatten(2).clone()
    out[keep] = new.to(out.dtype)
    return out.view_as(activation)


def _cross_entropy(log_p: Tensor, tokens: Tensor) -> Tensor:
    return -log_p.gather(-1, tokens[:, 1:, None])[..., 0].sum(1).double()
