"""Which edges of a circuit lie on a path from an embedding to the logits, from their names alone.

Without torch and for lists of edges, so that a page can ask while a slider moves; `Graph.connected` asks the same of masks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp.circuits.names import parse


@dataclass(frozen=True, eq=False)
class Wiring:
    """All edges of a model as numbers, and which sources stand behind each destination."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    source: Int[np.ndarray, " edge"]
    destination: Int[np.ndarray, " edge"]
    owner: Int[np.ndarray, "pair 2"]
    """Pairs (source, destination): the source writes what it makes of what the destination reads."""

    @staticmethod
    def of(
        sources: Sequence[str], destinations: Sequence[str], source: Int[np.ndarray, " edge"], destination: Int[np.ndarray, " edge"]
    ) -> "Wiring":
        """From names, each once, and edges as places among them; raises InputError for a name that is none."""
        places = {name: i for i, name in enumerate(sources)}
        behind = owners(sources, destinations)
        pairs = [(places[name], d) for d, end in enumerate(destinations) for name in behind[end]]
        return Wiring(tuple(sources), tuple(destinations), source, destination, np.array(pairs, int).reshape(-1, 2))

    @staticmethod
    def of_table(sources: Iterable[str], destinations: Iterable[str]) -> "Wiring":
        """From the two columns of a table of every edge."""
        names, source = np.unique(np.array(list(sources), dtype=str), return_inverse=True)
        ends, destination = np.unique(np.array(list(destinations), dtype=str), return_inverse=True)
        return Wiring.of(tuple(map(str, names)), tuple(map(str, ends)), source, destination)

    def on_path(self, kept: Int[np.ndarray, " kept"]) -> Bool[np.ndarray, " kept"]:
        """Of the kept edges, which lie on a path of kept edges."""
        source, destination = self.source[kept], self.destination[kept]
        read = np.array([parse(name).kind == "embed" for name in self.sources])
        written = np.array([name == "logits" for name in self.destinations])
        behind, end = self.owner.T
        while True:
            before = read.sum() + written.sum()
            reached, needed = np.zeros(len(written), bool), np.zeros(len(read), bool)
            reached[destination[read[source]]] = True
            needed[source[written[destination]]] = True
            read[behind[reached[end]]] = True
            written[end[needed[behind]]] = True
            if read.sum() + written.sum() == before:
                return read[source] & written[destination]

    def largest(self, order: Int[np.ndarray, " kept"], most: int) -> int:
        """How many edges of an order make the largest circuit with at most `most` edges on a path."""
        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if int(self.on_path(order[:middle]).sum()) <= most else (low, middle - 1)
        return low


def owners(sources: Sequence[str], destinations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The sources behind each destination: `9.6` for `9.6.q`, all heads of the group for `9.g1.k`, nothing for `logits`.

    Heads are dealt to groups in their order, the same number to each, as grouped-query attention does.
    """
    known = set(sources)
    heads = 1 + max((parse(name).head or 0 for name in sources), default=0)
    groups = 1 + max((parse(name).head or 0 for name in destinations if _shared(name)), default=0)
    return {name: tuple(own for own in _behind(name, heads // groups) if own in known) for name in destinations}


def _behind(name: str, group_size: int) -> tuple[str, ...]:
    parts = parse(name)
    if _shared(name):
        first = (parts.head or 0) * group_size
        return tuple(f"{parts.layer}.{head}" for head in range(first, first + group_size))
    if parts.kind == "input":
        return (name.rsplit(".", 1)[0],)
    return (name,) if parts.kind == "mlp" else ()


def _shared(name: str) -> bool:
    """Whether a key or value is read once for a group of heads."""
    return ".g" in name
