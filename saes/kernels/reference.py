"""Slow literal twins of the kernels and of every architecture's loss, one sum at a time. They define what the fast ones must return.

The losses take weights by name, as `named_parameters` gives them, and return the dense code and each term with its coefficient; autograd
differentiates them. `x`, `y`, `dead` are a batch; `centred` tells an autoencoder (h = x - b_dec) from a transcoder (h = x); `aux` is
(coefficient, k_aux); `strength` is the coefficient lambda of a penalty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Weights = Mapping[str, Tensor]
Terms = dict[str, Tensor]


def select(scores: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    """Sort each row, keep the first k."""
    return torch.stack([torch.tensor(sorted(range(len(row)), key=lambda i: -float(row[i]))[:k]) for row in scores])


def pairs(starts: Int[Tensor, " bounds"]) -> list[tuple[int, int]]:
    """(pair, token), one by one."""
    return [(p, b) for b, (first, last) in enumerate(pairwise(starts.tolist())) for p in range(first, last)]


def decode(
    values: Float[Tensor, " n"], latents: Int[Tensor, " n"], starts: Int[Tensor, " bounds"], rows: Float[Tensor, "d_dict d"]
) -> Float[Tensor, "batch d"]:
    """`y_b = sum_p values_p rows[latents_p]`, p over the pairs of token b."""
    out = torch.zeros(len(starts) - 1, rows.shape[1], dtype=rows.dtype)
    for p, b in pairs(starts):
        out[b] += values[p] * rows[latents[p]]
    return out


def weight_gradient(
    values: Float[Tensor, " n"], latents: Int[Tensor, " n"], starts: Int[Tensor, " bounds"], rows: Float[Tensor, "batch d"], d_dict: int
) -> Float[Tensor, "d_dict d"]:
    """`dW[i] = sum_p values_p rows[token of p]`, p over the pairs of latent i."""
    out = torch.zeros(d_dict, rows.shape[1], dtype=rows.dtype)
    for p, b in pairs(starts):
        out[latents[p]] += values[p] * rows[b]
    return out


def code_gradient(
    grad: Float[Tensor, "batch d"], latents: Int[Tensor, " n"], starts: Int[Tensor, " bounds"], rows: Float[Tensor, "d_dict d"]
) -> Float[Tensor, " n"]:
    """`g_p = grad_b . rows[latents_p]`."""
    out = torch.zeros(len(latents), dtype=rows.dtype)
    for p, b in pairs(starts):
        out[p] = (grad[b] * rows[latents[p]]).sum()
    return out


def lengths(W_dec: Float[Tensor, "d_dict d_out"], parts: int = 1) -> Float[Tensor, " d_dict"]:
    """`n_i = sum_l |W_dec[i, l]|`, l over the sites that are written side by side."""
    return torch.stack([sum((part.norm() for part in row.chunk(parts)), row.new_zeros(())) for row in W_dec])


def k_largest(scores: Float[Tensor, "batch n"], k: int) -> Float[Tensor, "batch n"]:
    """1 at the k largest scores of each token."""
    return torch.zeros_like(scores).scatter(1, select(scores, k), 1.0)


def batch_largest(scores: Float[Tensor, "batch n"], k: int, most: int) -> Float[Tensor, "batch n"]:
    """1 at the k B largest scores of the batch, among the `most` k largest of each token."""
    left = [(b, i) for b, row in enumerate(select(scores, min(most * k, scores.shape[1])).tolist()) for i in row]
    mask = torch.zeros_like(scores)
    for b, i in sorted(left, key=lambda at: -float(scores[at]))[: k * len(scores)]:
        mask[b, i] = 1
    return mask


def pre_activations(w: Weights, x: Float[Tensor, "batch d_in"], centred: bool) -> Float[Tensor, "batch d_dict"]:
    """`pre = h W_enc + b_enc`."""
    return (x - w["b_dec"] if centred else x) @ w["W_enc"] + w["b_enc"]


def write(w: Weights, z: Float[Tensor, "batch d_dict"], x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"]:
    """`y_hat = z W_dec + b_dec (+ x W_skip^T)`."""
    y_hat = z @ w["W_dec"] + w["b_dec"]
    return y_hat + x @ w["W_skip"].T if "W_skip" in w else y_hat


def fvu(y: Float[Tensor, "batch d"], y_hat: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
    """`mean_b |y - y_hat|^2 / d`."""
    return torch.stack([(a - b).square().sum() for a, b in zip(y, y_hat, strict=True)]).mean() / y.shape[1]


def aux_k(
    pre: Float[Tensor, "batch d_dict"],
    residual: Float[Tensor, "batch d_out"],
    W_dec: Float[Tensor, "d_dict d_out"],
    dead: list[int],
    k_aux: int,
    parts: int = 1,
) -> Float[Tensor, ""]:
    """What the dead latents leave of the residual, over its variance (Gao et al. 2024, section 2.4), token by token."""
    error, n = residual.detach(), lengths(W_dec, parts).detach()
    variance = (error - error.mean(0)).square().sum(1).mean()
    if not dead or variance == 0:
        return pre.new_zeros(())
    total = torch.zeros((), dtype=pre.dtype)
    for b in range(len(pre)):
        ranked = sorted(dead, key=lambda i: -float(pre[b, i].detach() * n[i]))[:k_aux]
        guess = sum((torch.relu(pre[b, i]) * W_dec[i] for i in ranked), torch.zeros_like(error[b]))
        total = total + (error[b] - guess).square().sum() / len(pre)
    return min(len(dead) / k_aux, 1.0) * total / variance


@dataclass(frozen=True, eq=False)
class Given:
    """What every loss is a function of, beside the numbers of its architecture."""

    w: Weights
    x: Float[Tensor, "batch d_in"]
    y: Float[Tensor, "batch d_out"]
    dead: Bool[Tensor, " d_dict"]
    centred: bool
    aux: tuple[float, int]
    parts: int = 1

    @property
    def pre(self) -> Float[Tensor, "batch d_dict"]:
        return pre_activations(self.w, self.x, self.centred)

    @property
    def scores(self) -> Float[Tensor, "batch d_dict"]:
        return (self.pre * lengths(self.w["W_dec"], self.parts)).detach()

    def auxiliary(self, z: Float[Tensor, "batch d_dict"], y_hat: Float[Tensor, "batch d_out"]) -> Terms:
        """`coefficient * aux_k` among the dead that are silent in this batch too."""
        coefficient, k_aux = self.aux
        dead = [i for i in range(z.shape[1]) if self.dead[i] and not (z[:, i] > 0).any()]
        return {"aux": coefficient * aux_k(self.pre, self.y - y_hat, self.w["W_dec"], dead, k_aux, self.parts)}


def topk(given: Given, *, k: int, multi: float) -> tuple[Tensor, Terms]:
    """`L = fvu + multi * fvu of the 4 k largest + aux`."""
    z = torch.relu(given.pre) * k_largest(given.scores, k)
    y_hat = write(given.w, z, given.x)
    wide = torch.relu(given.pre) * k_largest(given.scores, min(4 * k, z.shape[1]))
    more = {"multi": multi * fvu(given.y, write(given.w, wide, given.x))} if multi else {}
    return z, {"fvu": fvu(given.y, y_hat), **given.auxiliary(z, y_hat), **more}


def batch_topk(given: Given, *, k: int, most: int = 4) -> tuple[Tensor, Terms]:
    """`L = fvu + aux`, z the k B largest of the batch; a crosscoder is the same with several parts."""
    z = torch.relu(given.pre) * batch_largest(given.scores, k, most)
    y_hat = write(given.w, z, given.x)
    return z, {"fvu": fvu(given.y, y_hat), **given.auxiliary(z, y_hat)}


def matryoshka(given: Given, *, k: int, ends: Sequence[int]) -> tuple[Tensor, Terms]:
    """`L = mean_j fvu(y, y_hat_j) + aux`, y_hat_j from the first m_j latents."""
    z = torch.relu(given.pre) * batch_largest(given.scores, k, 4)
    y_hats = [write(given.w, torch.cat([z[:, :end], torch.zeros_like(z[:, end:])], 1), given.x) for end in ends]
    return z, {"fvu": torch.stack([fvu(given.y, y_hat) for y_hat in y_hats]).mean(), **given.auxiliary(z, y_hats[-1])}


def power_sum(weight: Float[Tensor, "batch d_dict"], p: float = 1.0) -> Float[Tensor, ""]:
    """`mean_b sum_i weight_i^p`, i over those above 0."""
    on = [weight[b, i] ** p for b, i in (weight > 0).nonzero().tolist()]
    return torch.stack(on).sum() / len(weight) if on else weight.sum() * 0


def relu(given: Given, *, strength: float, p: float, unit: bool) -> tuple[Tensor, Terms]:
    """`L = fvu + lambda / d mean_b sum_i (z_i n_i)^p + aux`; unit: each latent writes with length 1 and counts z_i^p."""
    z, n = torch.relu(given.pre), lengths(given.w["W_dec"])
    y_hat = write(given.w, z / n if unit else z, given.x)
    penalty = strength / given.y.shape[1] * power_sum(z if unit else z * n, p)
    return z, {"fvu": fvu(given.y, y_hat), **given.auxiliary(z, y_hat), "penalty": penalty}


def discrete(given: Given, *, strength: float) -> tuple[Tensor, Terms]:
    """`L = fvu + lambda mean_b sum_i z_i + aux`, directions of length 1; the last latent stands for none and never counts as dead."""
    z = torch.relu(given.pre)
    y_hat = write(given.w, z / lengths(given.w["W_dec"]), given.x)
    living = given.dead.clone()
    living[-1] = False
    aux = Given(given.w, given.x, given.y, living, given.centred, given.aux).auxiliary(z, y_hat)
    return z, {"fvu": fvu(given.y, y_hat), **aux, "penalty": strength * power_sum(z)}


def gated(given: Given, *, strength: float) -> tuple[Tensor, Terms]:
    """`L = fvu + lambda / d mean_b sum_i relu(p_i) n_i + fvu of (relu(p) W_dec + b_dec) frozen + aux`."""
    w = given.w
    u = (given.x - w["b_dec"] if given.centred else given.x) @ w["W_enc"]
    gate = u + w["b_enc"]
    z = (gate > 0) * torch.relu(u * torch.exp(w["r_mag"]) + w["b_mag"])
    y_hat = write(w, z, given.x)
    frozen = {name: w[name].detach() for name in ("W_dec", "b_dec", "W_skip") if name in w}
    penalty = strength / given.y.shape[1] * power_sum(torch.relu(gate) * lengths(w["W_dec"]))
    also = fvu(given.y, write(frozen, torch.relu(gate), given.x.detach()))
    return z, {"fvu": fvu(given.y, y_hat), **given.auxiliary(z, y_hat), "penalty": penalty, "gate": also}


def pseudo(value: Tensor, slope: Tensor, theta: Tensor) -> Tensor:
    """`value`, whose derivative in theta is said to be `slope`."""
    return value + slope.detach() * (theta - theta.detach())


def jump(pre: Float[Tensor, "batch d_dict"], theta: Float[Tensor, " d_dict"], eps: float) -> tuple[Tensor, Tensor]:
    """z and H(pre - theta), with the pseudo-derivatives of arXiv 2407.14435 and K(u) = 1 for |u| < 1/2:

    dz/dpre = H    dz/dtheta = -(theta / eps) K((pre - theta) / eps)    dH/dpre = 0    dH/dtheta = -(1 / eps) K((pre - theta) / eps)
    """
    H = (pre > theta).to(pre.dtype)
    K = (((pre - theta) / eps).abs() < 0.5).to(pre.dtype)
    return pseudo(pre * H, -theta / eps * K, theta), pseudo(H, -K / eps, theta)


def jumprelu(given: Given, *, k: int, eps: float, speed: float, sparsity: str, strength: float) -> tuple[Tensor, Terms]:
    """`L = fvu + strength (mean_b L0_b / k - 1)^2 + aux`, or the term `strength / d mean_b sum_i tanh(4 z_i n_i)`; theta = speed |t|."""
    z, on = jump(given.pre, speed * given.w["threshold"].abs(), eps)
    y_hat = write(given.w, z, given.x)
    if sparsity == "target":
        term = strength * (on.sum(1).mean() / k - 1).square()
    else:
        term = strength / given.y.shape[1] * torch.tanh(4 * z * lengths(given.w["W_dec"])).sum(1).mean()
    return z, {"fvu": fvu(given.y, y_hat), **given.auxiliary(z, y_hat), "sparsity": term}


def codebook(given: Given, *, k: int, metric: str, combine: str, coefficient: float, drawn: Int[Tensor, " d_dict"]) -> tuple[Tensor, Terms]:
    """`L = fvu + coefficient mean over dead codes of |C_i - h_r|^2 / d`, r the drawn row of each code; book by book, token by token."""
    C, b_dec = given.w["codebook"], given.w["b_dec"]
    (books, codes, width), batch = C.shape, len(given.x)
    h = (given.x - b_dec).detach().view(batch, books, width)
    z, y_hat = torch.zeros(batch, books, codes, dtype=C.dtype), []
    for b in range(batch):
        chunks = []
        for g in range(books):
            dots, norm = C[g].detach() @ h[b, g], C[g].detach().norm(dim=1)
            best = select((dots / norm if metric == "cosine" else dots - norm**2 / 2)[None], k)[0]
            z[b, g, best] = 1 / k if combine == "mean" else 1.0
            chunks.append(C[g][best].mean(0) if combine == "mean" else C[g][best].sum(0))
        y_hat.append(torch.cat(chunks) + b_dec)
    z = z.flatten(1)
    dead = [i for i in range(books * codes) if given.dead[i] and not z[:, i].any()]
    pulls = [(C[i // codes, i % codes] - h[drawn[i], i // codes]).square().mean() for i in dead]
    pull = torch.stack(pulls).mean() if pulls else C.sum() * 0
    return z, {"fvu": fvu(given.y, torch.stack(y_hat)), "aux": coefficient * pull}


def cross_layer(given: Given, *, k: int, n_layers: int) -> tuple[Tensor, Terms]:
    """`y_hat^l = sum_{s <= l} (z^s W_dec^{s -> l} + b_dec^{s -> l})`, z the k L B largest `pre n` of all layers together."""
    d = given.x.shape[1] // n_layers
    layers = [{name.split(".")[2]: t for name, t in given.w.items() if name.startswith(f"layers.{s}.")} for s in range(n_layers)]
    pre = [pre_activations(w, x, centred=False) for w, x in zip(layers, given.x.split(d, 1), strict=True)]
    scores = [(p * lengths(w["W_dec"])).detach() for p, w in zip(pre, layers, strict=True)]
    # The cap of 4 k latents a token holds in each layer; among those left, all layers compete.
    left = [
        (b, s, i) for s, found in enumerate(scores) for b, row in enumerate(select(found, min(4 * k, found.shape[1])).tolist()) for i in row
    ]
    masks = [torch.zeros_like(p) for p in pre]
    for b, s, i in sorted(left, key=lambda at: -float(scores[at[1]][at[0], at[2]]))[: k * n_layers * len(given.x)]:
        masks[s][b, i] = 1
    z = [torch.relu(p) * mask for p, mask in zip(pre, masks, strict=True)]
    y_hats = []
    for t in range(n_layers):
        blocks = [slice((t - s) * d, (t - s + 1) * d) for s in range(t + 1)]
        written = [z[s] @ layers[s]["W_dec"][:, block] + layers[s]["b_dec"][block] for s, block in enumerate(blocks)]
        y_hats.append(torch.stack(written).sum(0))
    residual = torch.cat([y - y_hat for y, y_hat in zip(given.y.split(d, 1), y_hats, strict=True)], 1)
    coefficient, k_aux = given.aux
    n, aux = z[0].shape[1], []
    for s in range(n_layers):
        dead = [i for i in range(n) if given.dead[s * n + i] and not (z[s][:, i] > 0).any()]
        aux.append(aux_k(pre[s], residual[:, s * d :], layers[s]["W_dec"], dead, k_aux))
    error = torch.stack([fvu(y, y_hat) for y, y_hat in zip(given.y.split(d, 1), y_hats, strict=True)]).mean()
    return torch.cat(z, 1), {"fvu": error, "aux": coefficient * torch.stack(aux).mean()}


def hold(
    control: tuple[float, float], l0: float, k: int, *, gain: float, memory: float, ahead: float, limit: float = math.inf
) -> tuple[float, float]:
    """One move of a held coefficient: (its logarithm, running mean of log(L0 / k)) after a batch with this L0."""
    strength, mean = control
    moved = (math.log((l0 + 1e-3) / k) - mean) / memory
    mean += moved
    return min(strength + gain * min(1.0, max(-1.0, mean + ahead * moved)), math.log(limit)), mean
