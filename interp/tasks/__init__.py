"""Tasks by name. A new task is its file, its name in the union and its line in the table.

A compiled model brings its own task, which needs that model and so has no line: `CompiledTask`.
"""

from interp.tasks.base import Pairs, Task, logit_difference
from interp.tasks.compiled import CompiledTask
from interp.tasks.ioi import Corruption, Ioi
from saes.errors import InputError

TASKS: dict[str, type[Ioi]] = {Ioi.NAME: Ioi}

__all__ = ["TASKS", "CompiledTask", "Corruption", "Ioi", "Pairs", "Task", "logit_difference", "task"]


def task(name: str, corruption: Corruption) -> Task:
    """The task of that name; raises InputError when there is none."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown; choose one of {', '.join(TASKS)}")
    return TASKS[name](corruption)
