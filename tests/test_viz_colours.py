"""Colours and escaping: contrast of every class, monotone lightness, markup that cannot get through."""

import html as standard
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.viz import colours
from interp.viz.html import Html, element, link, meter, number, percent, safe, table

THEMES = [colours.LIGHT, colours.DARK]


def test_contrast_of_black_and_white_is_21():
    assert colours.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert colours.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES, ids=lambda t: t.name)
def test_token_text_reads_on_every_class(theme):
    css = colours.stylesheet(theme)
    rules = re.findall(r"\.t\.a(\d+)\{background:(#\w{6});color:(#\w{6})", css)
    assert [int(i) for i, _, _ in rules] == list(range(1, colours.LEVELS + 1))
    assert min(colours.contrast(background, ink) for _, background, ink in rules) >= 4.5
    assert colours.contrast(theme.text, theme.background) >= 4.5
    assert colours.contrast(theme.muted, theme.background) >= 4.5


@pytest.mark.parametrize("theme", THEMES, ids=lambda t: t.name)
def test_lightness_of_the_sequential_scale_is_monotone_and_leaves_the_background(theme):
    away = [colours.contrast(c, theme.background) for c in theme.sequential]
    assert away == sorted(away)
    assert len(theme.sequential) == colours.LEVELS


@pytest.mark.parametrize("theme", THEMES, ids=lambda t: t.name)
def test_the_diverging_scale_is_weakest_in_its_middle(theme):
    away = [colours.contrast(c, theme.background) for c in theme.diverging]
    assert away.index(min(away)) == len(away) // 2


# Linear RGB as it is seen without the cones for long or for middle waves (Machado, Oliveira, Fernandes 2009, severity 1).
PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of `#rrggbb` as it is seen."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    t = XYZ @ np.clip(seen @ linear, 0, 1) / (0.9505, 1, 1.089)
    x, y, z = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", THEMES, ids=lambda t: t.name)
@pytest.mark.parametrize(("seen", "least"), [(np.eye(3), 40), (PROTAN, 17), (DEUTAN, 17)], ids=["all cones", "protan", "deutan"])
def test_categories_can_be_told_apart_and_stand_out(theme, seen, least):
    assert min(np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in itertools.combinations(theme.series, 2)) >= least
    assert min(colours.contrast(c, theme.background) for c in theme.series) >= 3


@pytest.mark.parametrize("theme", THEMES, ids=lambda t: t.name)
def test_the_ramp_is_monotone_in_lightness_and_can_be_seen(theme):
    away = [colours.contrast(colours.between(theme.ramp, i / 10), theme.background) for i in range(11)]
    assert away == sorted(away)
    assert away[0] > 2.5


def test_between_two_colours_lies_their_mixture():
    assert [colours.between(("#000000", "#ffffff"), share) for share in (-1, 0, 0.5, 1, 2)] == [
        "#000000",
        "#000000",
        "#808080",
        "#ffffff",
        "#ffffff",
    ]


@given(st.floats(0.01, 1e6), st.floats(0, 1e6))
def test_level_grows_with_the_value_and_stays_in_range(scale, value):
    assert 0 <= colours.level(value, scale) <= colours.LEVELS
    assert colours.level(value, scale) <= colours.level(value * 2, scale)


def test_level_of_nothing_is_zero_and_of_the_scale_is_the_last():
    assert [colours.level(v, 2.0) for v in (-1.0, 0.0, 2.0, 5.0)] == [0, 0, 10, 10]
    assert colours.level(1.0, 0.0) == 0
    assert colours.level(float("nan"), 1.0) == 0


@given(st.text())
def test_text_is_escaped_and_comes_back(text):
    drawn = safe(text)
    assert "<" not in drawn
    assert '"' not in drawn
    assert standard.unescape(drawn) == text.encode("utf-8", "backslashreplace").decode()


def test_markup_stays_and_text_inside_it_does_not():
    drawn = element("p", "<b>", Html("<i>x</i>"), title='"><script>')
    assert drawn == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;<i>x</i></p>'
    assert link("a?b=1&c=2", "<") == '<a href="a?b=1&amp;c=2">&lt;</a>'
    assert "<img" not in table(("<img>",), [("<img>",)])
    assert "<x" not in meter(0.5, "<x>")


def test_numbers_are_short_and_nothing_is_a_dash():
    assert [number(v) for v in (0, 12, 0.01234, 1234567, 12345, None, float("nan"))] == ["0", "12", "0.0123", "1.23 M", "12.3 k", "–", "–"]
    assert [percent(v) for v in (0.5, None)] == ["50 %", "–"]
