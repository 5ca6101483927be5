"""The command line: one subcommand a stage, every option from its frozen dataclass.

Exit codes: 0 done, 2 bad input (one sentence on standard error), 130 interrupted (the same command resumes).
"""

import dataclasses
import errno
import importlib
import json
import logging
import os
import signal
import sys
import warnings
from typing import Any

from saes.errors import InputError

# Name: (module, class, what it does). Modules are imported on use, so that `interp --help` is instant.
COMMANDS = {
    "demo": ("interp.demo", "Demo", "the whole way on a packaged model: cache, train, describe, heads, circuit, app"),
    "cache": ("interp.stages.cache", "Cache", "activations of sites, written to disk"),
    "train": ("interp.stages.train", "Train", "a dictionary on cached activations"),
    "eval": ("interp.stages.evaluate", "Evaluate", "FVU, L0, CE recovered, KL of a dictionary on held-out tokens"),
    "describe": ("interp.stages.describe", "Describe", "statistics, examples, logits and neighbours of every latent"),
    "heads": ("interp.stages.heads", "Heads", "scores and patterns of every attention head"),
    "circuit": ("interp.stages.circuit", "Circuit", "which heads and MLPs carry a task, and how faithfully"),
    "runs": ("interp.show", "Runs", "list the runs"),
    "show": ("interp.show", "Show", "a run, latent or head in the terminal: RUN, RUN:f:41, RUN:h:5.1"),
    "app": ("interp.serve", "App", "the browser app"),
}
NEXT = {
    "cache": ("interp train {run} --k 32",),
    "train": ("interp eval {run}", "interp describe {run}"),
    "describe": ("interp show {run}:f:0", "interp app"),
    "heads": ("interp app",),
    "circuit": ("interp app",),
}
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0)
    try:
        raise SystemExit(_run(arguments[0], arguments[1:]))
    except InputError as error:
        _leave(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on where it stopped", EXIT_INTERRUPTED)
    except Exception as error:
        if not _disk_full(error):
            raise
        _leave("the disk is full; nothing finished is lost: free some space and run the same command again", EXIT_BAD_INPUT)


def usage() -> str:
    rows = "\n".join(f"  {name:<10}{text}" for name, (_, _, text) in COMMANDS.items())
    what = "interp: train dictionaries on a language model, explore their features and heads, find circuits"
    return f"{what}\n\n{rows}\n\n`interp COMMAND --help` lists the options of a command with their defaults."


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        raise InputError(f"{name!r} is no command; choose one of {', '.join(COMMANDS)}")
    _quiet()
    # A stage sees SIGTERM as an interruption, which its context managers and checkpoints already know how to survive.
    signal.signal(signal.SIGTERM, _interrupt)
    module, kind, _ = COMMANDS[name]
    command, ctx = _parse(name, getattr(importlib.import_module(module), kind), arguments)
    result = _execute(command, ctx)
    if result is not None:
        _print(result, ctx.json)
    return 0


def _parse(name: str, kind: type, arguments: list[str]) -> tuple[Any, Any]:
    """The command and the shared context, from one line of flags."""
    import tyro

    from interp.stages.base import Context

    fields = [("command", kind), ("context", Context, dataclasses.field(default_factory=Context))]
    line = dataclasses.make_dataclass("Line", fields)
    line.__doc__ = kind.__doc__
    parsed = tyro.cli(line, prog=f"interp {name}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    return parsed.command, parsed.context


def _execute(command: Any, ctx: Any) -> dict[str, Any] | None:
    if not hasattr(command, "work"):
        return command(ctx)
    from interp.stages.base import execute

    run = execute(command, ctx)
    if run is None:
        return None
    print("".join(f"next: {text.format(run=run.id)}\n" for text in NEXT.get(command.NAME, ())), end="", file=sys.stderr)
    return {"run": run.id, **json.loads(run.file("summary.json").read_text())}


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for key, value in result.items():
        if not key.endswith(("_low", "_high")):
            table.add_row(key, _shown(value) + _interval(result, key))
    Console().print(table)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(result: dict[str, Any], key: str) -> str:
    """The 95 % interval of a figure that has one."""
    bounds = [result.get(f"{key}_{side}") for side in ("low", "high")]
    return "" if None in bounds else f"   [{_shown(bounds[0])}, {_shown(bounds[1])}]"


def _quiet() -> None:
    """Keep libraries from talking over the progress bars and from sending anything anywhere."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("transformers", "huggingface_hub", "transformer_lens"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _disk_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _leave(sentence: str, code: int) -> None:
    print(f"interp: {sentence}", file=sys.stderr)
    raise SystemExit(code) from None
