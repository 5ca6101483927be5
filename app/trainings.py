"""Finished train runs with what the pages say about them: their words, their fields, and their newest figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app import families, readers, session
from app.dictionaries import Dictionary
from app.families import Fields
from interp.runs import Run
from interp.viz.scales import ordered
from interp.viz.tradeoff import Interval


@dataclass(frozen=True)
class Training:
    """A finished train run."""

    run: Run
    dictionary: Dictionary
    fields: Fields
    figures: Mapping[str, Interval] = field(default_factory=dict)
    """Metric to value, from the newest evaluation; what that does not hold, from the end of the training."""
    evaluation: Run | None = None
    described: Run | None = None

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def activations(self) -> str:
        """The cache run."""
        return str(self.fields[families.ACTIVATIONS])

    def held_out(self, *metrics: str) -> bool:
        """Whether these figures are of held-out tokens."""
        return self.evaluation is not None and not {m for m in metrics if m not in session.glance(evaluated, self.evaluation)}


def all_trainings() -> dict[str, Training]:
    """Every finished training by the name of its run, newest first; figures are left to `with_figures`."""
    found = {}
    for run in session.all_runs("train"):
        config, parents = session.glance(readers.config, run), session.glance(readers.parents, run)
        found[run.id] = Training(run, Dictionary.of(config), families.fields(config, parents.get("store", "")))
    return found


def with_figures(trainings: list[Training]) -> list[Training]:
    """The same trainings with their figures and the runs that were made from them."""
    evaluations, descriptions = session.newest_children("evaluate"), session.newest_children("describe")
    out = []
    for t in trainings:
        evaluation = evaluations.get(t.id)
        figures = session.glance(trained, t.run) | (session.glance(evaluated, evaluation) if evaluation else {})
        out.append(Training(t.run, t.dictionary, t.fields, figures, evaluation, descriptions.get(t.id)))
    return out


def in_order(trainings: list[Training]) -> list[Training]:
    """By their fields, numbers by size, architectures as in the legends."""
    names = families.differing([t.fields for t in trainings])
    texts = {t.id: {n: families.shown(t.fields[n]) for n in names if n in t.fields} for t in trainings}
    ranks = {n: ordered((text[n] for text in texts.values() if n in text), families.KINDS) for n in names}
    return sorted(trainings, key=lambda t: [ranks[n].index(texts[t.id][n]) if n in texts[t.id] else -1 for n in names])


def trained(run: Run) -> dict[str, Interval]:
    """The figures that a training ended with."""
    values = {k: float(v) for k, v in readers.summary(run).items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {name: Interval(v, v, v) for name, v in values.items()}


def evaluated(run: Run) -> dict[str, Interval]:
    """The figures of an evaluation; an end that was not measured is the figure itself."""
    rows = readers.parquet(run, "metrics.parquet").to_pylist()
    with readers.reading(run, "metrics.parquet"):
        return {
            r["name"]: Interval(r["value"], _or(r["low"], r["value"]), _or(r["high"], r["value"])) for r in rows if r["value"] is not None
        }


def _or(value: float | None, instead: float) -> float:
    return instead if value is None else value
