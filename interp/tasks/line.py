"""The task that a command line names: its option texts, and what of it a run depends on."""

from collections.abc import Sequence
from typing import Any

from interp.tasks import TASKS, AnyTask, TaskFile, corruptions, task
from saes.errors import InputError

TASK = f"The task: {', '.join(TASKS)}, or a file of prompts (.jsonl, .json, .csv) with clean, corrupt, right and wrong in each line."
CORRUPTION = "What the corrupt prompt changes, the first where none is given. " + "; ".join(
    f"{kind.NAME}: {', '.join(corruptions(kind))}" for kind in (*TASKS.values(), TaskFile)
)


def named(name: str, corruption: str | None, options: Sequence[str]) -> AnyTask:
    """The task with options given as NAME=VALUE; raises InputError for what cannot be one."""
    given = [option.partition("=") for option in options]
    if any(not sign for _, sign, _ in given):
        raise InputError(f"--options {' '.join(options)} is not of the form NAME=VALUE; write for example --options structure=simple")
    return task(name, corruption, **{name: value for name, _, value in given})


def identity(chosen: AnyTask) -> dict[str, Any]:
    """Fields of a run's config with every default resolved; a file by its content, because its path may hold another one tomorrow."""
    others = {name: value for name, value in vars(chosen).items() if name not in ("path", "corruption")}
    resolved = {"corruption": chosen.corruption, "options": [f"{name}={value}" for name, value in others.items()]}
    return resolved | ({"prompts_sha256": chosen.sha256()} if isinstance(chosen, TaskFile) else {"task": chosen.NAME})


def require_halves(pairs: int) -> None:
    """Raises InputError for a number of pairs that cannot be cut into those that score and those that measure."""
    if pairs < 4 or pairs % 2:
        raise InputError(f"--pairs {pairs} cannot be halved into scoring and measuring; give an even number from 4 on, for example 32")
