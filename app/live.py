"""Trainings in progress, one line each: a grid has many."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from app import families, readers, session
from app.readers import Progress
from interp.stages.base import duration
from interp.viz.html import Html, element, meter, number, percent, table
from interp.viz.scales import ordered

FIGURES = {"loss": ("loss", number), "fvu": ("FVU", number), "l0": ("L0", number), "dead_share": ("dead", percent)}
# After so many seconds without a row, a training is very slow or no longer running.
SILENT = 120.0


@st.fragment(run_every=5)
def draw() -> None:
    """The lines, read again every five seconds."""
    found = {folder: readers.progress(folder) for folder in session.running()}
    if not found:
        return
    with st.container(border=True):
        st.html(element("div", element("h3", "In progress"), element("p", _sentence(list(found.values()))), class_="panel"))
        heads = ("training", "progress", "left", *(name for name, _ in FIGURES.values()))
        st.html(table(heads, lines(found), numeric=range(3, 7), class_="grid live"))


def _sentence(found: Sequence[Progress]) -> str:
    """How many, and what they have in common."""
    runs = [families.fields(p.config) for p in found]
    apart = families.differing(runs)
    same = families.told(runs[0], [name for name in families.FIRST if name not in apart and runs[0].get(name)])
    many = "One training" if len(found) == 1 else f"{len(found)} trainings"
    silent = " A silent one may have been stopped: its command, given again, resumes it." if any(p.silent > SILENT for p in found) else ""
    return f"{many} ({same}), read again every five seconds.{silent}"


def lines(found: dict[Path, Progress]) -> list[Sequence[object]]:
    """A row each: what sets it apart from the others, how far it is, what it says last."""
    runs = {folder: families.fields(p.config) for folder, p in found.items()}
    names = families.differing(list(runs.values()))
    titles = {folder: families.told(run, names or ("architecture", "k", "sites")) for folder, run in runs.items()}
    order = ordered(titles.values(), families.KINDS)
    return [_line(titles[folder], folder, found[folder]) for folder in sorted(found, key=lambda folder: order.index(titles[folder]))]


def _line(name: str, folder: Path, p: Progress) -> Sequence[object]:
    step = p.last.get("step", 0)
    share = step / p.steps if p.steps else 0
    bar = meter(share, f"step {number(step)} of {number(p.steps)}" if step else "starting")
    shown = (write(p.last[key]) if key in p.last else "–" for key, (_, write) in FIGURES.items())
    return element("span", name, title=folder.name.removesuffix(".part")), bar, remaining(p), *shown


def remaining(p: Progress) -> Html | str:
    """Time that is left, from tokens a second and tokens a step; or that nothing has been heard for long."""
    if p.steps and p.silent > SILENT:
        return element("span", f"silent for {duration(p.silent)}", class_="badge warn")
    step, tokens, speed = (p.last.get(name, 0) for name in ("step", "tokens", "tokens_per_s"))
    if min(step, tokens, speed, p.steps) <= 0:
        return "–"
    return f"about {duration((p.steps - step) * tokens / step / speed)}"
