"""Parts shared by the pages: header, run picker, provenance, panel, empty states."""

import contextlib
import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec

import numpy as np
import streamlit as st

from app import readers, session
from app.address import anchor
from app.dictionaries import Dictionary
from interp import runs
from interp.runs import MANIFEST, Run
from interp.viz.colours import stylesheet
from interp.viz.html import Html, element, facts, join, safe, table
from interp.viz.strip import Token, strip
from saes.errors import InputError

P = ParamSpec("P")
STYLE = Path(__file__).with_name("style.css")
EXPLORERS = {
    "train": "runs", "describe": "explorer", "heads": "heads", "circuit": "circuit", "compare": "compare",
    "latents": "latents", "steer": "steering",
}  # fmt: skip
MAKERS = {
    "cache": "interp cache --help", "train": "interp demo", "describe": "interp describe train-…", "evaluate": "interp eval train-…",
    "heads": "interp heads --model smollm2", "steer": "interp steer train-…", "latents": "interp latents train-… ioi",
    "circuit": "interp circuit ioi --model smollm2", "compare": "interp compare circuit-… circuit-…",
}  # fmt: skip


def draw_style() -> None:
    """The one stylesheet and the colours of the theme."""
    st.html(f"<style>{STYLE.read_text()}\n{stylesheet(session.theme())}</style>")


def guarded(draw: Callable[P, None]) -> Callable[P, None]:
    """Bad input said in one sentence instead of a traceback. A fragment needs its own: its errors do not reach the page."""

    @functools.wraps(draw)
    def safely(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except InputError as error:
            problem(error)
            alternatives()

    return safely


def page(name: str, title: str, sentence: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """The frame of a page: its title, its marker for tests, an address of tolerable length, the parameters it was left with."""

    def framed(draw: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(draw)
        def drawn() -> None:
            st.html(element("header", element("h1", title), element("p", sentence), class_="page", data_page=name))
            session.query()
            session.restore(name)
            draw()

        return guarded(drawn)

    return framed


def problem(error: InputError) -> None:
    st.html(element("div", element("b", "This cannot be shown. "), error, class_="problem", role="alert"))


def alternatives() -> None:
    """Where to go from a page that cannot be shown."""
    found = [run for run in session.all_runs() if run.stage in EXPLORERS] if session.root().is_dir() else []
    links = [anchor(EXPLORERS[run.stage], run.id, **{"sel" if run.stage == "train" else "run": run.id}) for run in found]
    st.html(element("p", "Runs that can be opened: ", join(links[:12], " · ") if links else "none yet", class_="quiet"))


def missing(sentence: str, command: str) -> None:
    """An empty state: what is not there, and the command that makes it, to copy."""
    st.html(element("div", sentence, class_="missing"))
    st.code(command, language="bash")


def lacks(run: Run, file: str, what: str) -> bool:
    """Draw the command that makes a file of a describe run where it is not there; true when it did."""
    if run.has(file):
        return False
    missing(f"{run.id} holds no {what}. Delete its folder, then this command makes it anew:", run.command)
    return True


def legend(entries: Iterable[tuple[str, str]]) -> None:
    """Small print that says what the names above it mean; names without a meaning are left out."""
    words = [Html(f"{element('b', name)} {safe(meaning.removesuffix('.'))}") for name, meaning in entries if meaning]
    st.html(element("p", join(words, " · "), class_="legend"))


@contextlib.contextmanager
def panel(title: str, definition: str = "", source: Run | None = None, file: str = "") -> Iterator[None]:
    """A framed part of a page with its definition and its source; a problem inside stays inside."""
    with st.container(border=True):
        origin = f"{source.id}{'/' if file else ''}{file}" if source else ""
        st.html(element("div", element("h3", title), element("p", definition), class_="panel"))
        try:
            yield
        except InputError as error:
            problem(error)
        if source:
            st.html(element("p", "from ", element("code", origin), class_="source"))


def opened(stage: str) -> Run | None:
    """The run of a page, picked at its head beside where it comes from; None, and the empty state drawn, when there is none."""
    if no_runs(stage):
        return None
    left, right = st.columns((5, 1), vertical_alignment="center")
    with left:
        run = pick_run(stage)
    with right:
        provenance(run)
    return run


def no_runs(stage: str) -> bool:
    """Draw the empty state when there is no run of a stage; true when it did."""
    if session.all_runs(stage):
        return False
    where = session.root()
    missing(
        f"There is no {stage} run under {where}. This command makes one; `interp demo` makes a whole family on a real model.", MAKERS[stage]
    )
    return True


def pick_run(stage: str) -> Run:
    """The run that the address names, checked first; without one the newest. The picker says it in words and writes the address."""
    names = [run.id for run in session.all_runs(stage)]
    asked = session.query().get("run")
    run = session.open_run(asked if asked is not None else names[0], stage)
    st.query_params["run"] = st.session_state["_run"] = run.id
    st.selectbox("run", names, key="_run", format_func=_title, on_change=_picked, label_visibility="collapsed")
    return run


def _picked() -> None:
    st.query_params["run"] = st.session_state["_run"]


def _title(name: str) -> str:
    """A run in words, its name last."""
    found = runs.find_run(session.root(), name)
    words = ""
    with contextlib.suppress(InputError):
        words = title(found) if found else ""
    return f"{words} · {name}" if words else name


def title(run: Run) -> str:
    """What a run is about; raises InputError when a parent is gone."""
    if run.stage == "describe":
        train = run.parent("dictionary")
        return f"{session.glance(readers.config, session.tokens_run(run)).get('model', '?')} · {dictionary(train).name}"
    if run.stage == "compare":
        return " against ".join(title(run.parent(side)) for side in ("a", "b"))
    config = session.glance(readers.config, run)
    if run.stage == "latents":
        model = session.glance(readers.summary, run).get("model", "?")
        return f"{model} · {dictionary(run.parent('dictionary')).name} · {task_title(task(run))}"
    if run.stage == "steer":
        model = session.glance(readers.summary, run).get("model", "?")
        return f"{model} · {dictionary(run.parent('dictionary')).name} · {', '.join(one.partition('=')[0] for one in config['topics'])}"
    return " · ".join(part for part in (str(config.get("model", "?")), task_title(task(run)), method(run)) if part)


def task_title(name: str) -> str:
    """A task as it is called in titles: IOI; a file of prompts by its name."""
    return Path(name).name if "." in name else name.replace("_", " ").upper()


def method(run: Run) -> str:
    """The method of a circuit run, as its summary names it; nothing for other runs."""
    return str(session.glance(readers.summary, run).get("method", "")) if run.stage == "circuit" else ""


def task(run: Run) -> str:
    """Name of the task of a circuit run; nothing for other runs."""
    given = session.glance(readers.config, run).get("task")
    return str(given.get("kind", "")) if isinstance(given, dict) else str(given or "")


def lineage(run: Run) -> list[tuple[Run | None, str, bool]]:
    """The run and its ancestors as (run, name, stale): stale when a parent's manifest is not the one that was read."""
    rows: list[tuple[Run | None, str, bool]] = [(run, run.id, False)]
    config = run.config
    for name, parent in config.get("parents", {}).items():
        found = runs.find_run(run.path.parent, parent)
        seen = config.get("provenance", {}).get("parents", {}).get(name)
        if found is None:
            rows.append((None, parent, True))
            continue
        above = lineage(found)
        rows += [(found, parent, seen is not None and runs.sha256(found.path / MANIFEST) != seen), *above[1:]]
    return rows


def provenance(run: Run, title: str = "Provenance") -> None:
    """Everything that the page was computed from, behind one button; the button says when a parent has changed."""
    rows = lineage(run)
    stale = any(is_stale for _, _, is_stale in rows)
    with st.popover("⚠ parent changed" if stale else title, width="stretch"):
        body = [(name, _age(found), _command(found), "changed or gone" if is_stale else "matches") for found, name, is_stale in rows]
        st.html(table(("run", "made", "command", "parent hash"), body))
        st.html(element("h4", "Configuration"))
        flat = flatten(readers.config(run))
        st.html(table(("field", "value"), [(element("code", k), v) for k, v in flat.items()]))
        versions = run.config.get("provenance", {}).get("versions", {})
        st.html(element("p", " · ".join(f"{k} {v}" for k, v in versions.items()), class_="quiet"))
        st.code(
            f"from pathlib import Path\nfrom interp.runs import open_run\nrun = open_run(Path({str(session.root())!r}), {run.id!r})",
            language="python",
        )


def _age(run: Run | None) -> str:
    return age(run) if run else "–"


def _command(run: Run | None) -> Html:
    return element("code", run.command) if run else safe("–")


def age(run: Run) -> str:
    """How long ago the run was sealed."""
    made = datetime.datetime.fromtimestamp((run.path / MANIFEST).stat().st_mtime, datetime.UTC)
    seconds = (datetime.datetime.now(datetime.UTC) - made).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def flatten(value: object, name: str = "") -> dict[str, str]:
    """Nested JSON as dotted names and texts."""
    if isinstance(value, dict):
        inner = [flatten(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
        return {key: text for part in inner for key, text in part.items()}
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def dictionary(train: Run) -> Dictionary:
    """What a train run is about, from its config."""
    return Dictionary.of(session.glance(readers.config, train))


def subject(describe: Run) -> Html:
    """What a describe run is about: model, dictionary with its sites, text."""
    cache = session.glance(readers.config, session.tokens_run(describe))
    rows = [("model", cache.get("model")), ("dictionary", dictionary(describe.parent("dictionary")).name), ("text", cache.get("text"))]
    return facts([(k, v if v is not None else "–") for k, v in rows])


def window(texts: Sequence[str], acts: np.ndarray, scale: float, seq: int, start: int, here: int | None = None) -> Html:
    """A token strip of a window of the corpus, the token at position `here` outlined."""
    tokens = [Token(t, float(a), f"{seq}:{start + i}", start + i == here) for i, (t, a) in enumerate(zip(texts, acts, strict=True))]
    return strip(tokens, scale)
