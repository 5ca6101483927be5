"""A train run in words: what its dictionary reads and writes, and what its latents are called. Pure, from its config alone.

Configs may come from another version or hold an architecture that this file has never heard of: what it does not know, it leaves out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dictionary:
    """What a config says about a dictionary."""

    kind: str
    """Name of the architecture."""
    options: Mapping[str, Any]
    """Fields of the architecture, k among them."""
    reads: tuple[str, ...]
    """Sites side by side."""
    writes: tuple[str, ...]
    """The sites that it reads, unless it is a transcoder."""
    skip: bool
    width: int
    """Latents; 0 where the config does not say."""

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Dictionary":
        """From the fields of a train run."""
        given = config.get("architecture")
        options = dict(given) if isinstance(given, Mapping) else {}
        kind = str(options.pop("kind", given if isinstance(given, str) else "unknown architecture"))
        site = str(config.get("site") or "?")
        reads, writes = (tuple(text.split("+")) for text in (site, str(config.get("write") or site)))
        width = config.get("width")
        return Dictionary(kind, options, reads, writes, bool(config.get("skip")), width if isinstance(width, int) else 0)

    @property
    def transcoder(self) -> bool:
        return self.reads != self.writes

    @property
    def k(self) -> int | None:
        value = self.options.get("k")
        return value if isinstance(value, int) else None

    @property
    def sites(self) -> str:
        """`10.resid_post`, or `10.mlp_in → 10.mlp_out`."""
        return f"{beside(self.reads)} → {beside(self.writes)}" if self.transcoder else beside(self.reads)

    @property
    def noun(self) -> str:
        """What a latent of it is called."""
        return "code" if self.kind == "Codebook" else "latent"

    @property
    def size(self) -> str:
        """`4,608 latents`."""
        books = self.books
        return f"{self.width:,} {self.noun}s" + (f" in {books} books" if books > 1 else "") if self.width else f"? {self.noun}s"

    @property
    def name(self) -> str:
        """`TopK k=32 · 10.mlp_in → 10.mlp_out + skip · 4,608 latents`."""
        architecture = self.kind + (f" k={self.k}" if self.k is not None else "")
        return f"{architecture} · {self.sites}{' + skip' if self.skip else ''} · {self.size}"

    @property
    def constant(self) -> str:
        """Why an active latent always has the same value; nothing where values differ."""
        if self.kind == "Discrete":
            return "Discrete keeps only which latent is strongest, so the winner counts 1"
        if self.kind != "Codebook":
            return ""
        if self.options.get("combine") == "sum":
            return "the chosen codes of a book are added, so each counts 1"
        return f"the {self.k} chosen codes of a book are averaged, so each counts 1/{self.k}" if self.k else "chosen codes count alike"

    def note(self, latent: int) -> str:
        """What the place of a latent says about it: its layer, its book, or that it stands for none; nothing for most."""
        if self.kind == "Discrete" and latent == self.width - 1:
            return "none"
        if self.kind == "CrossLayer" and self.width:
            layer = min(latent * len(self.reads) // self.width, len(self.reads) - 1)
            return f"layer {self.reads[layer].split('.')[0]}"
        if self.books > 1 and self.width:
            book, code = divmod(latent, self.width // self.books)
            return f"code {code} of book {book}"
        return ""

    def called(self, latent: int) -> str:
        """`Latent 41`, `Code 41`, `Latent 41 · layer 10`."""
        return " · ".join(part for part in (f"{self.noun.capitalize()} {latent}", self.note(latent)) if part)

    @property
    def books(self) -> int:
        books = self.options.get("books")
        return books if self.kind == "Codebook" and isinstance(books, int) and 0 < books <= self.width else 1


def beside(sites: Sequence[str]) -> str:
    """Sites side by side; of many, the first and the last."""
    if len(sites) <= 2:
        return "+".join(sites)
    return f"{sites[0]}+…+{sites[-1]} ({len(sites)} sites)"
