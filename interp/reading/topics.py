"""Topic codes: what each code is worth as a detector of tokens in texts of a topic.

The topic of a document is what a regular expression captures of where it comes from, `^([^/]+)/` for the first folder: labelled texts are files in
folders, or packages whose prose was cached. A code that is active on over half of the tokens of a topic (recall) is what codebook features call a
topic code; precision says how much of its use is there.
"""

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int
from safetensors import safe_open

from interp.reading.index import Index, cache_of
from interp.reading.search import Found, compared
from interp.reading.text import compiled
from interp.runs import Run
from saes.errors import InputError

# Documents of a topic without which no code can be said to be about it.
FEWEST = 8


def labels(run: Run, pattern: str) -> dict[str, Int[np.ndarray, " doc"]]:
    """Topic to its documents, the largest topic first, from the sources of the cached documents. Raises InputError for a bad pattern."""
    table = pq.read_table(cache_of(run).file("documents.parquet"), columns=["doc", "source"])
    found, topics = compiled(pattern), {}
    for doc, source in zip(table["doc"].to_pylist(), table["source"].to_pylist(), strict=True):
        match = found.search(source)
        if match and match[found.groups]:
            topics.setdefault(match[found.groups], []).append(doc)
    kept = {topic: np.array(docs) for topic, docs in topics.items() if len(docs) >= FEWEST}
    if not kept:
        some = ", ".join(dict.fromkeys(table["source"].to_pylist()[:200:40]))
        raise InputError(f"{pattern!r} names no topic of {FEWEST} documents or more; documents come from places like {some}")
    return dict(sorted(kept.items(), key=lambda item: -len(item[1])))


def topic_codes(run: Run, index: Index, topics: dict[str, Int[np.ndarray, " doc"]]) -> dict[str, Found]:
    """Topic to the counts of every code against the tokens of its documents."""
    with safe_open(cache_of(run).file("tokens.safetensors"), "np") as file:
        doc_of = file.get_tensor("doc_of")[: len(index.keep)].ravel()
    return {topic: compared(index, np.isin(doc_of, docs)) for topic, docs in topics.items()}
