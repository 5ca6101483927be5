"""Tasks by name. A new task is its file and its name in the union."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from interp.tasks.agreement import Agreement
from interp.tasks.base import Pairs, Task, logit_difference
from interp.tasks.compiled import CompiledTask
from interp.tasks.docstring import Docstring
from interp.tasks.gendered_pronoun import GenderedPronoun
from interp.tasks.greater_than import GreaterThan
from interp.tasks.induction import Induction
from interp.tasks.ioi import Corruption, Ioi
from interp.tasks.readers import SUFFIXES
from interp.tasks.relation import Relation
from interp.tasks.task_file import TaskFile
from interp.tasks.trained import TrainedTask
from saes.errors import InputError

Drawn = Ioi | GreaterThan | Docstring | GenderedPronoun | Agreement | Induction | Relation
"""Tasks that make their prompts themselves."""
AnyTask = Drawn | TaskFile

TASKS: dict[str, type[Drawn]] = {kind.NAME: kind for kind in get_args(Drawn)}

__all__ = [
    "TASKS", "Agreement", "AnyTask", "CompiledTask", "Corruption", "Docstring", "Drawn", "GenderedPronoun", "GreaterThan", "Induction",
    "Ioi", "Pairs", "Relation", "Task", "TaskFile", "TrainedTask", "corruptions", "logit_difference", "task",
]  # fmt: skip


def task(name: str, corruption: str | None = None, **options: Any) -> AnyTask:
    """The task of that name, or of the prompts in the file at that path; without a corruption its own default.

    Raises InputError for a name, a corruption or an option that does not exist.
    """
    if Path(name).suffix in SUFFIXES:
        return _made(TaskFile, {"path": name}, corruption, options)
    kind = TASKS.get(name.replace("-", "_"))
    if kind is None:
        raise InputError(
            f"task {name!r} is unknown; choose one of {', '.join(TASKS)}, or give a file of prompts that ends in {', '.join(SUFFIXES)}"
        )
    return _made(kind, {}, corruption, options)


def corruptions(kind: type[AnyTask]) -> tuple[str, ...]:
    """The corruptions of a kind of task."""
    return get_args(get_type_hints(kind)["corruption"])


def _made(kind: type[Any], given: dict[str, Any], corruption: str | None, options: dict[str, Any]) -> Any:
    types = get_type_hints(kind)
    hints = {f.name: types[f.name] for f in fields(kind) if f.name not in given}
    options = options if corruption is None else options | {"corruption": corruption}
    for name, value in options.items():
        if name not in hints:
            raise InputError(f"task {kind.NAME} has no option {name}; its options are {', '.join(hints)}")
        choices = get_args(hints[name])
        if choices and value not in choices:
            raise InputError(f"task {kind.NAME} has no {name} {value!r}; choose one of {', '.join(choices)}")
        if hints[name] is int:
            options = options | {name: _whole(kind, name, value)}
    return kind(**given, **options)


def _whole(kind: type[Any], name: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"option {name} of task {kind.NAME} takes a whole number, and {value!r} is none") from None
