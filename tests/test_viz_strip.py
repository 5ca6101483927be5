"""Token strips: the text is exactly the text of the tokens, and nothing of it is markup."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from synthetic_base import HOSTILE
from synthetic_base import visible as from_bytes

from interp.viz.strip import LONGEST, Token, chip, span, strip, summary, visible


class Reader(HTMLParser):
    """Collects tags, and the text inside the token elements."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "bdi":
            self.inside = True
            self.texts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "bdi"

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


# The parser itself turns "\r\n" into "\n", but the strip never lets a carriage return through.
@given(st.lists(st.text(min_size=1, max_size=LONGEST), max_size=8))
def test_the_text_of_a_strip_is_the_text_of_its_tokens(texts):
    reader = Reader(strip([Token(t, 1.0) for t in texts], 1.0))
    assert reader.texts == [visible(t) for t in texts]
    assert set(reader.tags) <= {"div", "bdi", "i"}


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8))
def test_every_byte_of_the_input_is_drawn_and_can_be_read_back(raws):
    drawn = Reader(strip([Token(from_bytes(raw)) for raw in raws], 1.0)).texts
    for raw, text in zip(raws, drawn, strict=True):
        assert text == from_bytes(raw).replace("\x7f", "␡")


def test_hostile_tokens_open_no_element():
    reader = Reader(strip([Token(from_bytes(raw), i) for i, raw in enumerate(HOSTILE)], 3.0))
    assert reader.tags == ["div"] + ["bdi"] * len(HOSTILE)
    assert reader.texts[0] == "<script>window.pwned=1</script>"


def test_control_characters_and_surrogates_are_made_visible():
    assert visible("a\x00b\rc\x7f") == "a␀b␍c␡"
    assert visible("\ud800") == "\\ud800"
    assert visible("\n\t") == "\n\t"


def test_a_long_token_is_cut_and_its_tooltip_says_how_long_it_is():
    drawn = span(Token("x" * 5000), 1.0)
    assert Reader(drawn).texts == ["x" * LONGEST + "…"]
    assert "(5000 characters)" in drawn


def test_the_class_follows_the_value_and_the_mark_the_sampled_token():
    assert 'class="t a10 sp here"' in span(Token(" a", 2.0, marked=True), 2.0)
    assert 'class="t a0"' in span(Token("a", 0.0), 2.0)
    assert "3:7" in span(Token("a", 1.0, "3:7"), 2.0)
    assert "50 % of 2" in span(Token("a", 1.0), 2.0)


def test_line_ends_break_only_when_asked():
    tokens = [Token("a\n"), Token("b")]
    assert "<br>" in strip(tokens, 1.0, breaks=True)
    assert "<br>" not in strip(tokens, 1.0)


def test_an_empty_token_is_still_drawn():
    assert Reader(span(Token(""), 1.0)).texts == ["∅"]
    assert Reader(chip("")).texts == ["∅"]


def test_a_strip_says_what_it_shows():
    assert summary([Token("a", 1.0), Token("b", 2.0)], 4.0) == "2 tokens, strongest 'b' at 2 of 4"
    assert summary([], 1.0) == "0 tokens, none active"
