"""Programs to compile. Sizes and names of the first eight are those of tracr.compiler.lib (Lindner et al. 2023), in other words."""

from interp.models.compiled.rasp import (
    Aggregate,
    Expression,
    Indices,
    Linear,
    Map,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    Tokens,
    Value,
)

tokens, indices = Tokens(), Indices()


def _always(key: Value, query: Value) -> bool:
    return True


def _equal(key: Value, query: Value) -> bool:
    return key == query


def _not_after(key: int, query: int) -> bool:
    return key <= query


_length = SelectorWidth(Select(tokens, tokens, _always))
_count = SelectorWidth(Select(tokens, tokens, _equal))
_previous = Aggregate(Select(indices, indices, lambda k, q: k == q - 1), tokens)


def _mirrored() -> Expression:
    """The token at the opposite index."""
    distance = SequenceMap(lambda length, index: length - index, _length, indices)
    return Aggregate(Select(indices, Map(lambda d: d - 1, distance), _equal), tokens)


def _sorted_by(keys: Expression) -> Expression:
    """Tokens by rising key, where no two keys are equal: the index of each is the number of smaller keys."""
    rank = SelectorWidth(Select(keys, keys, lambda k, q: k < q))
    return Aggregate(Select(rank, indices, _equal), tokens)


def _share(word: str) -> Expression:
    """The share of a word among the tokens so far."""
    return Aggregate(Select(indices, indices, _not_after), Map(lambda t: float(t == word), tokens, numerical=True))


def _with_index(keys: Expression, step: float, max_len: int) -> Expression:
    """Keys with less than a step added, so that equal ones keep their order."""
    return SequenceMap(lambda key, index: key + step * index / max_len, keys, indices)


PROGRAMS: tuple[Program, ...] = (
    Program("length", _length, (1, 2, 3)),
    Program("reverse", _mirrored(), (1, 2, 3)),
    Program("xproportion", _share("x"), ("w", "x", "y", "z")),
    Program("hist", _count, ("a", "b", "c")),
    Program("sort_unique", _sorted_by(tokens), (1, 2, 3, 4, 5)),
    Program("sort", _sorted_by(_with_index(tokens, 1.0, 5)), (1, 2, 3)),
    Program("sort_freq", _sorted_by(_with_index(Map(lambda n: -n, _count), 1.0, 5)), (1, 2, 3, 4)),
    Program("pair_balance", Linear(_share("("), _share(")"), 1.0, -1.0), ("(", ")"), max_len=6, causal=True),
    # the token before; nothing at the first
    Program("previous", _previous, ("a", "b", "c"), causal=True),
    # what followed the same token before (on inputs where that is one token)
    Program("induction", Aggregate(Select(_previous, tokens, _equal), tokens), ("a", "b", "c"), causal=True),
    # whether the token has occurred before
    Program("duplicate", Map(lambda n: "new" if n == 1 else "seen", _count), ("a", "b", "c"), causal=True),
    # whether the number of ones so far is odd
    Program(
        "parity",
        Map(lambda n: "odd" if n % 2 else "even", SelectorWidth(Select(tokens, tokens, lambda k, q: k == 1))),
        (0, 1),
        causal=True,
    ),
    # whether the token equals that at the opposite index
    Program("mirror", SequenceMap(lambda a, b: "same" if a == b else "other", tokens, _mirrored()), (1, 2, 3)),
    # whether half of the tokens so far are x
    Program("majority", Map(lambda share: "yes" if share >= 0.5 else "no", _share("x")), ("w", "x"), causal=True),
)


def program(name: str) -> Program:
    """The program of that name."""
    return next(p for p in PROGRAMS if p.name == name)
