"""What every stage is: a frozen dataclass whose fields are its config and its command line, executed into one run folder."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from rich.console import Console
from rich.table import Table

from interp import runs
from interp.runs import Draft, Run
from interp.tables import to_json
from saes.errors import InputError


@dataclasses.dataclass(frozen=True)
class Context:
    """What every command shares and no result depends on."""

    root: Path = Path("data/runs")
    """Folder of the run folders."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N. auto takes a GPU when there is one."""
    plan: bool = False
    """Print the cost and stop."""
    json: bool = False
    """Print the result as one JSON object on the last line."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a stage, said before it starts."""

    lines: dict[str, str]
    """What to print, label to text, without the three below."""
    disk: int
    """Bytes that the run folder will take."""
    memory: int
    """Peak bytes of memory, model included."""
    seconds: float
    """Expected duration."""


@runtime_checkable
class Stage(Protocol):
    """A stage: a frozen dataclass with these beside its fields.

    A stage may also list in `FREE` the fields that no result depends on: they stay out of the run's name.
    """

    NAME: ClassVar[str]
    """Name of the subcommand and of the run folders."""
    PARENTS: ClassVar[dict[str, str]]
    """Fields that hold run names, each with the stage that it must come from."""

    def identity(self, ctx: Context) -> dict[str, Any]:
        """What the result depends on beyond the fields: revisions of model and text."""
        ...

    def plan(self, ctx: Context) -> Plan:
        """Estimate the cost, by a probe where that is short."""
        ...

    def work(self, draft: Draft, ctx: Context) -> None:
        """Write the run's files, resuming what is there, and `summary.json`: the figures to print at the end, flat."""
        ...


def execute(stage: Stage, ctx: Context, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> Run | None:
    """Find the run of this work, or plan it and make it. None when only the plan was asked for."""
    config, parents = resolved(stage, ctx)
    name = runs.run_id(stage.NAME, config, parents)
    if (found := runs.find_run(ctx.root, name)) is not None:
        say(f"{name} is there already: nothing to do")
        return found
    plan = stage.plan(ctx)
    show_plan(f"{stage.NAME} → {ctx.root / name}", plan)
    if ctx.plan:
        return None
    check_disk(ctx.root, plan.disk)
    with runs.draft(ctx.root, stage.NAME, config, parents) as work:
        stage.work(work, ctx)
        return work.seal()


def resolved(stage: Stage, ctx: Context) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and parents as they are hashed and saved; raises InputError for a parent of the wrong kind."""
    fields = {name: value for name, value in to_json(stage).items() if name not in getattr(stage, "FREE", ())}
    parents = {name: runs.open_run(ctx.root, fields.pop(name), kind).id for name, kind in stage.PARENTS.items()}
    return {**fields, **to_json(stage.identity(ctx))}, parents


def show_plan(title: str, plan: Plan) -> None:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    rows = {**plan.lines, "disk": size(plan.disk), "memory": size(plan.memory), "time": duration(plan.seconds)}
    for label, text in rows.items():
        table.add_row(f"  {label}", text)
    Console(stderr=True).print(table)


def check_disk(root: Path, needed: int) -> None:
    """Refuse work that will not fit, with a twentieth to spare."""
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if needed * 1.05 > free:
        raise InputError(
            f"{root} has {size(free)} free and this needs {size(needed)}; free some space, name another --root, or ask for less"
        )


def size(n_bytes: int | float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"


def duration(seconds: int | float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
