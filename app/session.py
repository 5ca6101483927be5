"""The state of the app: the root folder, the theme, what was read before, and which run the address names.

Caches are shared by all visitors and keyed by the folder and its manifest, so a link to another page costs no second read.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import streamlit as st
from streamlit.errors import StreamlitAPIException

from app import address, readers
from interp import runs
from interp.runs import MANIFEST, Run
from interp.viz.colours import Palette, palette
from saes.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
# The parent that holds the tokens, from a describe run up.
LINEAGE = ("dictionary", "store")


def root() -> Path:
    """The folder of the run folders, from `-- --root FOLDER`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--root", type=Path, default=Path("data/runs"))
    return parser.parse_known_args(sys.argv[1:])[0].root.resolve()


def theme() -> Palette:
    """The palette of the visitor's theme."""
    return palette(st.context.theme.type)


def all_runs(stage: str | None = None) -> list[Run]:
    """Finished runs, newest first. Folders that lead out of the root are not followed."""
    folder = root()
    return [run for run in runs.list_runs(folder, stage) if run.path.resolve().is_relative_to(folder)]


def children(parent: str, stage: str, name: str = "dictionary") -> list[Run]:
    """The runs of a stage that were made from `parent`, newest first."""
    return [run for run in all_runs(stage) if glance(readers.parents, run).get(name) == parent]


def newest_children(stage: str, name: str = "dictionary") -> dict[str, Run]:
    """Parent to the newest run of a stage that was made from it: what `children` finds, for all parents at once."""
    return {parent: run for run in reversed(all_runs(stage)) if (parent := glance(readers.parents, run).get(name))}


def running() -> list[Path]:
    """Trainings in progress: the one kind of unfinished folder that the app looks into."""
    return sorted(
        p for p in root().glob("train-*.part") if re.fullmatch(r"train-[0-9a-f]{8}\.part", p.name) and (p / "progress.jsonl").is_file()
    )


@st.cache_resource(max_entries=256, show_spinner=False)
def _kept(name: str, folder: str, stamp: int, arguments: tuple[Any, ...], _reader: Callable[..., Any]) -> Any:
    return _reader(Run(Path(folder)), *arguments)


@st.cache_resource(max_entries=10_000, show_spinner=False)
def _kept_small(name: str, folder: str, stamp: int, _reader: Callable[..., Any]) -> Any:
    return _reader(Run(Path(folder)))


def read(reader: Callable[..., T], run: Run, *arguments: Any) -> T:
    """What `reader(run, *arguments)` returns, kept for the next time. Callers do not write into it."""
    return _kept(reader.__qualname__, str(run.path), (run.path / MANIFEST).stat().st_mtime_ns, arguments, reader)


def glance(reader: Callable[[Run], T], run: Run) -> T:
    """`read` for what is small, such as configs: that of thousands of runs is kept."""
    return _kept_small(reader.__qualname__, str(run.path), (run.path / MANIFEST).stat().st_mtime_ns, reader)


def open_run(name: str, stage: str | None = None) -> Run:
    """The run of that name; raises InputError for a name that is unknown, unfinished, of another stage or schema."""
    run = runs.open_run(root(), name, stage)
    if not run.path.resolve().is_relative_to(root()):
        raise InputError(f"{name} leads out of {root()}; run folders lie inside the root")
    return run


def tokens_run(describe: Run) -> Run:
    """The cache that a describe run took its tokens from; raises InputError when a parent is gone."""
    run = describe
    for name in LINEAGE:
        run = run.parent(name)
    return run


def example_rows(run: Run, latent: int) -> readers.Columns:
    """The stored examples of one latent, from its row group alone."""
    firsts = read(readers.example_groups, run)
    group = int(np.searchsorted(firsts, latent, "right")) - 1
    if group < 0:
        return {}
    table = read(readers.examples, run, group)
    mine = table["latent"] == latent
    return {name: values[mine] for name, values in table.items()}


def query() -> dict[str, str]:
    """The parameters of the address, the last of each name; raises InputError when there is too much of it."""
    address.check_length(parameters())
    return st.query_params.to_dict()


def restore(page: str) -> None:
    """Opened from the menu, a page returns to where it was left."""
    last = st.session_state.setdefault("_last", {})
    if not st.query_params and last.get(page):
        st.query_params.from_dict(last[page])
        st.rerun()
    remember(page)


def remember(page: str) -> None:
    """Keep the parameters of a page for `restore`."""
    st.session_state.setdefault("_last", {})[page] = parameters()


def parameters() -> dict[str, list[str]]:
    """All values of all parameters of the address."""
    return {name: st.query_params.get_all(name) for name in st.query_params}


def clicked(event: Any) -> int | None:
    """Index of the cell that was clicked in an ECharts grid, in drawing order."""
    chosen = event["selection"]["selected"] if event and "selection" in event else []
    return int(chosen[0]["data_indices"][0]) if chosen and chosen[0]["data_indices"] else None


def default(name: str, value: Any) -> None:
    """Give a bound widget a value where the address has none, and write it there, so that every view can be cited."""
    if name not in st.query_params:
        st.session_state[name] = value
        # Once the widget is on the page, only the widget may write its parameter.
        with contextlib.suppress(StreamlitAPIException):
            st.query_params[name] = value


def step(name: str, order: Sequence[Any], by: int) -> None:
    """Move a bound widget along a list, round its ends (a callback: it runs before the widgets do)."""
    values = list(order)
    current = st.session_state.get(name)
    place = values.index(current) + by if current in values else 0
    st.session_state[name] = values[place % len(values)]
