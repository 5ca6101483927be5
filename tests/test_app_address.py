"""Addresses: what is written is read back, and junk is refused with a sentence."""

from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import address
from app.readers import Vocabulary
from app.selection import DENSE, LOWEST, NEAR_DUPLICATE, ONE_TOKEN, PRESETS, SORTS, Selection
from interp.features import latents, stats
from saes.errors import InputError

RANGES = st.tuples(st.integers(-70, 0), st.integers(-70, 0)).map(lambda ends: (min(ends) / 10, max(ends) / 10))
SELECTIONS = st.builds(
    Selection,
    q=st.text(max_size=20),
    preset=st.sampled_from(list(PRESETS)),
    sort=st.sampled_from(list(SORTS)),
    order=st.sampled_from(["up", "down"]),
    dens=RANGES,
)


def read(link: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(link).query, keep_blank_values=True)


@given(st.dictionaries(st.sampled_from(["run", "f", "q"]), st.text(min_size=1, max_size=30), max_size=3))
def test_parameters_are_read_back_as_they_were_written(parameters):
    assert read(address.href("feature", **parameters)) == {name: [value] for name, value in parameters.items()}


def test_absent_parameters_are_left_out_and_several_values_repeated():
    assert address.href("runs", sel=["a", "b"], x=None, y="") == "runs?sel=a&sel=b"
    assert address.href("") == "."


def test_an_anchor_escapes_its_text_and_its_address():
    assert address.anchor("feature", "<b>", q='"&') == '<a href="feature?q=%22%26">&lt;b&gt;</a>'


@given(st.text(max_size=30))
def test_junk_is_either_a_number_in_range_or_a_sentence(text):
    for parse, kind in ((address.whole, int), (address.real, float)):
        try:
            value = parse(text, "f", 0, 10)
        except InputError as error:
            assert "from 0 to 10" in str(error)
        else:
            assert isinstance(value, kind)
            assert 0 <= value <= 10


@given(st.text(max_size=30))
def test_junk_is_either_a_head_or_a_sentence(text):
    try:
        assert address.head_name(text, 3, 4) in [f"{layer}.{head}" for layer in range(3) for head in range(4)]
    except InputError as error:
        assert "0.0 to 2.3" in str(error)


@pytest.mark.parametrize("text", ["4.5", "-1", "11", "abc", "", "1e3", "٣", "0x1", " 1"])
def test_numbers_that_a_widget_would_drop_silently_are_refused(text):
    with pytest.raises(InputError, match="whole number from 0 to 10"):
        address.whole(text, "f", 0, 10)


def test_an_absent_parameter_is_nothing():
    assert (
        address.whole(None, "f", 0, 1)
        is address.real(None, "f", 0, 1)
        is address.choice(None, "x", "ab")
        is address.head_name(None, 1, 1)
        is None
    )


def test_an_unknown_choice_names_the_known_ones():
    with pytest.raises(InputError, match="choose one of top, bands"):
        address.choice("botom", "group", ("top", "bands"))


def test_a_query_of_more_than_2000_characters_is_refused():
    address.check_length({"q": ["x" * 1900]})
    with pytest.raises(InputError, match="at most 2000"):
        address.check_length({"q": ["x" * 1000, "y" * 1000]})


@given(SELECTIONS)
def test_a_selection_travels_in_the_address(selection):
    assert Selection.parse(read(address.href("explorer", **selection.parameters()))) == selection


@given(st.dictionaries(st.sampled_from(["q", "preset", "dens", "sort", "order"]), st.lists(st.text(max_size=8), max_size=3)))
def test_a_selection_of_junk_is_refused_or_valid(query):
    try:
        selection = Selection.parse(query)
    except InputError:
        return
    assert selection.preset in PRESETS
    assert LOWEST <= selection.dens[0] <= selection.dens[1] <= 0


def latents_table():
    rng = np.random.default_rng(0)
    n = 200
    density = np.where(rng.random(n) < 0.1, 0, 10 ** rng.uniform(-5, 0, n)).astype(np.float32)
    names = ("max_act", "mean_act", "logit_kurtosis", "token_entropy", "nearest_cos", "enc_dec_cos", "top_token_share")
    columns = {name: rng.random(n).astype(np.float32) * (20 if name == "logit_kurtosis" else 1) for name in names}
    return {"latent": np.arange(n), "density": density, "dead": density == 0, "top_token": rng.integers(0, 3, n), **columns}


TABLE = latents_table()
VOCAB = Vocabulary(pa.chunked_array([["the", " Cat", "<b>"]]), np.zeros(3, bool))


@given(SELECTIONS)
def test_the_list_equals_the_literal_loop(selection):
    table = TABLE
    preset = PRESETS[selection.preset].mask(table)
    expected = []
    for i in range(len(table["latent"])):
        low, high = selection.dens
        dense = table["density"][i] > 0 and low <= np.log10(table["density"][i]) <= high
        inside = dense or (table["density"][i] == 0 and low == LOWEST) or (low == LOWEST and table["density"][i] < 10**LOWEST)
        token = VOCAB.text(int(table["top_token"][i])).lower()
        text = not selection.q or (not table["dead"][i] and selection.q.lower() in token) or selection.q == str(i)
        expected += [i] if preset[i] and inside and text else []
    assert sorted(selection.latents(table, VOCAB).tolist()) == expected


@pytest.mark.parametrize("sort", [s for s in SORTS if s != "latent"])
def test_the_list_is_sorted_and_keeps_ties_by_number(sort):
    table = TABLE
    values = table[sort][Selection(sort=sort).latents(table, VOCAB)]
    assert (np.diff(values) <= 0).all()
    assert (np.diff(table[sort][Selection(sort=sort, order="up").latents(table, VOCAB)]) >= 0).all()
    dead = Selection(preset="dead", sort="density").latents(table, VOCAB)
    assert dead.tolist() == sorted(dead.tolist())


def test_search_ignores_case_and_finds_numbers():
    table = TABLE
    assert set(table["top_token"][Selection(q="CAT").latents(table, VOCAB)]) == {1}
    assert 17 in Selection(q="17").latents(table, None)


def test_one_density_is_not_a_range():
    with pytest.raises(InputError, match="dens was given 1 times"):
        Selection.parse({"dens": ["-3"]})


def test_thresholds_are_those_of_the_statistics():
    assert (DENSE, ONE_TOKEN, NEAR_DUPLICATE) == (stats.DENSE, latents.ONE_TOKEN, latents.NEAR_DUPLICATE)
