"""Token strips: text whose tokens are coloured by a number.

One `<bdi>` a token, so that right-to-left text stays in its place. The text of the spans is the text of the tokens and nothing else:
line ends are marked by the stylesheet. Corpus text is hostile, so everything passes through `safe`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.viz.colours import level
from interp.viz.html import Html, element, join, number

# A token longer than this is cut where it is drawn; its tooltip says how long it is.
LONGEST = 200
CHIP = 40
_PICTURES = {**{i: 0x2400 + i for i in range(32) if i not in (9, 10)}, 127: 0x2421}
_BREAKS = ("\n", "␊")


@dataclass(frozen=True)
class Token:
    """One token of a strip: its text, its number, where it stands."""

    text: str
    value: int | float = 0.0
    where: str = ""
    """`sequence:position`, shown in the tooltip."""
    marked: bool = False
    """Outlined: the token that the example is about."""


def visible(text: str) -> str:
    """The text as it is drawn: control characters as their pictures, lone surrogates as escapes; line ends and tabs stay."""
    return text.translate(_PICTURES).encode("utf-8", "backslashreplace").decode()


def span(token: Token, scale: int | float) -> Html:
    """One token, its intensity class from `value / scale`."""
    shown = visible(token.text)
    cut = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
    # A picture of a line end is its own sign; only the line end itself is invisible.
    marks = [" nl"] if "\n" in cut else []
    marks += [" sp"] if cut.startswith(" ") else []
    marks += [" here"] if token.marked else []
    # An empty bdi would be dropped by the sanitiser.
    return element("bdi", _signed(cut) or "∅", class_=f"t a{level(token.value, scale)}{''.join(marks)}", title=tooltip(token, scale, shown))


def _signed(text: str) -> Html:
    """Line-end pictures wrapped, so that the stylesheet can draw an arrow for them: few fonts have the picture."""
    return join(text.split("␊"), element("i", "␊", class_="lf"))


def tooltip(token: Token, scale: int | float, shown: str) -> str:
    """Token, place, value, and its share of the scale."""
    text = repr(shown) if len(shown) <= LONGEST else f"{shown[:40]!r}… ({len(shown)} characters)"
    value = f"{number(token.value)} ({100 * token.value / scale:.0f} % of {number(scale)})" if scale > 0 else number(token.value)
    return " · ".join(part for part in (text, token.where, value) if part)


def strip(tokens: Sequence[Token], scale: int | float, breaks: bool = False) -> Html:
    """A line of tokens; with `breaks`, line ends in the text start a new line."""
    spans = (Html(span(t, scale) + ("<br>" if breaks and any(b in t.text for b in _BREAKS) else "")) for t in tokens)
    return element("div", join(spans), class_="strip", role="img", aria_label=summary(tokens, scale))


def summary(tokens: Sequence[Token], scale: int | float) -> str:
    """What a strip shows, for those who hear it."""
    best = max(tokens, key=lambda t: t.value, default=None)
    if best is None or best.value <= 0:
        return f"{len(tokens)} tokens, none active"
    return f"{len(tokens)} tokens, strongest {visible(best.text)[:LONGEST]!r} at {number(best.value)} of {number(scale)}"


def chip(text: str) -> Html:
    """A single token outside a strip, its blanks visible."""
    shown = visible(text)
    cut = shown if len(shown) <= CHIP else f"{shown[:CHIP]}…"
    return element("bdi", _signed(cut) or "∅", class_="tok sp" if shown.startswith(" ") else "tok", title=tooltip(Token(text), 0, shown))
