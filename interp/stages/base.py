"""What every stage is: a frozen dataclass whose fields are its config and its command line, executed into one run folder."""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
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
    shrink: str = ""
    """What to make smaller where the memory does not suffice."""


@runtime_checkable
class Stage(Protocol):
    """A stage: a frozen dataclass with these beside its fields.

    A stage may also list in `FREE` the fields that no result depends on: they stay out of the run's name. It may offer `then(run, ctx)`,
    which makes further runs of the one that is done, for the stages that read those.
    """

    NAME: ClassVar[str]
    """Name of the subcommand and of the run folders."""
    PARENTS: ClassVar[dict[str, str]]
    """Fields that hold run names, each with the stage that it must come from. A field that is None names none."""

    def identity(self, ctx: Context) -> dict[str, Any]:
        """What the result depends on beyond the fields: revisions of model and text."""
        ...

    def plan(self, ctx: Context) -> Plan:
        """Estimate the cost, by a probe where that is short."""
        ...

    def work(self, draft: Draft, ctx: Context) -> None:
        """Write the run's files, resuming what is there, and `summary.json`: the figures to print at the end, flat."""
        ...


@runtime_checkable
class Together(Protocol):
    """A stage several of which are cheaper together: one reading, one pass of the model. Results are those of each alone."""

    @staticmethod
    def plan_all(stages: Sequence[Any], ctx: Context) -> Plan:
        """Estimate the cost of all."""
        ...

    @staticmethod
    def work_all(stages: Sequence[Any], drafts: Sequence[Draft], ctx: Context, done: Callable[[Draft], object]) -> None:
        """Write the files of all; `done` is called with each draft as soon as its files are complete."""
        ...


def execute(stage: Stage, ctx: Context, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> Run | None:
    """Find the run of this work, or plan it and make it. None when only the plan was asked for."""
    found = execute_all([stage], ctx, say=say)
    return None if found is None else found[0]


def execute_all(
    stages: Sequence[Stage],
    ctx: Context,
    commands: Sequence[str | None] | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> list[Run] | None:
    """Find the runs of all this work, and make those that are missing together. None when only the plan was asked for.

    `commands` are the command lines that would make each alone. Raises InputError for several stages of a kind that works on one at a time.
    """
    works = [_Item(stage, command, *resolved(stage, ctx)) for stage, command in zip(stages, commands or [None] * len(stages), strict=True)]
    todo = {work.id: work for work in works if runs.find_run(ctx.root, work.id) is None}
    for name in sorted({work.id for work in works} - set(todo)):
        say(f"{name} is there already: nothing to do")
    if todo and not _make(list(todo.values()), ctx):
        return None
    return [runs.open_run(ctx.root, work.id) for work in works]


@dataclasses.dataclass(frozen=True)
class _Item:
    """A stage with its resolved config."""

    stage: Stage
    command: str | None
    config: dict[str, Any]
    parents: dict[str, str]

    @property
    def id(self) -> str:
        return runs.run_id(self.stage.NAME, self.config, self.parents)


def _make(works: list[_Item], ctx: Context) -> bool:
    """Plan and do the work; False when only the plan was asked for."""
    first, stages = works[0].stage, [work.stage for work in works]
    together = isinstance(first, Together)
    if len(works) > 1 and not together:
        raise InputError(f"interp {first.NAME} does one thing at a time: give a single value for each option")
    plan = first.plan_all(stages, ctx) if together else first.plan(ctx)
    show_plan("\n".join(f"{work.stage.NAME} → {ctx.root / work.id}" for work in works), plan)
    check_memory(plan)
    if ctx.plan:
        return False
    check_disk(ctx.root, plan.disk - sum(written_bytes(ctx.root / f"{work.id}.part") for work in works))
    with contextlib.ExitStack() as stack:
        drafts = [stack.enter_context(runs.draft(ctx.root, w.stage.NAME, w.config, w.parents, w.command)) for w in works]
        if together:
            first.work_all(stages, drafts, ctx, lambda draft: draft.seal())
        else:
            first.work(drafts[0], ctx)
            drafts[0].seal()
    return True


def resolved(stage: Stage, ctx: Context) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and parents as they are hashed and saved; raises InputError for a parent of the wrong kind."""
    fields = {name: value for name, value in to_json(stage).items() if name not in getattr(stage, "FREE", ())}
    given = {name: fields.pop(name) for name in stage.PARENTS}
    parents = {name: runs.open_run(ctx.root, given[name], kind).id for name, kind in stage.PARENTS.items() if given[name] is not None}
    return {**fields, **to_json(stage.identity(ctx))}, parents


def check_memory(plan: Plan) -> None:
    """Refuse work that will not fit in what is free, where the system says how much that is."""
    free = _free_memory()
    if free is not None and plan.memory > free:
        less = plan.shrink or "the size of the work"
        raise InputError(f"this needs {size(plan.memory)} of memory and {size(free)} is free; make smaller: {less}")


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


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


def written_bytes(folder: Path) -> int:
    """What an interrupted run has on the disk already."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
