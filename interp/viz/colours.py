"""Colours of every picture: a cividis-like sequential scale, a blue-orange diverging one, and ink that can be read on both.

Cividis (Nuñez, Anderton, Renslow 2018) has monotone lightness and looks alike with and without red-green deficiency. On a light page
it runs from pale yellow to dark blue, on a dark page from dark blue to yellow: strong stands out, weak fades into the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Ten evenly spaced samples of cividis, dark blue to yellow, for dark pages.
CIVIDIS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
# The same course from yellow to dark blue, its weak end bleached so that it fades into a light page.
BLEACHED = ("#fdf7d4", "#faecaa", "#f0dc84", "#dac871", "#bdb075", "#9f9977", "#7f7f78", "#5f6672", "#3c4a6b", "#12305f")
BLUES = ("#08306b", "#1f5a9a", "#4a8bc2", "#8bbbdf", "#c9dff0")
ORANGES = ("#fde0c2", "#f9b97c", "#ec8c3a", "#c8620f", "#8a3b04")
LEVELS = 10
# What would be written as .00 is drawn as nothing.
FAINT = 0.005


@dataclass(frozen=True)
class Palette:
    """The colours of one theme."""

    name: Literal["light", "dark"]
    background: str
    text: str
    muted: str
    line: str
    sequential: tuple[str, ...]
    """Weak to strong, `LEVELS` colours."""
    diverging: tuple[str, ...]
    """Negative (blue) to positive (orange), the middle close to the background."""
    series: tuple[str, ...]
    """Categories, ten: any two are at least 40 apart in CIELAB, and 17 for eyes that confuse red and green (a test measures both)."""
    ramp: tuple[str, ...]
    """Ends and middle of an order, such as growing k: monotone in lightness, readable from its first colour on."""
    negative: str
    positive: str


LIGHT = Palette(
    "light", "#ffffff", "#1a2433", "#5b6675", "#dfe4ea", BLEACHED, (*BLUES, "#f4f4f2", *ORANGES),
    ("#0b62a8", "#d55e00", "#179855", "#6e2175", "#e84095", "#179ba9", "#595211", "#5e69fc", "#ec0d42", "#7f2937"),
    ("#d98a1f", "#c2306e", "#2d2a7a"), "#1f5a9a", "#c8620f",
)  # fmt: skip
DARK = Palette(
    "dark", "#0e1117", "#e8ecf1", "#9aa5b4", "#2b3442", CIVIDIS, (*BLUES[::-1][1:], BLUES[0], "#20262f", ORANGES[-1], *ORANGES[::-1][1:]),
    ("#5db3f0", "#f59a4c", "#22d38a", "#a32bbc", "#f6a1ca", "#027573", "#828243", "#527ffe", "#ee0285", "#cc0112"),
    ("#5f63f2", "#e0609a", "#f9d25c"), "#5db3f0", "#f59a4c",
)  # fmt: skip


def palette(theme: str | None) -> Palette:
    """The palette of a theme name; light unless it says dark."""
    return DARK if theme == "dark" else LIGHT


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def ink(background: str) -> str:
    """Black or white, whichever reads better; never below 4.58, the square root of 21."""
    return max("#000000", "#ffffff", key=lambda colour: contrast(colour, background))


def level(value: int | float, scale: int | float) -> int:
    """1 to `LEVELS` for a share of the scale, 0 for less than `FAINT` of it."""
    if not (scale > 0 and value >= FAINT * scale):
        return 0
    return min(LEVELS, int(LEVELS * value / scale * 0.9999) + 1)


def sample(colours: Sequence[str], share: float) -> str:
    """The colour at `share` in 0..1 of a scale, the nearest of its steps."""
    return colours[min(len(colours) - 1, max(0, int(share * len(colours))))]


def between(colours: Sequence[str], share: int | float) -> str:
    """The colour at `share` in 0..1 of a course through the given ones, mixed in sRGB."""
    place = min(1.0, max(0.0, share)) * (len(colours) - 1)
    left = min(int(place), len(colours) - 2)
    part = place - left
    mixed = [(1 - part) * int(colours[left][i : i + 2], 16) + part * int(colours[left + 1][i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def colourscale(colours: Sequence[str]) -> list[list[float | str]]:
    """A plotly colour scale."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def stylesheet(theme: Palette) -> str:
    """CSS of one theme: the variables that `app/style.css` uses, and a class for each intensity of a token."""
    variables = {
        "bg": theme.background,
        "text": theme.text,
        "muted": theme.muted,
        "line": theme.line,
        "neg": theme.negative,
        "pos": theme.positive,
    }
    rules = [":root{" + "".join(f"--{name}:{colour};" for name, colour in variables.items()) + f"--accent:{theme.series[0]}" + "}"]
    for i, colour in enumerate(theme.sequential, 1):
        # The underline grows in three steps, so that the strength can be read without the colour.
        rules.append(f".t.a{i}{{background:{colour};color:{ink(colour)};border-bottom:{1 + (i - 1) * 3 // LEVELS}px solid {theme.text}}}")
    return "\n".join(rules)
