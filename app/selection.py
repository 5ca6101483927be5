"""Which latents the Explorer lists, and in which order: a value that travels in the address, so the Feature page walks the same list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from app import address
from app.readers import Columns, Vocabulary
from saes.errors import InputError

LOWEST = -7.0
# As in interp/features, which needs torch and so cannot be imported here; a test compares them.
DENSE, ONE_TOKEN, NEAR_DUPLICATE = 0.1, 0.9, 0.9
SORTS = {
    "latent": "latent id",
    "density": "density",
    "max_act": "max activation",
    "mean_act": "mean activation",
    "logit_kurtosis": "logit kurtosis",
    "top_token_share": "top token share",
    "token_entropy": "token entropy",
    "nearest_cos": "nearest cosine",
    "enc_dec_cos": "encoder · decoder",
}
Mask = Callable[[Columns], np.ndarray]


@dataclass(frozen=True)
class Preset:
    """A named filter with the sentence that explains it."""

    title: str
    sentence: str
    mask: Mask


def _strong(table: Columns) -> np.ndarray:
    live = ~table["dead"]
    if not live.any():
        return live
    return (
        live
        & (table["density"] <= np.quantile(table["density"][live], 0.25))
        & (table["max_act"] >= np.quantile(table["max_act"][live], 0.75))
    )


PRESETS = {
    "all": Preset("All", "Every latent of the dictionary.", lambda t: np.ones(len(t["latent"]), bool)),
    "alive": Preset("Alive", "Latents that fired at least once.", lambda t: ~t["dead"]),
    "dead": Preset("Dead", "Latents that never fired on these tokens: lost capacity.", lambda t: t["dead"]),
    "dense": Preset("Dense", "Active on more than a tenth of the tokens: rarely interpretable.", lambda t: t["density"] > DENSE),
    "rare": Preset("Rare, strong", "Least dense quarter, largest quarter of maximal activations: often specific.", _strong),
    "one_token": Preset(
        "One token", "More than 90 % of the active tokens are one token type.", lambda t: ~t["dead"] & (t["top_token_share"] > ONE_TOKEN)
    ),
    "twins": Preset(
        "Near duplicates",
        "Decoder cosine with another latent above .9: the direction was split or learnt twice.",
        lambda t: t["nearest_cos"] > NEAR_DUPLICATE,
    ),
    "peaked": Preset(
        "Peaked logits", "Logit weights with kurtosis above 10: promotes or suppresses few tokens.", lambda t: t["logit_kurtosis"] > 10
    ),
}


@dataclass(frozen=True)
class Selection:
    """The filters and the order of the Explorer."""

    q: str = ""
    """Text in the top token, or the number of a latent."""
    preset: str = "all"
    dens: tuple[float, float] = (LOWEST, 0.0)
    """log10 of the lowest and the highest density; at the lowest value dead latents stay in."""
    sort: str = "latent"
    order: str = "down"

    @staticmethod
    def parse(query: Mapping[str, Sequence[str]]) -> "Selection":
        """Read from the parameters of an address; raises InputError for bad values."""
        last = {name: values[-1] for name, values in query.items() if values}
        given: dict[str, Any] = {
            "q": (last.get("q") or "")[:100],
            "preset": address.choice(last.get("preset"), "preset", PRESETS),
            "dens": _range(query.get("dens", ())),
            "sort": address.choice(last.get("sort"), "sort", SORTS),
            "order": address.choice(last.get("order"), "order", ("up", "down")),
        }
        return replace(Selection(), **{name: value for name, value in given.items() if value is not None})

    def parameters(self) -> dict[str, Any]:
        """The parameters that differ from the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def masks(self, table: Columns, vocab: Vocabulary | None) -> dict[str, np.ndarray]:
        """Each filter by name, so that an empty list can say which one removed most."""
        masks = {f"preset {PRESETS[self.preset].title!r}": PRESETS[self.preset].mask(table)}
        low, high = self.dens
        if self.dens != (LOWEST, 0.0):
            with np.errstate(divide="ignore"):
                exponent = np.log10(table["density"])
            masks["density"] = (exponent <= high) & ((exponent >= low) | (low <= LOWEST))
        if self.q:
            masks[f"text {self.q!r}"] = _matches(self.q, table, vocab)
        return masks

    def latents(self, table: Columns, vocab: Vocabulary | None) -> np.ndarray:
        """Ids of the chosen latents in their order; ties and missing values by id."""
        keep = np.logical_and.reduce(list(self.masks(table, vocab).values()))
        ids = table["latent"][keep]
        if self.sort == "latent" or self.sort not in table:
            return ids if self.order == "down" else ids[::-1]
        key = table[self.sort][keep].astype(float)
        return ids[np.argsort(key if self.order == "up" else -key, kind="stable")]


def _range(texts: Sequence[str]) -> tuple[float, float] | None:
    """`dens=-4&dens=-1` as two numbers in order; raises InputError for one or three of them."""
    if not texts:
        return None
    ends = [value for text in texts if (value := address.real(text, "dens", LOWEST, 0.0)) is not None]
    if len(ends) != 2:
        raise InputError(f"dens was given {len(ends)} times; write its lowest and its highest log10, for example dens=-4&dens=-1")
    return min(ends), max(ends)


def _matches(text: str, table: Columns, vocab: Vocabulary | None) -> np.ndarray:
    by_id = table["latent"] == int(text) if text.isascii() and text.isdigit() and len(text) < 10 else np.zeros(len(table["latent"]), bool)
    if vocab is None:
        return by_id
    hit = pc.call_function("match_substring", [vocab.texts], pc.MatchSubstringOptions(text, ignore_case=True)).to_numpy()
    return by_id | (~table["dead"] & hit[np.clip(table["top_token"], 0, len(hit) - 1)])
