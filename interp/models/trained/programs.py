"""High-level programs whose values flow along the edges of a transformer: what a model is trained to be, edge by edge.

A program is a list of nodes, each a head or an MLP of the model, or `logits`. A node computes its value from what arrives over its edges;
an edge can be *cut*, and then carries the value that its source has on another input. So a program says not only what the answer is, but
what it becomes under every interchange of nodes and of edges. Edges that a program does not name carry nothing.

Under resampling positions stay what they are, so an edge that carries positions alone (whom a previous-token head attends to) is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saes.errors import InputError

Edge = tuple[str, str]
UNDEFINED = -1
"""The value of a look-up that finds nothing, or two things: such an interchange has no answer and trains nothing."""


@dataclass(frozen=True)
class Node:
    """A step of a program."""

    name: str
    """The head or MLP that computes it: `0.1`, `m1`, or `logits`."""
    edges: tuple[Edge, ...]
    """What it reads, in the order in which `value` takes it."""
    value: Callable[..., Tensor]
    """Takes and gives [input] or [input, pos]."""


@dataclass(frozen=True)
class Program:
    """An algorithm laid out on heads and MLPs. Prompts have one length, BOS in front; the answer follows the last token."""

    name: str
    about: str
    words: tuple[str, ...]
    """Vocabulary by token id, BOS first."""
    n_layers: int
    nodes: tuple[Node, ...]
    """In the order of the model, `logits` last."""
    draw: Callable[[int, torch.Generator], Int[Tensor, "input pos"]]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The circuit."""
        return tuple(edge for node in self.nodes for edge in node.edges)

    @property
    def n_pos(self) -> int:
        return self.draw(1, torch.Generator()).shape[1]

    def answers(
        self,
        tokens: Int[Tensor, "input pos"],
        other: Int[Tensor, "input pos"] | None = None,
        cut: Mapping[Edge, Bool[Tensor, " input"]] | None = None,
    ) -> Int[Tensor, " input"]:
        """The token that answers each prompt when its cut edges carry what they carry on `other`; -1 where there is none."""
        own, away, cut = {"embed": tokens}, {"embed": tokens if other is None else other}, cut or {}
        for node in self.nodes:
            mixed = [_mixed(own[edge[0]], away[edge[0]], cut.get(edge)) for edge in node.edges]
            own[node.name], away[node.name] = node.value(*mixed), node.value(*(away[source] for source, _ in node.edges))
        return own["logits"]


def _mixed(own: Tensor, away: Tensor, cut: Bool[Tensor, " input"] | None) -> Tensor:
    return own if cut is None else torch.where(cut.reshape(-1, *[1] * (own.ndim - 1)), away, own)


def _same(value: Tensor) -> Tensor:
    return value


def _digits(n: int, length: int, base: int, rng: torch.Generator) -> Int[Tensor, "input pos"]:
    return torch.randint(base, (n, length), generator=rng)


def _shuffled(n: int, count: int, rng: torch.Generator) -> Int[Tensor, "input count"]:
    """A permutation of 0 ... count - 1 for each input."""
    return torch.rand(n, count, generator=rng).argsort(1)


def _prompts(*columns: Int[Tensor, "input _"] | int) -> Int[Tensor, "input pos"]:
    """BOS, then the parts; a number is a token that all prompts share."""
    n = next(len(part) for part in columns if isinstance(part, Tensor))
    parts = [part if isinstance(part, Tensor) else torch.full((n, 1), part) for part in (0, *columns)]
    return torch.cat(parts, 1)


def _only(match: Bool[Tensor, "input pos"]) -> Int[Tensor, " input"]:
    """The one place of a match; undefined where there is none or more than one."""
    return torch.where(match.sum(1) == 1, match.int().argmax(1), UNDEFINED)


def _at(values: Int[Tensor, "input pos"], place: Int[Tensor, " input"]) -> Int[Tensor, " input"]:
    """The value at a place, undefined where the place is."""
    return torch.where(place == UNDEFINED, UNDEFINED, values.gather(1, place.clamp(min=0)[:, None])[:, 0])


# ---- duplicate: BOS x x x x x; has the last letter occurred before?

_LETTERS = 6


def _duplicate_prompts(n: int, rng: torch.Generator) -> Tensor:
    """Four different letters, then one of them or of the others, each as often."""
    letters = _shuffled(n, _LETTERS, rng)
    seen, which = torch.rand(n, generator=rng) < 0.5, torch.rand(2, n, generator=rng)
    place = torch.where(seen, which[0] * 4, 4 + which[1] * (_LETTERS - 4)).long()
    return _prompts(1 + letters[:, :4], 1 + letters.gather(1, place[:, None]))


def _is_seen(q: Tensor, k: Tensor) -> Tensor:
    """1 + letters is `new`, 2 + letters is `seen`."""
    return 1 + _LETTERS + (k[:, 1:-1] == q[:, -1:]).any(1).long()


# ---- majority: BOS b b b b b =; are there more ones than zeros?


def _majority_prompts(n: int, rng: torch.Generator) -> Tensor:
    return _prompts(1 + _digits(n, 5, 2, rng), 3)


# ---- sum: BOS a b =; (a + b) mod 4

_BASE = 4


def _sum_prompts(n: int, rng: torch.Generator) -> Tensor:
    return _prompts(1 + _digits(n, 2, _BASE, rng), 1 + _BASE)


# ---- induction: BOS key value key value key value key; what followed that key?

_KEYS, _VALUES = 3, 4


def _induction_prompts(n: int, rng: torch.Generator) -> Tensor:
    keys, values = _shuffled(n, _KEYS, rng), _digits(n, _KEYS, _VALUES, rng)
    asked = keys.gather(1, torch.randint(_KEYS, (n, 1), generator=rng))
    return _prompts(torch.stack((1 + keys, 1 + _KEYS + values), 2).flatten(1), 1 + asked)


def _before(tokens: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(tokens[:, :1]), tokens[:, :-1]), 1)


def _followed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _at(v, _only(k == q[:, -1:]))


# ---- names: BOS A B A to; the name that occurs once (Wang et al. 2022, arXiv:2211.00593, in small)

_NAMES = 4


def _names_prompts(n: int, rng: torch.Generator) -> Tensor:
    names = 1 + _shuffled(n, _NAMES, rng)[:, :2]
    return _prompts(names, names.gather(1, torch.randint(2, (n, 1), generator=rng)), 1 + _NAMES)


def _earlier(q: Tensor, k: Tensor) -> Tensor:
    """Which of the two names the third repeats: 0 or 1."""
    return _only(k[:, 1:3] == q[:, 3:4])


def _other_name(inhibited: Tensor, names: Tensor) -> Tensor:
    return _at(names[:, 1:3], torch.where(inhibited == UNDEFINED, UNDEFINED, 1 - inhibited))


PROGRAMS: tuple[Program, ...] = (
    Program(
        "duplicate",
        "one head looks for the last letter among those before, one MLP says what it saw",
        ("BOS", *"abcdef", "new", "seen"),
        2,
        (
            Node("0.2", (("embed", "0.2.q"), ("embed", "0.2.k")), _is_seen),
            Node("m1", (("0.2", "m1"),), _same),
            Node("logits", (("m1", "logits"),), _same),
        ),
        _duplicate_prompts,
    ),
    Program(
        "majority",
        "one head counts ones, the MLP of its layer tells few from many",
        ("BOS", "0", "1", "=", "few", "many"),
        2,
        (
            Node("0.1", (("embed", "0.1.v"),), lambda v: (v == 2).sum(1)),
            Node("m0", (("0.1", "m0"),), lambda count: 4 + (count > 2).long()),
            Node("logits", (("m0", "logits"),), _same),
        ),
        _majority_prompts,
    ),
    Program(
        "sum",
        "two heads fetch a digit each, the last MLP adds them modulo 4",
        ("BOS", "0", "1", "2", "3", "="),
        2,
        (
            Node("0.1", (("embed", "0.1.v"),), lambda v: v[:, 1] - 1),
            Node("0.3", (("embed", "0.3.v"),), lambda v: v[:, 2] - 1),
            Node("m1", (("0.1", "m1"), ("0.3", "m1")), lambda a, b: 1 + (a + b) % _BASE),
            Node("logits", (("m1", "logits"),), _same),
        ),
        _sum_prompts,
    ),
    Program(
        "induction",
        "a previous-token head writes the keys that an induction head looks through",
        ("BOS", *"abc", *"wxyz"),
        2,
        (
            Node("0.0", (("embed", "0.0.v"),), _before),
            Node("1.2", (("embed", "1.2.q"), ("0.0", "1.2.k"), ("embed", "1.2.v")), _followed),
            Node("logits", (("1.2", "logits"),), _same),
        ),
        _induction_prompts,
    ),
    Program(
        "names",
        "a duplicate-token head, an inhibition head that carries its place to the end, a name mover that attends to the other place",
        ("BOS", "Ann", "Bob", "Cid", "Dan", "to"),
        3,
        (
            Node("0.1", (("embed", "0.1.q"), ("embed", "0.1.k")), _earlier),
            Node("1.3", (("0.1", "1.3.v"),), _same),
            Node("2.0", (("1.3", "2.0.q"), ("embed", "2.0.v")), _other_name),
            Node("logits", (("2.0", "logits"),), _same),
        ),
        _names_prompts,
    ),
)


def program(name: str) -> Program:
    """The program of that name; raises InputError for a name that does not exist."""
    for one in PROGRAMS:
        if one.name == name:
            return one
    raise InputError(f"{name!r} is no program to train; choose one of {', '.join(one.name for one in PROGRAMS)}")
