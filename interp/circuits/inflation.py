"""Circuits that are larger by one random path: what knocking out a unit does that nobody chose (Shi et al. 2024, arXiv:2410.13032).

A path is a walk from an embedding to the logits. Each step takes any destination that reads the source, all equally likely, and goes on
from the node behind it.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.circuits.graph import Graph, Unit

# Walks that may stay inside the circuit before a unit outside is taken by itself: only circuits of nearly everything need it.
WALKS = 200


def inflated(
    graph: Graph, unit: Unit, kept: Bool[Tensor, " unit"], draws: int, seed: int
) -> tuple[Bool[Tensor, "draw unit"], Bool[Tensor, "draw unit"]]:
    """Circuits larger by the new units of a random path each, and the same without one of those, drawn at random."""
    assert not bool(kept.all()), "a circuit of everything cannot be larger"
    generator = np.random.default_rng(seed)
    larger = kept.repeat(draws, 1)
    smaller = larger.clone()
    numbers = torch.full(graph.valid.shape, -1)
    numbers[graph.edges[:, 0], graph.edges[:, 1]] = torch.arange(graph.n_edges)
    for more, less in zip(larger, smaller, strict=True):
        new = _new(graph, unit, kept, numbers, generator)
        more[new] = less[new] = True
        less[generator.choice(new)] = False
    return larger, smaller


def random_path(graph: Graph, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Edges (source, destination) of a walk from an embedding to the logits."""
    source, path = int(generator.integers(graph.n_embeddings)), []
    while True:
        ends = graph.valid[source].nonzero().flatten()
        end = int(ends[generator.integers(len(ends))])
        path.append((source, end))
        if not graph.owners[end]:
            return path
        source = int(generator.choice(graph.owners[end]))


def _new(
    graph: Graph, unit: Unit, kept: Bool[Tensor, " unit"], numbers: Int[Tensor, "source destination"], generator: np.random.Generator
) -> list[int]:
    """Units of a walk that the circuit lacks, at least one."""
    for _ in range(WALKS):
        path = random_path(graph, generator)
        units = [int(numbers[edge]) for edge in path] if unit == "edge" else [source - graph.n_embeddings for source, _ in path[1:]]
        if new := [one for one in units if not kept[one]]:
            return new
    return [int(generator.choice((~kept).nonzero().flatten()))]
