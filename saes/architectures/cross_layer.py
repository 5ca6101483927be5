"""Cross-layer transcoder: latents that read one layer and write to it and all later ones (Ameisen et al. 2025, circuit tracing).

    z^s = relu(x^s W_enc^s + b_enc^s)        y_hat^l = b_dec^l + sum_{s <= l} z^s W_dec^{s -> l}    n_i^s = |(W_dec^{s -> l}_i)_{l >= s}|
    L = mean_l fvu(y^l, y_hat^l) + aux_coefficient * aux_k

Chosen by `pre_i n_i` among all layers together: k L B winners for B tokens and L layers. Each layer is a transcoder whose output is the
concatenation of its targets, so decoders are stored as triangular blocks and an active latent costs its own rows only.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.activations import BatchLargest, Jump, largest_of_all
from saes.architectures.shared import Aux, activity, check_k
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.kernels import autograd
from saes.kernels.pairs import Pairs
from saes.losses import fvu
from saes.normalise import Normalisation
from saes.sparse import Sparse, SparseDictionary
from saes.support import Listed, Support


@final
class CrossLayerDictionary(nn.Module):
    """One transcoder for each source layer; the code is theirs side by side."""

    def __init__(self, layers: list[SparseDictionary]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.d, n = layers[0].d_in, len(layers)
        self.d_in = self.d_out = n * self.d
        self.d_dict = sum(layer.d_dict for layer in layers)

    def each(self) -> list[SparseDictionary]:
        """The layers by their type."""
        return list(self.layers)  # pyright: ignore[reportReturnType]

    def tie(self, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> None:
        """Let each latent write what its reading predicts, to each of its layer's targets."""
        for s, (layer, part) in enumerate(zip(self.each(), x.split(self.d, 1), strict=True)):
            layer.tie(part, y[:, s * self.d :])

    def supports(self, x: Float[Tensor, "batch d_in"]) -> list[Support]:
        """Where the code may differ from 0, a layer at a time; while it is trained, chosen among all layers together."""
        parts = x.split(self.d, 1)
        if not isinstance(self.each()[0].activation, BatchLargest):
            return [layer.support(part) for layer, part in zip(self.each(), parts, strict=True)]
        return self._together([part.contiguous() for part in parts])

    def _together(self, parts: list[Tensor]) -> list[Support]:
        choose = self.each()[0].activation
        assert isinstance(choose, BatchLargest)
        with torch.no_grad():
            scores = [layer.scores(part) for layer, part in zip(self.each(), parts, strict=True)]
            found = [s.largest(min(choose.most * choose.k, s.d_dict)) for s in scores]
            values = torch.cat([v for v, _ in found], 1)
            batch, m = len(values), found[0][0].shape[1]
            chosen = largest_of_all(values, choose.k * len(parts) * batch)
            mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device).index_fill_(0, chosen, True).view(batch, -1)
        supports: list[Support] = []
        for s, (layer, part) in enumerate(zip(self.each(), parts, strict=True)):
            mine = mask[:, s * m : (s + 1) * m]
            counts = mine.sum(1)
            pairs = Pairs(found[s][1][mine], torch.cat([counts.new_zeros(1), counts.cumsum(0)]), layer.d_dict)
            pre = scores[s].pre(found[s][0][mine], pairs.latents)
            if torch.is_grad_enabled():
                pre = autograd.encode(pre, pairs, part, layer.W_enc, layer.b_enc, None)
            supports.append(Listed(pre, pairs))
        return supports

    def write(self, outputs: list[Tensor]) -> Float[Tensor, "batch d_out"]:
        """Sum what the layers write, each to itself and those after it."""
        total = outputs[0]
        for s, out in enumerate(outputs[1:], 1):
            total = torch.cat([total[:, : s * self.d], total[:, s * self.d :] + out], 1)
        return total

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The prediction of all targets."""
        flat = x.reshape(-1, self.d_in)
        supports, parts = self.supports(flat), flat.split(self.d, 1)
        written = [layer.write(s, layer.code(s), p) for layer, s, p in zip(self.each(), supports, parts, strict=True)]
        return self.write(written).view(*x.shape[:-1], self.d_out)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_dict"]:
        """The codes of the layers side by side."""
        return torch.cat([layer.encode(part) for layer, part in zip(self.each(), x.split(self.d, -1), strict=True)], -1)

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> Sparse:
        """The same by active latents."""
        codes = [layer.encode_sparse(part) for layer, part in zip(self.each(), x.split(self.d, -1), strict=True)]
        starts = [0, *torch.tensor([layer.d_dict for layer in self.each()]).cumsum(0).tolist()]
        indices = torch.cat([code.indices + start for code, start in zip(codes, starts, strict=False)], -1)
        return Sparse(torch.cat([code.values for code in codes], -1), indices, self.d_dict)

    def decode(self, code: Float[Tensor, "*batch d_dict"]) -> Float[Tensor, "*batch d_out"]:
        """What a code writes to all targets."""
        parts = code.split([layer.d_dict for layer in self.each()], -1)
        written = [layer.decode(part).reshape(-1, layer.d_out) for layer, part in zip(self.each(), parts, strict=True)]
        return self.write(written).view(*code.shape[:-1], self.d_out)

    def decode_sparse(self, code: Sparse) -> Float[Tensor, "*batch d_out"]:
        """`decode` of the same code."""
        return self.decode(code.dense())

    def reconstruct(self, x: Float[Tensor, "*batch d_in"], code: Sparse) -> Float[Tensor, "*batch d_out"]:
        """Decode the code of x."""
        return self.decode_sparse(code)

    def skip(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """No part of the output goes past the code."""
        return torch.zeros_like(x)

    def directions(self) -> Float[Tensor, "d_dict d_out"]:
        """What each latent writes, 0 before its own layer."""
        return torch.cat([torch.nn.functional.pad(layer.W_dec, (self.d_out - layer.d_out, 0)) for layer in self.each()])

    def reads(self) -> Float[Tensor, "d_dict d_in"]:
        """What each latent reads: its own layer."""
        n = len(self.layers)
        padded = [torch.nn.functional.pad(layer.reads(), (s * self.d, (n - 1 - s) * self.d)) for s, layer in enumerate(self.each())]
        return torch.cat(padded)

    def settings(self) -> dict[str, Any]:
        """What a file has to say to build the dictionary again, beside its weights."""
        return {"layers": [layer.settings() for layer in self.each()]}

    @staticmethod
    def of_settings(settings: Mapping[str, Any]) -> "CrossLayerDictionary":
        """The dictionary that `settings` describe, all weights 0."""
        return CrossLayerDictionary([SparseDictionary.of_settings(layer) for layer in settings["layers"]])

    @torch.no_grad()
    def folded(self, norm: Normalisation) -> "CrossLayerDictionary":
        """The same function on raw activations: each layer folds its own maps; b_dec of each target is counted once, at its own layer."""
        folded = copy.deepcopy(self).double()
        for s, layer in enumerate(self.each()):
            x, y = slice(s * self.d, (s + 1) * self.d), slice(s * self.d, None)
            mean_y = norm.mean_y[y].clone()
            # Earlier layers have written the means of all their targets: only the first layer adds them.
            if s:
                mean_y.zero_()
            folded.layers[s] = layer.folded(Normalisation(norm.mean_x[x], norm.scale_x[x], mean_y, norm.scale_y[y], norm.sample[:, x]))
        return folded


@dataclass(frozen=True)
class CrossLayer:
    """Latents that read one layer's MLP input and write to the MLP outputs of that layer and all later ones (circuit tracing, 2025)."""

    k: int = 16
    """Active latents per input and layer, on average over layers and inputs."""
    aux: Aux = field(default_factory=Aux)

    def build(
        self, d_in: int, d_out: int, d_dict: int, *, seed: int = 0, transcoder: bool = False, skip: bool = False, parts: int = 1
    ) -> CrossLayerDictionary:
        """A new dictionary of d_dict latents, shared evenly by the `parts` layers, the same for the same seed.

        Raises InputError when k or the sizes do not fit.
        """
        if not transcoder or skip or d_in != d_out:
            raise InputError(
                "CrossLayer predicts what MLPs write from what they read: give as many --write sites as read sites, and no --skip"
            )
        if d_dict % parts:
            raise InputError(f"a width of {d_dict} cannot be shared by {parts} layers; choose a multiple of {parts}")
        check_k(self.k, d_dict // parts)
        d, n, choose = d_in // parts, d_dict // parts, BatchLargest(self.k)
        layers = [SparseDictionary.random(d, (parts - s) * d, n, choose, seed=seed * parts + s, transcoder=True) for s in range(parts)]
        return CrossLayerDictionary(layers)

    def loss(self, dictionary: CrossLayerDictionary, batch: Batch) -> Losses:
        """Prediction error of all targets, and the auxiliary term of each layer on what is left for it."""
        layers, parts = dictionary.each(), [part.contiguous() for part in batch.x.split(dictionary.d, 1)]
        supports = dictionary.supports(batch.x)
        codes = [layer.code(support) for layer, support in zip(layers, supports, strict=True)]
        written = [layer.write(s, code, part) for layer, s, code, part in zip(layers, supports, codes, parts, strict=True)]
        y_hat = dictionary.write(written)
        active = torch.cat([activity(support, code) for support, code in zip(supports, codes, strict=True)])
        dead = (batch.dead & (active == 0)).split([layer.d_dict for layer in layers])
        residual = batch.y - y_hat.detach()
        revival = torch.stack(
            [self.aux.term(layer, parts[s], residual[:, s * dictionary.d :], dead[s]) for s, layer in enumerate(layers)]
        ).mean()
        error = fvu(batch.y, y_hat)
        metrics = {"fvu": error.detach(), "aux_loss": revival.detach(), "l0": active.sum() / len(batch.x)}
        return Losses({"fvu": error, "aux": self.aux.aux_coefficient * revival}, active, metrics)

    @torch.no_grad()
    def finish(self, dictionary: CrossLayerDictionary, x: Float[Tensor, "tokens d_in"]) -> None:
        """Measure one threshold on the scores of all layers, above which k latents a layer are active, on average over these tokens."""
        layers, wanted = dictionary.each(), self.k * len(dictionary.layers) * len(x)
        parts = x.split(dictionary.d, 1)
        found = [
            layer.scores(part.contiguous()).largest(min(16 * self.k, layer.d_dict))[0] for layer, part in zip(layers, parts, strict=True)
        ]
        ranked = torch.cat([values.flatten() for values in found]).sort(descending=True).values
        edge = ranked[wanted - 1 : wanted + 1].mean().clamp_min(0)
        for layer in layers:
            norms = layer.norms()
            layer.use(Jump())
            # A latent that writes nothing has no score to compare.
            layer.get_parameter("threshold").copy_(torch.where(norms > 0, edge / norms, torch.finfo(norms.dtype).max))
