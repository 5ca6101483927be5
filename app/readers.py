"""Files of run folders as arrays and tables. Pure functions of a run; `app/session.py` keeps what they return."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from interp.runs import CONFIG, Run
from saes.errors import InputError

Columns = dict[str, np.ndarray]


@contextlib.contextmanager
def reading(run: Run, name: str) -> Iterator[Path]:
    """The path of a file, its size checked; what goes wrong while it is read is said in one sentence."""
    try:
        yield run.file(name)
    except InputError:
        raise
    except (pa.ArrowException, SafetensorError, OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{run.id}/{name} cannot be read ({type(error).__name__}): it is damaged or of another version; "
            f"delete the folder {run.path} and run the command again: {run.command}"
        ) from error


def arrow(run: Run, name: str) -> pa.Table:
    """An Arrow IPC table, mapped into memory."""
    with reading(run, name) as path:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def parquet(run: Run, name: str) -> pa.Table:
    with reading(run, name) as path:
        return pq.read_table(path)


def columns(table: pa.Table) -> Columns:
    """Numpy arrays of a table, without copies where the type allows it. Null is NaN, -1 or False, by type."""
    return {name: _array(table[name].combine_chunks()) for name in table.column_names}


def _array(column: pa.Array) -> np.ndarray:
    if column.null_count and pa.types.is_integer(column.type):
        column = column.fill_null(-1)
    elif column.null_count and pa.types.is_boolean(column.type):
        column = column.fill_null(False)
    return column.to_numpy(zero_copy_only=False)


def summary(run: Run) -> dict[str, Any]:
    """The figures that the command printed; empty where there are none."""
    if not run.has("summary.json"):
        return {}
    with reading(run, "summary.json") as path:
        return json.loads(path.read_text())


def config(run: Run) -> dict[str, Any]:
    """The fields of the run's config."""
    with reading(run, CONFIG):
        return run.config.get("config", {})


def parents(run: Run) -> dict[str, str]:
    """Name to run id of what the run was made from."""
    with reading(run, CONFIG):
        return run.config.get("parents", {})


def tensor(run: Run, name: str, key: str) -> np.ndarray:
    """A whole tensor."""
    with reading(run, name) as path, safe_open(path, framework="numpy") as handle:
        return handle.get_tensor(key)


def row(run: Run, name: str, key: str, index: int) -> np.ndarray:
    """One row of a tensor, the rest left on disk."""
    with reading(run, name) as path, safe_open(path, framework="numpy") as handle:
        return handle.get_slice(key)[index : index + 1][0]


@dataclass(frozen=True)
class Vocabulary:
    """Token id to text, made from bytes once, by the stage that wrote it."""

    texts: pa.ChunkedArray
    special: np.ndarray

    def text(self, token: int) -> str:
        """The text; an id outside the vocabulary says so."""
        return self.texts[token].as_py() if 0 <= token < len(self.texts) else f"<{token}?>"


def vocabulary(run: Run) -> Vocabulary:
    table = arrow(run, "vocab.arrow")
    with reading(run, "vocab.arrow"):
        if not np.array_equal(table["id"].to_numpy(), np.arange(len(table))):
            raise ValueError("ids are not 0, 1, 2, ...")
        return Vocabulary(table["text"], table["special"].to_numpy(zero_copy_only=False))


LATENT_COLUMNS = (
    "latent",
    "n_active",
    "density",
    "max_act",
    "nearest",
    "nearest_cos",
    "top_token",
    "top_token_share",
    "logit_kurtosis",
    "dead",
)


def latents(run: Run) -> Columns:
    """The table of latents as arrays over the mapped file; raises InputError when a needed column is missing."""
    table = columns(arrow(run, "latents.arrow"))
    lacking = [name for name in LATENT_COLUMNS if name not in table]
    if lacking:
        raise InputError(
            f"{run.id}/latents.arrow has no column {', '.join(lacking)}: it is of another version; make it anew: {run.command}"
        )
    return table


def example_groups(run: Run) -> np.ndarray:
    """The first latent of each row group of the examples."""
    with reading(run, "examples.parquet") as path:
        meta = pq.ParquetFile(path, memory_map=True).metadata
        place = meta.schema.to_arrow_schema().names.index("latent")
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        firsts = [g.column(place).statistics.min if g.num_rows else np.iinfo(np.int64).max for g in groups]
        # An empty group begins where the next one does, so that a search from the right passes over it.
        return np.minimum.accumulate(np.array(firsts, np.int64)[::-1])[::-1]


def examples(run: Run, group: int) -> Columns:
    """One row group of the examples; the windows of activations as one matrix."""
    with reading(run, "examples.parquet") as path:
        table = pq.ParquetFile(path, memory_map=True).read_row_group(group)
        windows = table["acts"].combine_chunks()
        size = windows.type.list_size
        matrix = windows.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        return {**columns(table.drop_columns(["acts"])), "acts": matrix}


@dataclass(frozen=True)
class Progress:
    """How far an unfinished training is."""

    steps: int
    """Steps in all; 0 where the file does not say."""
    last: dict[str, float]
    """The newest row; empty before the first."""
    silent: float
    """Seconds since something was written."""
    config: dict[str, Any]


# More than two rows of metrics.
TAIL = 4096


def progress(folder: Path) -> Progress:
    """First and last lines of a training in progress. A last line that is still being written is skipped."""
    head, tail, written = b"", b"", 0.0
    with contextlib.suppress(OSError), (folder / "progress.jsonl").open("rb") as file:
        head = file.readline()
        written = (folder / "progress.jsonl").stat().st_mtime
        file.seek(max(len(head), file.seek(0, 2) - TAIL))
        tail = file.read()
    rows = [row for line in tail.splitlines() if "step" in (row := _object(line))]
    return Progress(int(_object(head).get("steps", 0)), rows[-1] if rows else {}, time.time() - written, _unsealed(folder))


def _unsealed(folder: Path) -> dict[str, Any]:
    """The fields of the config of a run in progress: written once, before its work begins."""
    with contextlib.suppress(OSError):
        return _object((folder / CONFIG).read_bytes()).get("config", {})
    return {}


def _object(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
        found = json.loads(line)
        return found if isinstance(found, dict) else {}
    return {}
