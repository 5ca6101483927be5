"""The columns of `latents.arrow`, one row a latent, and the figures that sum them up."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from interp.dictionaries import Trained
from interp.features import logits, neighbours
from interp.features.logits import LogitEffects
from interp.features.neighbours import Neighbours
from interp.features.stats import DENSE
from interp.models import Model

# Nine of ten activations on one token of the vocabulary; a cosine at which two latents write the same.
ONE_TOKEN, NEAR_DUPLICATE = 0.9, 0.9
CORPUS = pa.schema({
    "latent": pa.int32(), "n_active": pa.int64(), "density": pa.float32(), "max_act": pa.float32(), "mean_act": pa.float32(),
    "p50": pa.float32(), "p90": pa.float32(), "p99": pa.float32(), "top_token": pa.int32(), "top_token_share": pa.float32(),
    "token_entropy": pa.float32(), "dead": pa.bool_(),
})  # fmt: skip
WEIGHTS = pa.schema({
    "dec_norm": pa.float32(), "enc_dec_cos": pa.float32(), "logit_kurtosis": pa.float32(), "logit_skew": pa.float32(),
    "nearest": pa.int32(), "nearest_cos": pa.float32(),
})  # fmt: skip
ORDER = (
    "latent", "n_active", "density", "max_act", "mean_act", "p50", "p90", "p99", "dec_norm", "enc_dec_cos", "logit_kurtosis", "logit_skew",
    "nearest", "nearest_cos", "top_token", "top_token_share", "token_entropy", "dead",
)  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """What the weights alone say about every latent."""

    dec_norm: Float[Tensor, " d_dict"]
    enc_dec_cos: Float[Tensor, " d_dict"] | None
    """None where encoder and decoder live in different spaces."""
    neighbours: Neighbours
    effects: LogitEffects | None
    """None where the site does not write to the residual stream."""

    @staticmethod
    @torch.no_grad()
    def of(model: Model, trained: Trained) -> "Geometry":
        """Measure a dictionary. Effects on logits are those at the last of the sites that it writes."""
        directions = trained.dictionary.directions()
        last = trained.writes[-1]
        residual = logits.to_residual(model, last, directions[:, -trained.store.width(last) :])
        return Geometry(
            dec_norm=neighbours.norms(directions),
            enc_dec_cos=neighbours.cosines(trained.dictionary.reads(), directions) if trained.autoencoder else None,
            neighbours=neighbours.nearest(directions),
            effects=None if residual is None else logits.summarise(model, residual),
        )


def table(corpus: list[pa.Table], geometry: Geometry, metadata: Mapping[str, str]) -> pa.Table:
    """Tables of `CORPUS` columns for all latents in order, and the weights, as `latents.arrow` holds them; null is undefined."""
    effects, near = geometry.effects, geometry.neighbours
    weights = {
        "dec_norm": geometry.dec_norm, "enc_dec_cos": geometry.enc_dec_cos,
        "logit_kurtosis": None if effects is None else effects.kurtosis, "logit_skew": None if effects is None else effects.skew,
        "nearest": near.ids[:, 0], "nearest_cos": near.cos[:, 0],
    }  # fmt: skip
    found = pa.concat_tables(corpus).combine_chunks()
    for field in WEIGHTS:
        column = weights[field.name]
        values = pa.nulls(len(found), field.type) if column is None else pa.array(column.cpu().numpy(), field.type)
        found = found.append_column(field, values)
    return found.select(ORDER).replace_schema_metadata(dict(metadata))


def summary(latents: pa.Table, n_tokens: int) -> dict[str, int | float]:
    """Flat figures of a described dictionary."""
    column = {name: latents[name].to_numpy() for name in ("n_active", "density", "dead", "nearest_cos", "top_token_share")}
    alive = ~column["dead"]
    return {
        "latents": len(latents),
        "alive": int(alive.sum()),
        "dead_share": float(np.mean(~alive)),
        "dense_share": float(np.mean(column["density"] > DENSE)),
        "tokens": n_tokens,
        "l0": float(column["n_active"].sum() / n_tokens),
        "one_token_share": float(np.mean(column["top_token_share"] > ONE_TOKEN)),
        "near_duplicate_share": float(np.mean(column["nearest_cos"] > NEAR_DUPLICATE)),
    }
