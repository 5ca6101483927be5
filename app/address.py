"""Addresses of the pages: one writer, and parsers that refuse junk with a sentence.

A bound Streamlit widget drops a bad value silently and shows its default, so a wrong link would show a wrong latent: parameters are
checked here before any widget exists.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from interp.viz.html import Html, link
from saes.errors import InputError

LONGEST = 2000
Parameter = str | int | float | Iterable[str | int | float] | None


def href(page: str, **parameters: Parameter) -> str:
    """The relative address of a page; parameters of None or "" are left out, several values are repeated."""
    given = [(name, value) for name, value in parameters.items() if value is not None and value != ""]
    query = urlencode([(n, list(v) if not isinstance(v, (str, int, float)) else v) for n, v in given], doseq=True)
    return (page or ".") + (f"?{query}" if query else "")


def anchor(page: str, text: object, title: str | None = None, class_: str | None = None, **parameters: Parameter) -> Html:
    """A link to a page of the app."""
    return link(href(page, **parameters), text, class_, title)


def check_length(query: Mapping[str, list[str]]) -> None:
    """Refuse a query string of more than `LONGEST` characters."""
    size = sum(len(name) + len(value) + 2 for name, values in query.items() for value in values)
    if size > LONGEST:
        raise InputError(f"the address has {size} characters of parameters, at most {LONGEST} are read; open the page from the menu")


def whole(text: str | None, name: str, low: int, high: int) -> int | None:
    """A whole number from `low` to `high`, None when the parameter is absent; raises InputError for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise InputError(f"{name}={text[:40]!r} is out of range; write a whole number from {low} to {high}")
    return int(text)


def real(text: str | None, name: str, low: float, high: float) -> float | None:
    """A number from `low` to `high`, None when absent; raises InputError for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
        raise InputError(f"{name}={text[:40]!r} is out of range; write a number from {low:g} to {high:g}")
    return float(text)


def choice(text: str | None, name: str, options: Iterable[str]) -> str | None:
    """One of the options, None when absent; raises InputError for anything else."""
    allowed = list(options)
    if text is not None and text not in allowed:
        raise InputError(f"{name}={text[:40]!r} is not known; choose one of {', '.join(allowed)}")
    return text


def head_name(text: str | None, layers: int, heads: int) -> str | None:
    """A head written LAYER.HEAD, None when absent; raises InputError when there is no such head."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    if match is None or int(match[1]) >= layers or int(match[2]) >= heads:
        raise InputError(f"h={text[:40]!r} names no head; write LAYER.HEAD, from 0.0 to {layers - 1}.{heads - 1}")
    return f"{int(match[1])}.{int(match[2])}"
