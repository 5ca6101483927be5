"""The command line: one subcommand a stage, every option from its frozen dataclass.

Exit codes: 0 done, 2 bad input (one sentence on standard error), 130 interrupted (the same command resumes).
"""

import contextlib
import dataclasses
import errno
import importlib
import json
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from saes.errors import InputError

if TYPE_CHECKING:
    from interp.stages.base import Context

# Name: (module, class, what it does). Modules are imported on use, so that `interp --help` is instant.
COMMANDS = {
    "demo": ("interp.demo", "Demo", "the whole way on a packaged model: cache, train, describe, heads, circuit, app"),
    "cache": ("interp.stages.cache", "Cache", "activations of sites, written to disk"),
    "train": ("interp.stages.train", "Train", "dictionaries on cached or streamed activations, a grid of them together"),
    "codebook": ("interp.stages.codebook", "Bottlenecks", "codebooks inside a model, trained with it; each becomes a dictionary"),
    "eval": ("interp.stages.evaluate", "Evaluate", "FVU, L0, CE recovered, KL of dictionaries on held-out tokens"),
    "describe": ("interp.stages.describe", "Describe", "statistics, examples, logits and neighbours of every latent"),
    "search": ("interp.search", "Search", "codes and latents that mark what a regular expression marks, with precision and recall"),
    "heads": ("interp.stages.heads", "Heads", "scores and patterns of every attention head"),
    "circuit": ("interp.stages.circuit", "Circuit", "which heads, MLPs or edges carry a task, and how faithfully"),
    "latents": ("interp.stages.latents", "Latents", "which latents or codes of a dictionary carry a task, and how faithfully"),
    "compare": ("interp.stages.compare", "Compare", "two circuits: what they share, and which does better on the same prompts"),
    "steer": ("interp.stages.steer", "Steer", "generation steered by codes or latents: topic rate and fluency, arm by arm"),
    "runs": ("interp.show", "Runs", "list the runs"),
    "show": ("interp.show", "Show", "a run, latent or head in the terminal: RUN, RUN:f:41, RUN:h:5.1"),
    "app": ("interp.serve", "App", "the browser app"),
}
NEXT = {
    "cache": ("interp train {run} --k 32",),
    "train": ("interp eval {run}", "interp describe {run}"),
    "describe": ("interp show {run}:f:0", "interp search {run} '(not|never)'", "interp app"),
    "heads": ("interp app",),
    "circuit": ("interp app", "interp compare {run} OTHER"),
    "latents": ("interp app",),
    "steer": ("interp app",),
}
# What Python and tyro say of a text that is no number.
_NO_NUMBER = re.compile(r"(?:invalid literal|could not convert|no type matching).*?'([^']*)'", re.DOTALL)
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0)
    try:
        with _refusals():
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
    members, ctx = _members(name, getattr(importlib.import_module(module), kind), arguments)
    for result in _execute(members, ctx):
        _print(result, ctx.json)
    return 0


def _members(name: str, kind: type, arguments: list[str]) -> tuple[list[tuple[str, Any]], Any]:
    """The commands of one line with the line of each, several where an option has several values, and the context they share."""
    from interp.grid import product
    from interp.stages.base import Context

    shared = {"plan", "json", "root", "device"}
    whole = frozenset(f"--{option}" for option in shared)
    lines = product(arguments, _switches(kind) | _switches(Context), whole) if hasattr(kind, "work_all") else [arguments]
    parsed = [_parse(name, kind, line) for line in lines]
    alone = [shlex.join(["interp", name, *_without(line, shared, _switches(Context))]) for line in lines]
    return list(zip(alone, (command for command, _ in parsed), strict=True)), parsed[0][1]


def _switches(kind: type) -> frozenset[str]:
    """Options without a value."""
    names = [f.name.replace("_", "-") for f in dataclasses.fields(kind) if f.type in (bool, "bool")]
    return frozenset(f"--{prefix}{name}" for name in names for prefix in ("", "no-"))


def _without(line: list[str], names: set[str], switches: frozenset[str]) -> list[str]:
    """A command line less the options that no result depends on."""
    kept, skip = [], False
    for word in line:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name.removeprefix("no-") in names:
            skip = word not in switches and "=" not in word
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept


def _parse(name: str, kind: type, arguments: list[str]) -> tuple[Any, Any]:
    """The command and the shared context, from one line of flags."""
    import tyro

    from interp.stages.base import Context

    arguments, narrow = _narrowed(kind, arguments)
    line = dataclasses.make_dataclass("Line", [("command", narrow), ("context", Context, dataclasses.field(default_factory=Context))])
    line.__doc__ = "\n\n".join([kind.__doc__ or "", *(f"--{field} NAME: {', '.join(names)}." for field, names in _menu(kind).items())])
    parsed = tyro.cli(line, prog=f"interp {name}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    return kind(**{f.name: getattr(parsed.command, f.name) for f in dataclasses.fields(kind)}), parsed.context


def _narrowed(kind: type, arguments: list[str]) -> tuple[list[str], type]:
    """For a field that chooses among dataclasses, `--architecture JumpRelu` makes that one's options those of the command.

    Returns the other arguments, and the kind with the chosen member in place of the union, for the parser alone.
    """
    rest, fields = list(arguments), {}
    for name, members in _menu(kind).items():
        default = next(f.default_factory for f in dataclasses.fields(kind) if f.name == name)
        chosen: Any = default
        while f"--{name}" in rest:
            place = rest.index(f"--{name}")
            wanted = rest[place + 1] if place + 1 < len(rest) else ""
            chosen = next((member for key, member in members.items() if _plain(key) == _plain(wanted)), None)
            if chosen is None:
                raise InputError(f"--{name} {wanted} is unknown; choose one of {', '.join(members)}")
            del rest[place : place + 2]
        fields[name] = chosen
    if not fields:
        return rest, kind
    body = {"__annotations__": fields, "__doc__": kind.__doc__, **{n: dataclasses.field(default_factory=m) for n, m in fields.items()}}
    return rest, dataclasses.dataclass(frozen=True)(type(kind.__name__, (kind,), body))


def _menu(kind: type) -> dict[str, dict[str, type]]:
    """Fields whose type is a union of dataclasses, each with its members by name."""
    members = {name: get_args(hint) for name, hint in get_type_hints(kind).items()}
    choices = {name: found for name, found in members.items() if len(found) > 1 and all(map(dataclasses.is_dataclass, found))}
    return {name: {member.__name__: member for member in found} for name, found in choices.items()}


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _execute(members: list[tuple[str, Any]], ctx: "Context") -> Iterator[dict[str, Any]]:
    """Run what was asked for; one result for each member."""
    first = members[0][1]
    if not hasattr(first, "work"):
        result = first(ctx)
        if result is not None:
            yield result
        return
    from interp.stages.base import execute_all

    found = execute_all([command for _, command in members], ctx, [line for line, _ in members]) or []
    more = [run for made in found for run in first.then(made, ctx)] if hasattr(first, "then") else []
    for run in found + more:
        print("".join(f"next: {text.format(run=run.id)}\n" for text in NEXT.get(run.stage, ())), end="", file=sys.stderr)
        yield {"run": run.id, **json.loads(run.file("summary.json").read_text())}


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for key, value in result.items():
        if not key.endswith(("_low", "_high")) and not isinstance(value, dict):
            table.add_row(key, _shown(value) + _interval(result, key))
    Console().print(table)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(result: dict[str, Any], key: str) -> str:
    """The 95 % interval of a figure that has one."""
    bounds = [result.get(f"{key}_{side}") for side in ("low", "high")]
    return "" if None in bounds else f"   [{_shown(bounds[0])}, {_shown(bounds[1])}]"


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Lines that tyro cannot read are refused in a sentence instead of its box."""
    # Private to tyro, whose version is pinned for it; a kind of failure unknown to `_refuse` still gets the box.
    from tyro import _errors

    with _errors.on_parse_error(_refuse):
        yield


def _refuse(event: Any) -> None:
    """Say what is wrong with the line; raises InputError."""
    match type(event).__name__:
        case "InstantiationFailure":
            if (given := _NO_NUMBER.search(event.message)) is None:
                raise InputError(event.message)
            number = "a whole number" if "INT" in event.argument.lowered.metavar else "a number"
            what = f"{_flag(event.argument)} takes {number}, and {given[1]!r} is none"
        case "InvalidChoice":
            what = f"{_flag(event.argument)} {event.value} is unknown; choose one of {', '.join(event.choices)}"
        case "BadValue":
            what = f"{_flag(event.argument)} needs a value"
        case "UnrecognizedArgs":
            what = f"{' '.join(event.tokens)} is no option of `{event.prog}`"
        case "MissingArgs":
            what = f"{', '.join(_flag(each.arg) for each in event.missing_arguments)} is missing"
        case _:
            return
    raise InputError(f"{what}; `{event.prog} --help` lists the options with their defaults")


def _flag(argument: Any) -> str:
    """`--k`, or the name of what is given without a flag."""
    return argument.field.intern_name.upper() if argument.is_positional() else argument.lowered.name_or_flags[0]


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
