"""Colours and escaping: contrast of every class, monotone lightness, markup that cannot get through."""

import html as standard
import re

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
