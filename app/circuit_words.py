"""What a circuit run says in words: its ablations, and its figures in groups with their meaning. Its task and method it names itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.viz.html import number, percent

ABLATIONS = {
    "resample": "what they write on the corrupt prompt",
    "mean": "their mean at that position over other corrupt prompts",
    "mean_all": "their mean over all positions of other corrupt prompts",
    "zero": "nothing",
    "optimal": "a constant that was trained to do least harm",
}
KINDS = {
    "heads": "heads", "mlps": "MLPs", "q": "edges into queries", "k": "edges into keys", "v": "edges into values",
    "mlp": "edges into MLPs", "logits": "edges into the logits",
}  # fmt: skip
SERIES = {"method": "the method", "exact": "exact effects", "random": "random order"}
_OVER_LOG = "over the logarithm of the share, so that small circuits count as much as large ones."
_AREAS = {
    "cpr": (
        "CPR",
        "Area under faithfulness over the share of edges, or of heads and MLPs, that is kept: near 1 the behaviour is recovered at all "
        "sizes; higher is better (Mueller et al. 2025).",
    ),
    "cmd": ("CMD", "Area between faithfulness and 1 over the same share: 0 where circuits of all sizes act as the model; lower is better."),
    "cpr_log": ("CPR, log", f"CPR {_OVER_LOG}"),
    "cmd_log": ("CMD, log", f"CMD {_OVER_LOG}"),
}
FIXED: dict[str, tuple[str, str]] = {
    "pairs": ("pairs", "Clean prompts, each with its corrupt twin: one half scores, the other half measures the curves."),
    "metric_clean": ("metric, clean", "Mean of the task's metric over the clean prompts; its unit stands behind it."),
    "metric_corrupt": ("metric, corrupt", "The same, for the same answers, after the corrupt prompts."),
    "accuracy": ("accuracy", "Share of the clean prompts, 0 to 1, on which the right answer beats the wrong ones."),
    "audited": ("ablated exactly", "Nodes or edges whose true effect of ablation was measured, to hold the scores against it."),
    "pearson": ("Pearson r", "Correlation of the scores with the exact effects; 1 is a straight line."),
    "spearman": ("rank r", "Correlation of the ranks (Spearman), which one large effect alone cannot make high."),
    "same_sign": ("same sign", "Share of them on which score and exact effect agree whether ablation helps or hurts."),
}
GROUPS = ("Task", "Agreement with exact effects", "Faithfulness", "Areas under the curve")
_PEARSON = re.compile(rf"pearson_(?P<kind>{'|'.join(KINDS)})")
_SIZE = re.compile(r"(?:top(?P<heads>\d+)|edges(?P<percent>[\d.]+))_(?P<ablation>[a-z_]+)_(?P<series>method|exact|random)")
_AREA = re.compile(r"(?P<area>cpr_log|cmd_log|cpr|cmd)_(?P<series>method|exact|random)")


@dataclass(frozen=True)
class Figure:
    """A figure of a summary in words."""

    group: str
    title: str
    meaning: str
    series: str = ""
    """Of figures that are measured for several orders: method, exact or random."""

    @property
    def full_title(self) -> str:
        """The title where its group is not beside it, with the order where it is not that of the method."""
        what = f"faithfulness of {self.title}" if self.group == GROUPS[2] else self.title
        return what if self.series in ("", "method") else f"{what}, {SERIES[self.series]}"


def figure(name: str) -> Figure | None:
    """What a key of the summary stands for; None where it is no figure to be shown, such as the end of an interval."""
    if name in FIXED:
        group = GROUPS[0] if name in ("pairs", "metric_clean", "metric_corrupt", "accuracy") else GROUPS[1]
        return Figure(group, *FIXED[name])
    if found := _PEARSON.fullmatch(name):
        return Figure(GROUPS[1], f"r, {KINDS[found['kind']]}", f"Pearson r over {KINDS[found['kind']]} alone.")
    if found := _AREA.fullmatch(name):
        return Figure(GROUPS[3], *_AREAS[found["area"]], found["series"])
    if found := _SIZE.fullmatch(name):
        return _at_a_size(found)
    return None


def _at_a_size(found: re.Match[str]) -> Figure:
    """Faithfulness of the circuit of one size: its scope is part of its name."""
    if found["heads"]:
        size, rest = (
            f"{found['heads']} heads + all MLPs",
            f"the first {found['heads']} heads, every MLP running and the other heads ablated",
        )
    else:
        size, rest = f"{found['percent']} % of edges", f"the first {found['percent']} % of all edges, the others ablated"
    way = "" if found["ablation"] == "resample" else f", {found['ablation']}"
    meaning = (
        f"Faithfulness of {rest}: they write {ABLATIONS.get(found['ablation'], found['ablation'])}. 1 is the whole model, 0 none of it."
    )
    return Figure(GROUPS[2], f"{size}{way}", meaning, found["series"])


@dataclass(frozen=True)
class Row:
    """A figure, or the same one for several orders."""

    title: str
    meaning: str
    values: dict[str, str]
    """Series to what is written; the only one of a figure without series is the empty one."""


def grouped(summary: Mapping[str, Any], unit: str) -> dict[str, list[Row]]:
    """Group to its figures, those of several orders in one row; intervals stand behind their value, empty groups are left out."""
    out: dict[str, dict[str, Row]] = {}
    for name, value in summary.items():
        one = figure(name)
        if one is not None and isinstance(value, (int, float)) and not isinstance(value, bool):
            row = out.setdefault(one.group, {}).setdefault(one.title, Row(one.title, one.meaning, {}))
            row.values[one.series] = written(name, summary, unit)
    return {group: list(out[group].values()) for group in GROUPS if group in out}


def written(name: str, summary: Mapping[str, Any], unit: str) -> str:
    """A figure with its interval or its unit."""
    value, low, high = (summary.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return f"{two(value)} [{two(low)}, {two(high)}]"
    if name.startswith("metric_"):
        return f"{two(value)} {unit}"
    if name == "same_sign":
        return percent(value)
    return number(value) if isinstance(value, int) else two(value)


def p_value(value: float | None) -> str:
    """Three decimals without the zero in front; an en dash where there is none."""
    return "–" if value is None or value != value else "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def two(value: float | None) -> str:
    """Two decimals; an en dash where there is none."""
    return "–" if value is None or value != value else f"{round(value, 2) + 0.0:.2f}"
