"""Command lines with several values for an option, as the product of command lines with one: a grid is nothing but its members."""

import itertools
from collections.abc import Sequence


def product(arguments: Sequence[str], switches: frozenset[str] = frozenset(), shared: frozenset[str] = frozenset()) -> list[list[str]]:
    """`RUN --k 16 32 --lr 1e-3` becomes `RUN --k 16 --lr 1e-3` and `RUN --k 32 --lr 1e-3`.

    Values are separated by blanks or commas; several positional arguments in front are alternatives too. Options in `switches` take no
    value, so what follows them is not theirs; options in `shared`, such as a path, are handed on as they are.
    """
    groups: list[tuple[str | None, list[str]]] = [(None, [])]
    for word in arguments:
        if word.startswith("-") and not _number(word.partition(",")[0]):
            name, _, value = word.partition("=")
            groups.append((name, [value] if value else []))
        elif groups[-1][0] in switches:
            groups[0][1].append(word)
        else:
            groups[-1][1].append(word)
    alternatives = []
    for name, words in groups:
        flag = [name] if name else []
        if name in shared:
            alternatives.append([[*flag, *words]])
            continue
        values = [value for word in words for value in word.split(",") if value]
        alternatives.append([[*flag, value] for value in values] or [flag])
    return [list(itertools.chain.from_iterable(choice)) for choice in itertools.product(*alternatives)]


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
