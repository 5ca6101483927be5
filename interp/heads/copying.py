"""Copying: does a head raise the logit of the token that it attends to? The copy score of Wang et al. 2022 (IOI, section 3.3).

For a token x alone after BOS, let e(x) be the residual stream after layer 0, the effective embedding (for heads of layer 0 the embedding).
Head h of layer l, attending fully to x, adds to the logits

    o(x) = norm_l(e(x)) W_V W_O W_U'        W_U' = the unembedding with gain and centring of the final norm folded in

and `copying` is the share of sampled tokens for which the logit of x itself is among the 5 largest of the whole vocabulary. The layer's own
norm is applied to e(x) exactly. The final norm's scale is one positive factor per row and its bias no work of the head, so neither enters.
Query heads that share a key-value head share W_V and differ in W_O. The interval is Wilson's, over tokens; the baseline is the same share
for the logit of another sampled token, which a head that always promotes the same tokens reaches as well.

Not used: the eigenvalue score sum(l) / sum|l| of W_E W_V W_O W_U (Elhage et al. 2021). With tied embeddings it says little: in
SmolLM2 it is 1.00 for heads 28.5 and 29.2, which copy none of 256 tokens, and negative for 23.0 and 23.2, which copy most.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.heads.reduce import reduced
from interp.heads.scores import Estimate
from interp.heads.tokens import first_token
from interp.hooks import record
from interp.models import Model
from interp.sites import Site

TOP = 5  # as in Wang et al. 2022
SIEVES = (256, 16)  # every 256th column of the unembedding, then every 16th: on SmolLM2 they leave 6.1 % of the rows, then 1.4 %
CHUNK = 256  # rows that meet the whole vocabulary at once: 50 MB at 49,152 tokens


def copy_hits(model: Model, tokens: Int[Tensor, " n"]) -> Iterator[Bool[Tensor, "2 head n"]]:
    """For each layer: which tokens each head copies, and (second row) for which it promotes the next sampled token instead.

    The tokens must be distinct.
    """
    tokens = tokens.to(model.device)
    unembedding = folded_unembedding(model)
    sieves = [unembedding[:, ::step].contiguous() for step in SIEVES]
    resid = embedded(model, tokens, "resid_pre")
    for layer in range(model.n_layers):
        rows = rearrange(writes(model, layer, resid), "n head d_model -> (head n) d_model")
        targets = (tokens.repeat(model.n_heads), tokens.roll(1).repeat(model.n_heads))
        hits = torch.stack([in_top(rows, target, unembedding, sieves, TOP) for target in targets])
        yield rearrange(hits, "kind (head n) -> kind head n", head=model.n_heads).cpu()
        resid = embedded(model, tokens, "resid_post") if layer == 0 else resid


def embedded(model: Model, tokens: Int[Tensor, " n"], stream: Literal["resid_pre", "resid_post"]) -> Float[Tensor, "n d_model"]:
    """The residual stream before or after layer 0 at a token that stands alone after BOS."""
    bos = first_token(model)
    columns = [tokens] if bos is None else [torch.full_like(tokens, bos), tokens]
    site = Site(0, stream)
    return record(model, torch.stack(columns, dim=1), [site])[site][:, -1]


def writes(model: Model, layer: int, resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "n head d_model"]:
    """What each head adds to the residual stream when it attends fully to a position that holds `resid`, without the bias of W_O.

    In a sequence of one token every head attends to that token alone, so the layer's own code gives the norm, W_V with its bias, and the
    sharing of key-value heads.
    """
    z = reduced(model, [Site(layer, "z")], lambda z: z[:, 0], lambda: model.forward_from(layer, resid[:, None]))[0]
    return torch.einsum("nhd,hdm->nhm", z.float(), model.w_o(layer).float())


def folded_unembedding(model: Model) -> Float[Tensor, "d_model vocab"]:
    """The linear part of final norm and unembedding, up to one positive factor.

    All basis vectors have one norm, so the model maps them by the folded matrix times a constant; the odd part drops the biases.
    """
    with torch.no_grad():
        basis = torch.eye(model.d_model, device=model.device, dtype=model.dtype)
        return (model.unembed(basis).float() - model.unembed(-basis).float()) / 2


def in_top(
    written: Float[Tensor, "row d_model"],
    targets: Int[Tensor, " row"],
    unembedding: Float[Tensor, "d_model vocab"],
    sieves: Sequence[Float[Tensor, "d_model _"]],
    k: int,
) -> Bool[Tensor, " row"]:
    """Whether the logit of each row's own target is among its k largest; ties count against it, so a head that writes nothing hits nothing.

    Sieves are some columns of the unembedding, coarsest first. Where more than k of them beat the target, k other tokens do (by rounding
    the target's own column may), so that row need not meet the whole vocabulary.
    """
    own = (written * unembedding[:, targets].T).sum(-1)
    rows = torch.arange(len(written), device=written.device)
    for sieve in sieves:
        rows = rows[(written[rows] @ sieve > own[rows, None]).sum(-1) <= k]
    hits = torch.zeros(len(written), dtype=torch.bool, device=written.device)
    for part in rows.split(CHUNK):
        logits = written[part] @ unembedding
        hits[part] = (logits >= logits.gather(-1, targets[part, None])).sum(-1) <= k
    return hits


def copying(hits: Bool[Tensor, "layer 2 head n"]) -> Estimate:
    """The share of copied tokens, Wilson's interval, and the share of the permuted targets as baseline."""
    n = hits.shape[-1]
    value, baseline = hits.double().mean(-1).unbind(1)
    low, high = wilson(value.numpy(), n)
    return Estimate(value.numpy(), low, high, n, baseline.numpy())


def wilson(share: Float[np.ndarray, "*shape"], n: int) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """95 % interval of a share of n; unlike the normal one it is not empty at 0 and 1."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - margin).clip(0, 1), (centre + margin).clip(0, 1)
