"""Many train runs side by side: the fields in which they differ, and which belong together. Pure functions of their configs.

A grid leaves no object on the disk: its members are ordinary runs that differ only in a few fields. So "the grid of a run" is asked for by
naming those fields, and runs that share everything but how sparse they are form one curve, a family.
"""

from collections.abc import Collection, Mapping, Sequence

from app.dictionaries import Dictionary

Value = str | int | float | bool | None
Fields = Mapping[str, Value]
"""Fields of a run by the names that they have on the command line; what is read and written is one of them, `sites`."""

# As in saes/architectures, which needs torch; their places are their colours and symbols. A test compares them.
KINDS = (
    "TopK", "BatchTopK", "JumpRelu", "Matryoshka", "Relu", "Gated", "Codebook", "Crosscoder", "CrossLayer", "Discrete",
)  # fmt: skip
FIRST = ("architecture", "sites", "skip", "k", "width", "seed")
# Options that choose how many latents are active: along them runs lie on one curve of sparsity against fidelity.
SPARSITY = ("k", "penalty", "coefficient")
REPEATS = ("seed", "shuffle")
# No result depends on how often a row is logged.
IGNORED = ("kind", "log_every")
ACTIVATIONS = "activations"
"""Name of the field that holds the cache run."""


def fields(config: Mapping[str, object], activations: str = "") -> dict[str, Value]:
    """The fields of a train run, nested ones by their last name, the first ones in front."""
    dictionary = Dictionary.of(config)
    plain = {name: value for name, value in config.items() if name not in (*IGNORED, "architecture", "site", "write")}
    flat = {**_flat(dictionary.options), **_flat(plain)}
    flat |= {"architecture": dictionary.kind, "sites": dictionary.sites, "skip": dictionary.skip, ACTIVATIONS: activations}
    return {name: flat[name] for name in (*(f for f in FIRST if f in flat), *(f for f in flat if f not in FIRST))}


def _flat(options: Mapping[str, object]) -> dict[str, Value]:
    out: dict[str, Value] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            out |= _flat({key: inner for key, inner in value.items() if key != "kind"})
        else:
            out[name] = value if isinstance(value, (str, int, float)) or value is None else str(value)
    return out


def gap(a: Fields, b: Fields) -> set[str]:
    """Fields in which two runs differ. Options that only one of two architectures has are part of that difference."""
    return {name for name in a.keys() & b.keys() if a[name] != b[name]}


def differing(runs: Collection[Fields]) -> list[str]:
    """Fields that have more than one value among the runs that have them, in their order."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    return sorted((name for name in names if len({run[name] for run in runs if name in run}) > 1), key=_place)


def _place(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)


def relatives(chosen: Sequence[str], runs: Mapping[str, Fields], vary: Collection[str]) -> list[str]:
    """The chosen runs, and all others that differ from one of them in nothing but the fields `vary`, in the order of `runs`."""
    free = set(vary)
    return [name for name, run in runs.items() if name in chosen or (free and any(gap(run, runs[c]) <= free for c in chosen))]


def family(run: Fields, names: Collection[str]) -> tuple[tuple[str, Value], ...]:
    """What a curve of sparsity against fidelity has in common: its values of the fields `names`, sparsity and repeats left out."""
    return tuple((name, run[name]) for name in names if name in run and name not in SPARSITY + REPEATS)


def said(name: str, value: Value) -> str:
    """A value of a field, as short as it can be understood without the name of the field."""
    if name in ("architecture", "sites", ACTIVATIONS):
        return str(value)
    if name == "skip":
        return "skip" if value else "no skip"
    if name == "width":
        return f"{value:,} latents" if isinstance(value, int) else "? latents"
    if name in REPEATS:
        return f"{name} {value}"
    return f"{name}={shown(value)}"


def shown(value: Value) -> str:
    """A value beside the name of its field."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value


def told(run: Fields, names: Collection[str]) -> str:
    """A run by what sets it apart: `TopK · 10.resid_post · k=16 · seed 0`."""
    return " · ".join(said(name, run[name]) for name in names if name in run)


def spread(runs: Collection[Fields], names: Sequence[str]) -> str:
    """How many values each field has: `architecture (2 values), k (4), seed (2)`."""
    counts = [len({run[name] for run in runs if name in run}) for name in names]
    return ", ".join(f"{name} ({n}{'' if i else ' values'})" for i, (name, n) in enumerate(zip(names, counts, strict=True)))
