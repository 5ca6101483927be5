"""Topic codes: what each code is worth as a detector of tokens in texts of a topic.

The topic of a document is what a regular expression captures of where it comes from, `^([^/]+)/` for the first folder: labelled texts are
files in folders, or packages whose prose was cached. A code that is active on over half of the tokens of a topic (recall) is what
codebook features (Tamkin et al. 2023) call a topic code; precision says how much of its use is there.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from interp.reading.index import Index
from interp.reading.search import Found, compared
from interp.reading.text import compiled
from saes.errors import InputError

# Documents of a topic without which no code can be said to be about it.
FEWEST = 8


def labels(sources: Sequence[str], pattern: str) -> dict[str, list[int]]:
    """Topic to its documents, the largest topic first, from the source of each document. Raises InputError for a bad pattern."""
    found, topics = compiled(pattern), {}
    for doc, source in enumerate(sources):
        match = found.search(source, timeout=1.0)
        if match and match[found.groups]:
            topics.setdefault(match[found.groups], []).append(doc)
    kept = {topic: docs for topic, docs in topics.items() if len(docs) >= FEWEST}
    if not kept:
        some = ", ".join(list(dict.fromkeys(sources))[:3])
        raise InputError(f"{pattern!r} names no topic of {FEWEST} documents or more; documents come from places like {some}")
    return dict(sorted(kept.items(), key=lambda item: -len(item[1])))


def topic_codes(index: Index, doc_of: Int[np.ndarray, " position"], topics: dict[str, list[int]]) -> dict[str, Found]:
    """Topic to the counts of every code against the tokens of its documents, given the document of each token."""
    return {topic: compared(index, np.isin(doc_of, docs)) for topic, docs in topics.items()}
