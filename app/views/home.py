"""Home: what has been made here, what can be opened, and the command for what is missing."""

import importlib.metadata

import streamlit as st

from app import readers, session, widgets
from app.address import anchor
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
# Of the figures of heads and circuit runs, those that say most.
FIGURES = (
    "n_heads",
    "top_previous_token",
    "top_induction",
    "top_duplicate_token",
    "logit_diff_clean",
    "accuracy",
    "pearson_heads",
    "top20_resample",
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
    _dictionaries(found)
    left, right = st.columns(2)
    with left:
        _others("heads", "Attention heads", "Scores of every head on known patterns, with stored attention patterns.", "heads")
    with right:
        _others(
            "circuit", "Circuits", "Which nodes a task needs: exact and estimated effects, and faithfulness of what is kept.", "circuit"
        )
    _everything(found)


def _flow(stages: dict[str, int]) -> None:
    steps = [
        element("span", f"{name} ", element("b", count), class_="on" if count else None)
        for name, count in zip(STEPS.values(), stages.values(), strict=True)
    ]
    arrow, beside = element("i", "→"), element("i", "·")
    st.html(element("div", join(steps[:4], arrow), beside, steps[4], beside, steps[5], class_="flow"))


def _dictionaries(found: list[Run]) -> None:
    trains = [run for run in found if run.stage == "train"]
    with widgets.panel(
        "Dictionaries", "Sparse dictionaries trained on one site of a model. Open the features, or compare the training curves."
    ):
        if not trains:
            widgets.missing("No dictionary has been trained yet.", "interp train --help")
            return
        st.html(element("div", *(_dictionary(run) for run in trains[:24]), class_="cards"))
        bare = next((run for run in trains if not session.children(run.id, "describe")), None)
        if bare:
            st.html(element("p", f"{bare.id} has no feature statistics yet. This command computes them:", class_="quiet"))
            st.code(f"interp describe {bare.id}", language="bash")


def _dictionary(run: Run) -> Html:
    config, figures = readers.config(run), session.read(readers.summary, run)
    figures = {**figures, **next((session.read(readers.summary, r) for r in session.children(run.id, "evaluate")), {})}
    described = next(iter(session.children(run.id, "describe")), None)
    links = [anchor("runs", "Curves", class_="go", sel=run.id)]
    if described:
        links += [
            anchor("explorer", "Explore features", class_="go", run=described.id),
            anchor("feature", "Feature", class_="go", run=described.id),
        ]
    shown = [("L0", "l0", number), ("FVU", "fvu", number), ("CE recovered", "ce_recovered_mean", percent), ("dead", "dead_share", percent)]
    rows = [(label, write(figures[name])) for label, name, write in shown if isinstance(figures.get(name), (int, float))]
    head = element("h4", f"{_model(run)} · {config.get('site', '?')}")
    return element(
        "div", head, element("p", widgets.architecture(run), " · ", run.id, class_="quiet"), facts(rows), join(links), class_="card"
    )


def _model(run: Run) -> str:
    try:
        return str(readers.config(run.parent("store")).get("model", "?"))
    except InputError:
        return "model unknown (its cache is gone)"


def _others(stage: str, title: str, sentence: str, page_name: str) -> None:
    with widgets.panel(title, sentence):
        found = session.all_runs(stage)
        if not found:
            widgets.missing(f"No {stage} run yet.", widgets.MAKERS[stage])
            return
        st.html(element("div", *(_card(run, page_name) for run in found[:8]), class_="cards"))


def _card(run: Run, page_name: str) -> Html:
    config = readers.config(run)
    task = config.get("task")
    name = task.get("kind", "") if isinstance(task, dict) else str(task or "")
    figures = session.read(readers.summary, run)
    known = [k for k in FIGURES if k in figures] or list(figures)
    plain = [(k.replace("_", " "), _short(figures[k])) for k in known if isinstance(figures[k], (int, float, str))][:4]
    title = element("h4", " · ".join(part for part in (str(config.get("model", "?")), name.upper()) if part))
    return element(
        "div", title, element("p", run.id, class_="quiet"), facts(plain), anchor(page_name, "Open", class_="go", run=run.id), class_="card"
    )


def _short(value: float | str) -> str:
    """A figure; of a list of heads with their scores, the first."""
    return number(value) if isinstance(value, (int, float)) else value.split(",")[0]


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
