"""What a describe run was made from: its tokens, their text, their documents."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int
from safetensors import safe_open

from interp import runs
from interp.reading.text import Text
from interp.runs import Run
from saes.errors import InputError


def runs_of(root: Path, name: str) -> list[Run]:
    """The describe runs that a name stands for: itself, or the newest of each dictionary that was made from it, at any distance.

    Raises InputError where there is none.
    """
    run = runs.open_run(root, name)
    if run.stage == "describe":
        return [run]
    found = [d for d in runs.list_runs(root, "describe") if run.id in ancestors(d)]
    newest = {str(d.config["parents"]): d for d in reversed(found)}
    if not newest:
        how = (
            "`interp train` and `interp describe` make what can be searched" if run.stage == "cache" else f"run `interp describe {run.id}`"
        )
        raise InputError(f"{run.id} has no described codes; {how}")
    return sorted(newest.values(), key=lambda found: found.id)


def ancestors(run: Run) -> dict[str, Run]:
    """All runs that a run was made from, nearest first; those that are gone are left out."""
    parents = [found for name in run.config["parents"].values() if (found := runs.find_run(run.path.parent, name))]
    return {parent.id: parent for parent in parents} | {name: found for parent in parents for name, found in ancestors(parent).items()}


def cache_of(run: Run) -> Run:
    """The ancestor that holds the tokens; raises InputError when it is gone."""
    found = next((parent for parent in ancestors(run).values() if parent.stage == "cache"), None)
    if found is None:
        raise InputError(f"the cached tokens that {run.id} was made from are gone; make them anew with `interp cache`, then describe again")
    return found


def tokens_of(run: Run, n_seq: int, name: str = "tokens") -> Int[np.ndarray, "seq context"]:
    """The token matrix of the first sequences, or with `doc_of` the document of each token, -1 for none."""
    with safe_open(cache_of(run).file("tokens.safetensors"), "np") as file:
        return file.get_tensor(name)[:n_seq]


def text_of(run: Run, n_seq: int) -> Text:
    """The text of the first sequences."""
    return Text.of(tokens_of(run, n_seq), _vocabulary(run)["raw"].to_pylist())


def words_of(run: Run) -> pa.ChunkedArray:
    """What each token of the vocabulary looks like, by id."""
    return _vocabulary(run)["text"]


def sources_of(run: Run) -> list[str]:
    """Where each document comes from."""
    table = pq.read_table(cache_of(run).file("documents.parquet"), columns=["doc", "source"]).sort_by("doc")
    return table["source"].to_pylist()


def _vocabulary(run: Run) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(cache_of(run).file("vocab.arrow")))).read_all()
