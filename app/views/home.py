"""Home: what has been made here, what can be opened, and the command for what is missing."""

import importlib.metadata
from collections.abc import Callable, Sequence

import streamlit as st

from app import circuit_words, circuits, definitions, families, readers, session, widgets
from app.address import anchor
from app.trainings import Training, all_trainings, in_order, with_figures
from interp.runs import Run
from interp.viz.html import Html, element, facts, join, number, percent, table
from saes.errors import InputError

STEPS = {
    "cache": "activations",
    "train": "dictionary",
    "evaluate": "evaluation",
    "describe": "features",
    "heads": "heads",
    "circuit": "circuit",
}
FURTHER = {"latents": "latents of a task", "compare": "two circuits", "steer": "steering"}
# Of the figures of heads and circuit runs, those that say most.
FIGURES = (
    "n_heads",
    "top_previous_token",
    "top_induction",
    "top_duplicate_token",
    "accuracy",
    "pearson",
    "top20_resample_method",
    "top20_resample_random",
    "edges1_resample_method",
    "edges1_resample_random",
)
# Cards of dictionaries, and ways from one of them to features.
CARDS, MOST_LINKS = 24, 6
SHOWN = (
    ("L0", "l0", number),
    ("FVU", "fvu", number),
    ("CE recovered (zero)", "ce_recovered_zero", percent),
    ("dead", "dead_share", percent),
)
PACKAGES = ("torch", "transformer-lens", "transformers", "streamlit", "plotly", "pyarrow", "safetensors")


@widgets.page(
    "home",
    "Interpretability workbench",
    "Train dictionaries on a model, explore their features and heads, find the circuit behind a task.",
)
def page() -> None:
    """Draw the page."""
    found = session.all_runs()
    stages = {stage: sum(run.stage == stage for run in found) for stage in STEPS}
    _flow(stages)
    if not found:
        widgets.missing(
            f"No runs under {session.root()} yet. This command makes a whole family of them on a real model, and narrates it.",
            "interp demo",
        )
        return
    _dictionaries()
    left, right = st.columns(2)
    with left:
        _others("heads", "Attention heads", "Scores of every head on known patterns, with stored attention patterns.", "heads")
    with right:
        _others("circuit", "Circuits", "Which heads, MLPs or edges a task needs, and how faithful what is kept is.", "circuit")
    _further()
    _everything(found)


def _flow(stages: dict[str, int]) -> None:
    steps = [
        element("span", f"{name} ", element("b", count), class_="on" if count else None)
        for name, count in zip(STEPS.values(), stages.values(), strict=True)
    ]
    arrow, beside = element("i", "→"), element("i", "·")
    st.html(element("div", join(steps[:4], arrow), beside, steps[4], beside, steps[5], class_="flow"))


def _dictionaries() -> None:
    """A card for each family of trainings: those that differ only in how sparse they are, and in seeds."""
    trained = with_figures(list(all_trainings().values()))
    definition = (
        "Sparse dictionaries, those that differ only in sparsity or seed on one card. Open the features, or compare the training curves."
    )
    with widgets.panel("Dictionaries", definition):
        if not trained:
            widgets.missing("No dictionary has been trained yet.", "interp train --help")
            return
        groups: dict[object, list[Training]] = {}
        for t in trained:
            groups.setdefault(families.family(t.fields, t.fields), []).append(t)
        st.html(element("div", *(_dictionary(in_order(members)) for members in list(groups.values())[:CARDS]), class_="cards"))
        widgets.legend([definitions.SITE, *((label, definitions.meaning(name)) for label, name, _ in SHOWN)])
        if len(groups) > CARDS:
            more = f"{len(groups) - CARDS} older families are not shown: "
            st.html(element("p", more, anchor("runs", "all are among the runs"), ".", class_="quiet"))
        bare = next((t for t in trained if t.described is None), None)
        if bare:
            st.html(element("p", f"{bare.id} has no feature statistics yet. This command computes them:", class_="quiet"))
            st.code(f"interp describe {bare.id}", language="bash")


def _dictionary(members: list[Training]) -> Html:
    """A family: what it is, the extent of its figures, and where to go."""
    first, names = members[0], families.differing([t.fields for t in members])
    words = first.dictionary
    title = element("h4", f"{_model(first.run)} · {words.sites}{' + skip' if words.skip else ''}")
    k = sorted({t.dictionary.k for t in members if t.dictionary.k is not None})
    parts = [words.kind + (f" k={', '.join(map(str, k))}" if k else ""), words.size]
    parts += [f"{len({t.fields['seed'] for t in members})} seeds"] if "seed" in names else []
    parts += [first.id if len(members) == 1 else f"{len(members)} runs"]
    rows = [(label, _extent([t.figures[name].value for t in members if name in t.figures], write)) for label, name, write in SHOWN]
    rows = [(label, text) for label, text in rows if text]
    links = [anchor("runs", "Curves", class_="go", sel=first.id, vary=names)]
    open_ = [t for t in members if t.described]
    links += [anchor("explorer", _features(t, names), class_="go", run=t.described.id) for t in open_[:MOST_LINKS] if t.described]
    return element("div", title, element("p", " · ".join(parts), class_="quiet"), facts(rows), join(links), class_="card")


def _features(t: Training, names: Sequence[str]) -> str:
    """What the way to the features of a member is called."""
    return f"Explore {t.dictionary.noun}s" + (f", {families.told(t.fields, names)}" if names else "")


def _extent(values: list[float], write: Callable[[float], str]) -> str:
    """One value, or the smallest and the largest."""
    return " – ".join(dict.fromkeys((write(min(values)), write(max(values))))) if values else ""


def _model(run: Run) -> str:
    try:
        return str(session.glance(readers.config, run.parent("store")).get("model", "?"))
    except InputError:
        return "model unknown (its cache is gone)"


def _others(stage: str, title: str, sentence: str, page_name: str) -> None:
    with widgets.panel(title, sentence):
        found = session.all_runs(stage)
        if not found:
            widgets.missing(f"No {stage} run yet.", widgets.MAKERS[stage])
            return
        st.html(element("div", *(_card(run, page_name) for run in found[:8]), class_="cards"))
        shown = {name for run in found[:8] for name in _shown(run)}
        tasks = {widgets.task(run): session.read(readers.summary, run).get("about", {}).get("task", "") for run in found[:8]}
        named = [(widgets.task_title(name), said) for name, said in tasks.items() if said]
        widgets.legend(
            named
            + [(definitions.title(name), definitions.meaning(name)) for name in FIGURES if name in shown and not name.endswith("_random")]
        )


def _further() -> None:
    """Runs that start from those above: a line each."""
    definition = "Which latents carry a task, two circuits held against each other, text generated under a push."
    with widgets.panel("Latents of a task, comparisons, steering", definition):
        rows = []
        for stage, what in FURTHER.items():
            ways = [anchor(widgets.EXPLORERS[stage], widgets.title(run), run=run.id) for run in session.all_runs(stage)[:8]]
            rows.append((what, join(ways, " · ") if ways else element("code", widgets.MAKERS[stage])))
        st.html(table(("", "runs, or the command that makes one"), rows))


def _card(run: Run, page_name: str) -> Html:
    plain = [(definitions.title(k), _written(run, k)) for k in _shown(run)]
    title, way = element("h4", widgets.title(run)), anchor(page_name, "Open", class_="go", run=run.id)
    return element("div", title, element("p", run.id, class_="quiet"), facts(plain), way, class_="card")


def _shown(run: Run) -> list[str]:
    """The figures of a card: the four that say most."""
    figures = session.read(readers.summary, run)
    known = [k for k in FIGURES if k in figures] or list(figures)
    return [k for k in known if isinstance(figures[k], (int, float, str))][:4]


def _written(run: Run, name: str) -> str:
    """A figure of a run; that of a circuit with its interval."""
    figures = session.read(readers.summary, run)
    if circuit_words.figure(name) is None:
        return _short(figures[name])
    return circuit_words.written(name, figures, circuits.about(run)["metric_unit"])


def _short(value: float | str) -> str:
    """A figure; of a list of heads with their scores, the first: `18.6 (0.88)`."""
    if isinstance(value, (int, float)):
        return number(value)
    head, _, score = value.split(",")[0].partition(" ")
    return f"{head} ({score})" if score else head


def _everything(found: list[Run]) -> None:
    with st.expander(f"All {len(found)} runs, and the installed packages"):
        rows = []
        for run in found:
            files = run.manifest
            size = sum(entry["size"] for entry in files.values())
            rows.append(
                (
                    element("code", run.id),
                    widgets.age(run),
                    f"{number(size / 1e6)} MB",
                    ", ".join(sorted(files)),
                    element("code", run.command),
                )
            )
        st.html(table(("run", "made", "size", "files", "command"), rows, numeric=[2]))
        st.html(element("p", " · ".join(f"{name} {_version(name)}" for name in PACKAGES), class_="quiet"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
