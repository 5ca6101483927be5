"""Runs in words and families: the names of dictionaries and latents, what differs, and which runs belong together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import train_config
from synthetic_zoo import LAYERS, MLP

from app import encoding, families
from app.dictionaries import Dictionary, beside
from app.encoding import By
from interp.stages.train import Train
from interp.tables import to_json
from saes.architectures import ARCHITECTURES, Codebook, TopK

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["kind", "k", "aux", "books"]), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.sampled_from(["architecture", "site", "write", "skip", "width", "seed"]), JSON)


def of(*args, **fields) -> Dictionary:
    return Dictionary.of(train_config(*args, **fields))


def test_a_dictionary_is_named_by_what_it_does():
    assert of(32, **MLP, skip=True, width=4608).name == "TopK k=32 · 10.mlp_in → 10.mlp_out + skip · 4,608 latents"
    assert of(8, "Codebook", width=512).name == "Codebook k=8 · 10.resid_post · 512 codes"
    assert of(None, "Perceptron").name == "Perceptron · 10.resid_post · 192 latents"
    assert of(16, "CrossLayer", **LAYERS).sites == "10.mlp_in+11.mlp_in → 10.mlp_out+11.mlp_out"
    assert beside([f"{i}.mlp_in" for i in range(5, 9)]) == "5.mlp_in+…+8.mlp_in (4 sites)"


def test_the_words_are_those_of_the_config_that_a_training_writes():
    config = to_json(Train("cache-00000000", architecture=TopK(k=16), site="3.mlp_in", write="3.mlp_out", width=64, skip=True))
    assert Dictionary.of(config).name == "TopK k=16 · 3.mlp_in → 3.mlp_out + skip · 64 latents"
    config = to_json(Train("cache-00000000", architecture=Codebook(k=4, books=2), site="3.z", write="3.z", width=64))
    assert Dictionary.of(config).size == "64 codes in 2 books"
    assert Dictionary.of(config).constant == "the 4 chosen codes of a book are averaged, so each counts 1/4"


@given(CONFIGS)
def test_any_config_can_be_put_into_words(config):
    found = Dictionary.of(config)
    assert found.name
    assert found.called(3).startswith(("Latent 3", "Code 3"))
    assert families.fields(config)["architecture"] == found.kind


def test_latents_are_called_by_their_place_where_it_says_something():
    assert of(32).called(41) == "Latent 41"
    assert of(8, "Codebook").called(41) == "Code 41"
    two = {"kind": "Codebook", "k": 8, "books": 2}
    assert of(architecture=two).called(100) == "Code 100 · code 4 of book 1"
    assert [of(4, "Discrete").note(i) for i in (0, 190, 191)] == ["", "", "none"]
    layers = of(16, "CrossLayer", **LAYERS)
    assert [layers.called(i) for i in (0, 95, 96, 191)] == [
        "Latent 0 · layer 10", "Latent 95 · layer 10", "Latent 96 · layer 11", "Latent 191 · layer 11",
    ]  # fmt: skip


def test_kinds_are_those_that_can_be_trained():
    assert tuple(ARCHITECTURES) == families.KINDS


A = families.fields(train_config(16))


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (train_config(32), {"k"}),
        (train_config(16, **MLP), {"sites"}),
        (train_config(16, **MLP, skip=True), {"sites", "skip"}),
        (train_config(16, "Gated"), {"architecture"}),
        (train_config(16, log_every=3), set()),
        (train_config(16, seed=1, lr=1e-3), {"seed", "lr"}),
    ],
)
def test_runs_differ_in_the_fields_that_were_given_differently(config, difference):
    other = families.fields(config)
    assert families.gap(A, other) == difference
    assert set(families.differing([A, other])) == difference


GRID = {
    f"{kind} {k} {seed}": families.fields(train_config(k, kind, seed=seed))
    for kind in ("TopK", "Gated")
    for k in (8, 16)
    for seed in (0, 1)
}


def test_relatives_differ_in_nothing_but_the_named_fields():
    assert families.relatives(["TopK 8 0"], GRID, []) == ["TopK 8 0"]
    assert families.relatives(["TopK 8 0"], GRID, ["k"]) == ["TopK 8 0", "TopK 16 0"]
    assert families.relatives(["TopK 8 0", "Gated 16 1"], GRID, ["seed"]) == ["TopK 8 0", "TopK 8 1", "Gated 16 0", "Gated 16 1"]
    assert families.relatives(["TopK 8 0"], GRID, ["k", "seed", "architecture"]) == list(GRID)


def test_a_family_leaves_out_how_sparse_and_which_seed():
    names = families.differing(list(GRID.values()))
    assert names == ["architecture", "k", "seed"]
    assert {families.family(run, names) for run in GRID.values()} == {(("architecture", "TopK"),), (("architecture", "Gated"),)}


def test_a_run_is_told_by_what_sets_it_apart():
    assert families.told(GRID["TopK 8 1"], ["architecture", "k", "seed", "penalty"]) == "TopK · k=8 · seed 1"
    config = train_config(16, **MLP, skip=True, lr=None)
    assert (
        families.told(families.fields(config), ["sites", "skip", "width", "lr"])
        == "10.mlp_in → 10.mlp_out · skip · 192 latents · lr=default"
    )
    assert families.spread(list(GRID.values()), ["architecture", "k"]) == "architecture (2 values), k (2)"


RUNS = list(GRID.values())
SITES = [families.fields(train_config(k, site=f"{i}.resid_post")) for i in range(3) for k in (8, 16)]


@pytest.mark.parametrize(
    ("runs", "asked", "expected"),
    [
        (RUNS, ("auto", "auto", "auto"), ("architecture", "k", "")),
        (RUNS, ("k", "auto", "auto"), ("k", "architecture", "")),
        (RUNS, ("auto", "nothing", "seed"), ("architecture", "", "seed")),
        (RUNS[:2], ("auto", "auto", "auto"), ("seed", "", "")),
        (RUNS[:1], ("auto", "auto", "auto"), ("architecture", "", "")),
        (SITES, ("auto", "auto", "auto"), ("k", "", "sites")),
        (SITES[::2], ("auto", "auto", "auto"), ("sites", "", "")),
    ],
)
def test_auto_chooses_what_tells_most(runs, asked, expected):
    assert encoding.of_curves(runs, By(*asked)) == expected


SKIPS = [families.fields(train_config(k, **MLP, skip=skip)) for k in (8, 16) for skip in (False, True)]


@pytest.mark.parametrize(
    ("runs", "asked", "expected"),
    [
        (RUNS, "auto", ("architecture", "architecture")),
        (RUNS, "k", ("k", "architecture")),
        (RUNS, "nothing", ("", "architecture")),
        (SKIPS, "auto", ("skip", "skip")),
        (SITES, "auto", ("architecture", "architecture")),
    ],
)
def test_families_are_told_apart_by_colour_and_symbol(runs, asked, expected):
    assert encoding.of_points(runs, By(asked)) == expected
