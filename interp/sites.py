"""Where in the model: `Site` (an activation) and `Node` (a part of one), printed and parsed one way."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from saes.errors import InputError

Stream = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out", "z", "q", "k", "v", "pattern"]
STREAMS: tuple[str, ...] = get_args(Stream)
HEAD_STREAMS = ("z", "q", "k", "v", "pattern")
_SITE = re.compile(r"(\d+)\.([a-z_]+)(?:\.(\d+))?")
_NODE = re.compile(r"(?P<site>[^#@]+)(?:#(?P<latent>\d+))?(?:@(?P<position>\d+))?")


@dataclass(frozen=True, order=True)
class Site:
    """An activation of the model: `10.resid_post`, or of one head, `3.z.5`.

    `mlp_in` is what the MLP reads, after its norm. `k` and `v` count key-value heads, the others query heads.
    """

    layer: int
    stream: Stream
    head: int | None = None

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise InputError(f"{self.stream!r} is no stream; choose one of {', '.join(STREAMS)}")
        if self.head is not None and self.stream not in HEAD_STREAMS:
            raise InputError(f"{self} names a head, but {self.stream} has none; heads belong to {', '.join(HEAD_STREAMS)}")

    def __str__(self) -> str:
        return f"{self.layer}.{self.stream}" + ("" if self.head is None else f".{self.head}")

    @staticmethod
    def parse(text: str) -> "Site":
        """Read back what `str` prints; raises InputError for anything else."""
        match = _SITE.fullmatch(text.strip())
        if match is None or match[2] not in STREAMS:
            raise InputError(f"{text!r} names no site; write LAYER.STREAM[.HEAD], for example 3.z.5, with a stream of {', '.join(STREAMS)}")
        return Site(int(match[1]), match[2], None if match[3] is None else int(match[3]))  # pyright: ignore[reportArgumentType]

    @staticmethod
    def parse_list(text: str) -> "tuple[Site, ...]":
        """Sites between commas or blanks, in the order of the model, without repeats."""
        sites = tuple(sorted({Site.parse(part) for part in re.split(r"[,\s]+", text.strip()) if part}))
        if not sites:
            raise InputError("no site was given; write for example --sites 10.resid_post,20.resid_post")
        return sites

    @staticmethod
    def parse_joined(text: str) -> "tuple[Site, ...]":
        """Sites side by side, `5.resid_post+10.resid_post`, in that order: what a crosscoder reads."""
        return tuple(Site.parse(part) for part in text.split("+"))


def joined(sites: Iterable[Site]) -> str:
    """What `Site.parse_joined` reads back."""
    return "+".join(map(str, sites))


@dataclass(frozen=True, order=True)
class Node:
    """A part of a site: all of it, one latent of its dictionary (`#41`), one position (`@7`)."""

    site: Site
    latent: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        latent = "" if self.latent is None else f"#{self.latent}"
        return f"{self.site}{latent}" + ("" if self.position is None else f"@{self.position}")

    @staticmethod
    def parse(text: str) -> "Node":
        """Read back what `str` prints; raises InputError for anything else."""
        match = _NODE.fullmatch(text.strip())
        if match is None:
            raise InputError(f"{text!r} names no node; write SITE[#LATENT][@POSITION], for example 3.z.5@7")
        number = {name: None if match[name] is None else int(match[name]) for name in ("latent", "position")}
        return Node(Site.parse(match["site"]), **number)
