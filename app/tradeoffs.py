"""The panel of sparsity against fidelity: which curve is best, where it bends, and what has not been measured yet."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import definitions, encoding, families, session, widgets
from app.address import anchor, choice
from app.trainings import Training
from interp.viz import scales
from interp.viz.html import Html, element, number, table
from interp.viz.tradeoff import Axes, Course, Family, Point, tradeoff

AXES = ("fvu", "ce_recovered_mean", "ce_recovered_zero", "ce_recon", "kl", "dead_share")
LOGARITHMIC = ("fvu", "kl")
DEFINITION = (
    "A point is a dictionary, its bars 95 % intervals; a line joins those that differ only in how sparse they are, repeats averaged. "
    "Dotted: not beaten by another. Ring: the knee, where a line of three or more bends most (farthest from its chord in log-log)."
)
PANELS = (
    "Each panel is one target: FVU is a share of the variance of what is written there, so it does not compare across panels, and "
    "a transcoder, which predicts another site than it reads, never shares a line with an autoencoder."
)
HOLLOW = "Hollow points were not evaluated: their figures are from the end of their training, on tokens that they were trained on."


def check() -> None:
    """Raises InputError for bad parameters of the panel."""
    choice(session.query().get("y"), "y", AXES)


@st.fragment
@widgets.guarded
def draw(drawn: Sequence[Training], by: tuple[str, str]) -> None:
    """The panel; `by` are the fields of colour and symbol."""
    with widgets.panel("Sparsity against fidelity", DEFINITION):
        metric = st.selectbox("fidelity", AXES, key="y", bind="query-params", width=260)
        usable = [t for t in drawn if metric in t.figures and "l0" in t.figures and t.figures["l0"].value > 0]
        if usable:
            _picture(usable, metric, by)
        bare = [t.id for t in drawn if not t.held_out("l0", metric)]
        if bare:
            few = f"{len(bare)} of {len(drawn)} have no evaluation" if usable else f"No dictionary here has {definitions.title(metric)} yet"
            command = f"interp eval {' '.join(bare)}"
            widgets.missing(f"{few}. This command makes it, on tokens that they were not trained on:", command)
    session.remember("runs")


def _picture(usable: Sequence[Training], metric: str, by: tuple[str, str]) -> None:
    """The figure, what it says, and the same as a table."""
    better = "high" if metric in definitions.HIGHER_IS_BETTER else "low"
    sparsity = [name for name in families.differing([t.fields for t in usable]) if name in families.SPARSITY] or ["k"]
    found = [Family(title, target, tuple(_point(t, metric, sparsity, by) for t in group)) for title, target, group in grouped(usable)]
    log_y = metric in LOGARITHMIC and all(p.y.value > 0 for f in found for p in f.points)
    axes = Axes("L0 (active latents a token)", definitions.title(metric), better, log_y)
    figure = tradeoff(found, axes, session.theme(), encoding.colours(usable, by[0]), encoding.symbols(usable, by[1]))
    alt = f"{len(usable)} dictionaries in {len(found)} families by L0 and {metric}"
    event = st.plotly_chart(figure, key="pareto", on_select="rerun", selection_mode="points", alt=alt)
    _clicked(event, {t.id: t for t in usable})
    sentences = [f"{definitions.meaning(metric)} {better.title()}er is better."]
    sentences += [PANELS] if len({f.panel for f in found}) > 1 else []
    sentences += [HOLLOW] if not all(p.held_out for f in found for p in f.points) else []
    st.html(element("p", " ".join(sentences), class_="quiet"))
    st.html(_table(found, axes))


def grouped(usable: Sequence[Training]) -> list[tuple[str, str, list[Training]]]:
    """(title, target, members) of each family, the target with most dictionaries first."""
    out = []
    targets = Counter(map(panel, usable))
    for target in sorted(scales.ordered(targets), key=lambda target: -targets[target]):
        mine = [t for t in usable if panel(t) == target]
        names = families.differing([t.fields for t in mine])
        groups: dict[object, list[Training]] = {}
        for t in mine:
            groups.setdefault(families.family(t.fields, names), []).append(t)
        out += [(_title(members, names), target, members) for members in groups.values()]
    return out


def _title(members: Sequence[Training], names: Sequence[str]) -> str:
    """What a family shares and the others do not; its architecture where nothing sets it apart."""
    shared = families.family(members[0].fields, names)
    return " · ".join(families.said(name, value) for name, value in shared) or members[0].dictionary.kind


def panel(t: Training) -> str:
    """What it predicts from what."""
    return f"{t.dictionary.sites} ({'transcoder' if t.dictionary.transcoder else 'autoencoder'})"


def _point(t: Training, metric: str, sparsity: Sequence[str], by: tuple[str, str]) -> Point:
    shade, symbol = (encoding.value(t.fields, name) for name in by)
    level, told = families.told(t.fields, sparsity), f"{t.dictionary.name} · {families.told(t.fields, (*sparsity, *families.REPEATS))}"
    return Point(t.id, told, t.figures["l0"], t.figures[metric], level, shade, symbol, t.held_out("l0", metric))


def _clicked(event: Any, by_name: dict[str, Training]) -> None:
    """The dictionary that was clicked, and where to go from it."""
    for found in event["selection"]["points"][:1]:
        t = by_name.get(str((found.get("customdata") or [""])[0]))
        if t is None:
            continue
        goal = anchor("explorer", "explore its features", run=t.described.id) if t.described else element("code", f"interp describe {t.id}")
        st.html(element("p", "Chosen: ", anchor("runs", t.id, sel=t.id), f" {t.dictionary.name} · ", goal))


def _table(found: Sequence[Family], axes: Axes) -> Html:
    """The same in numbers: extent, best end and knee of each family."""
    rows, before = [], ""
    for f in found:
        course = Course.of(f, axes.better)
        best = course.y.min() if axes.better == "low" else course.y.max()
        extent = " – ".join(dict.fromkeys((number(float(course.x[0])), number(float(course.x[-1])))))
        rows.append((f.panel if f.panel != before else "", f.title, len(f.points), extent, number(float(best)), _bend(course, axes.y)))
        before = f.panel
    return table(("target", "family", "runs", "L0", f"best {axes.y}", "knee"), rows, numeric=[2, 3, 4])


def _bend(course: Course, title: str) -> str:
    i = course.knee
    if i is None:
        return "–" if len(set(course.x.tolist())) < 3 else "no bend"
    return f"{course.levels[i]}: L0 {number(float(course.x[i]))}, {title} {number(float(course.y[i]))}"
