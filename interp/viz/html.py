"""HTML as text that cannot be confused with text: whatever is not `Html` is escaped where it is drawn."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Markup that is safe to draw as it is."""

    __slots__ = ()


def safe(value: Any) -> Html:
    """The value itself when it is `Html`, otherwise its text, escaped."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).encode("utf-8", "backslashreplace").decode()))


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """One element; `class_` is the class, an attribute of None is left out, `data_x` becomes `data-x`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    given = "".join(f' {names[name]}="{safe(value)}"' for name, value in attributes.items() if value is not None)
    return Html(f"<{tag}{given}>{join(children)}</{tag}>")


def join(children: Iterable[Any], separator: str = "") -> Html:
    return Html(separator.join(safe(child) for child in children))


def link(address: str, text: Any, class_: str | None = None, title: str | None = None) -> Html:
    """A link inside the app: it opens in the same tab, and Back returns exactly."""
    return element("a", text, href=address, class_=class_, title=title)


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = (), class_: str = "grid") -> Html:
    """A table; the columns whose indices are in `numeric` are aligned to the right."""
    right = set(numeric)
    head = join(element("th", c, class_="n" if i in right else None) for i, c in enumerate(columns))
    body = join(element("tr", *(element("td", c, class_="n" if i in right else None) for i, c in enumerate(row))) for row in rows)
    return element("div", element("table", element("thead", element("tr", head)), element("tbody", body), class_=class_), class_="scroll")


def facts(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """A row of figures, each with its name above it."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs), class_="facts")


def meter(share: int | float, label: str, colour: str = "var(--accent)") -> Html:
    """A number with a bar behind it, `share` in 0..1."""
    width = 100 * min(1.0, max(0.0, share))
    return element(
        "span",
        label,
        class_="meter",
        style=f"background:linear-gradient(90deg,color-mix(in srgb,{colour} 30%,transparent) {width:.1f}%,transparent 0)",
    )


def number(value: int | float | None, digits: int = 3) -> str:
    """A figure as short as it can be said: 0.0123, 1.2 M; an en dash for nothing."""
    if value is None or value != value:
        return "–"
    for limit, sign in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if sign == ' k' else limit):.3g}{sign}"
    return f"{value:.{digits}g}" if value != int(value) or abs(value) >= 1e4 else f"{int(value)}"


def percent(share: int | float | None) -> str:
    """A share as a percentage with three significant digits."""
    return "–" if share is None or share != share else f"{100 * share:.3g} %"
