"""Topics: labelled texts from a corpus, and the latents that tell a topic from the rest.

A topic is a set of beginnings of document sources: in `docs` the packages and their parts, in a folder of files the files. The latents of a
topic are those with the largest phi coefficient between "is active" and "stands in a text of the topic" over the tokens of training texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.hooks import record
from interp.models.bridge import Model
from interp.sites import Site
from interp.text import Corpus
from saes.architectures import Module
from saes.errors import InputError

DOCS = {
    "graphs": ("networkx/",),
    "tables": ("pandas/", "narwhals/"),
    "algebra": ("sympy/",),
    "statistics": ("scipy/stats/", "sklearn/metrics/", "sklearn/linear_model/"),
    "signals": ("scipy/signal/", "scipy/fft"),
    "distributed": ("torch/distributed/",),
    "apps": ("streamlit/",),
    "web": ("requests/", "urllib3/", "huggingface_hub/", "fsspec/"),
    "images": ("PIL/",),
}
"""Topics of `docs`, by where its docstrings come from."""
OTHER = "other"
# A text with fewer tokens says too little to be judged.
SHORTEST = 16
BATCH = 32


@dataclass(frozen=True)
class Topic:
    """A name, and how the sources of its documents begin."""

    name: str
    sources: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> "Topic":
        """`graphs`, or `NAME=BEGINNING,BEGINNING`; raises InputError, which lists the topics there are."""
        name, sign, rest = text.partition("=")
        sources = tuple(part for part in rest.split(",") if part) if sign else DOCS.get(name, ())
        if not name or name == OTHER or not sources:
            raise InputError(
                f"{text!r} is no topic; choose of {', '.join(DOCS)}, or write NAME=BEGINNING of the sources of its documents, for example "
                "sorting=numpy/lib/,heapq"
            )
        return Topic(name, sources)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Texts of one length at most, each with the number of its topic; the last number is "other"."""

    names: tuple[str, ...]
    texts: tuple[Int[np.ndarray, " _"], ...]
    labels: Int[np.ndarray, " text"]

    def half(self, which: int) -> "Labelled":
        """Every second text of every topic, from the first (0: training) or from the second (1: held out)."""
        place = np.zeros(len(self.labels), np.int64)
        for number in range(len(self.names)):
            place[self.labels == number] = np.arange((self.labels == number).sum())
        chosen = np.flatnonzero(place % 2 == which)
        return Labelled(self.names, tuple(self.texts[i] for i in chosen), self.labels[chosen])


def labelled(corpus: Corpus, tokenizer: object, topics: Sequence[Topic], n: int, length: int) -> Labelled:
    """The first n documents of each topic and 2 n of no topic, cut at `length` tokens; reads no further than that.

    Raises InputError for a topic with fewer than 8 documents.
    """
    names = (*(topic.name for topic in topics), OTHER)
    wanted = np.array([n] * len(topics) + [2 * n])
    texts: list[np.ndarray] = []
    labels: list[int] = []
    for document in corpus.documents():
        number = next((i for i, topic in enumerate(topics) if document.source.startswith(topic.sources)), len(topics))
        if not wanted[number]:
            continue
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"][:length]  # pyright: ignore[reportCallIssue]
        if len(ids) >= min(SHORTEST, length):
            texts.append(np.array(ids))
            labels.append(number)
            wanted[number] -= 1
        if not wanted.any():
            break
    found = np.bincount(np.array(labels, dtype=np.int64), minlength=len(names))
    for name, count in zip(names, found, strict=True):
        if count < 8:
            raise InputError(f"{corpus.describe()} has {count} texts for {name!r}, and 8 are needed to train and test a judge of it")
    return Labelled(names, tuple(texts), np.array(labels))


@dataclass(frozen=True, eq=False)
class Use:
    """Tokens on which each latent is active, by topic, and its mean where it is active."""

    names: tuple[str, ...]
    active: Float[np.ndarray, "topic d_dict"]
    tokens: Float[np.ndarray, " topic"]
    level: Float[np.ndarray, " d_dict"]

    def share(self, topic: int) -> tuple[Float[np.ndarray, " d_dict"], Float[np.ndarray, " d_dict"]]:
        """Share of the topic's tokens, and of all other tokens, on which each latent is active."""
        others = np.arange(len(self.names)) != topic
        return self.active[topic] / max(1, self.tokens[topic]), self.active[others].sum(0) / max(1, self.tokens[others].sum())

    def phi(self, topic: int) -> Float[np.ndarray, " d_dict"]:
        """Correlation, over tokens, between being active and standing in the topic; 0 for a latent that is always or never active."""
        total, p = self.tokens.sum(), self.tokens[topic] / self.tokens.sum()
        fired = self.active.sum(0) / total
        spread = np.sqrt(p * (1 - p) * fired * (1 - fired))
        return np.divide(self.active[topic] / total - p * fired, spread, out=np.zeros_like(fired), where=spread > 0)

    def best(self, topic: int, n: int) -> list[int]:
        """The n latents of a topic, best first."""
        return np.argsort(-self.phi(topic), kind="stable")[:n].tolist()

    def alike(self, latents: Sequence[int], seed: int, among: int = 20) -> list[int]:
        """For each latent another, drawn from those that are active on nearly as many tokens: a control of equal use."""
        total, rng = self.active.sum(0), np.random.default_rng(seed)
        found: list[int] = []
        for latent in latents:
            apart = np.abs(total - total[latent]) + np.where(np.isin(np.arange(len(total)), [*latents, *found]), np.inf, 0)
            found.append(int(rng.choice(np.argsort(apart, kind="stable")[:among])))
        return found


@torch.no_grad()
def use(model: Model, site: Site, dictionary: Module, given: Labelled, bos: int | None) -> Use:
    """Encode the texts, each behind BOS; that token itself does not count."""
    active = np.zeros((len(given.names), dictionary.d_dict))
    tokens, total = np.zeros(len(given.names)), np.zeros(dictionary.d_dict)
    for start in range(0, len(given.texts), BATCH):
        rows, labels = given.texts[start : start + BATCH], given.labels[start : start + BATCH]
        x, keep = activations(model, site, rows, bos)
        code = dictionary.encode_sparse(x[keep].float())
        values, latents = code.values.cpu().numpy(), code.indices.cpu().numpy()
        of = np.broadcast_to(labels[keep.nonzero()[:, 0].cpu().numpy(), None], latents.shape)
        on = values > 0
        np.add.at(active, (of[on], latents[on]), 1)
        np.add.at(total, latents[on], values[on])
        np.add.at(tokens, labels, [len(row) for row in rows])
    return Use(given.names, active, tokens, total / np.maximum(active.sum(0), 1))


def activations(
    model: Model, site: Site, texts: Sequence[Int[np.ndarray, " _"]], bos: int | None
) -> tuple[Float[Tensor, "text pos d"], Tensor]:
    """Activations of texts of several lengths, heads joined, and which of their positions are text. What is padded stands behind it."""
    first = [] if bos is None else [bos]
    width = len(first) + max(len(text) for text in texts)
    rows = torch.tensor([[*first, *text.tolist(), *[0] * (width - len(first) - len(text))] for text in texts])
    length = torch.tensor([len(text) for text in texts])
    place = torch.arange(width) - len(first)
    keep = (place >= 0) & (place < length[:, None])
    return record(model, rows, [site])[site].flatten(2), keep.to(model.device)
