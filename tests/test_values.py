"""Sites, nodes, configs: printed and parsed one way."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.sites import HEAD_STREAMS, STREAMS, Node, Site
from interp.tables import canonical, from_json, hash8, to_json
from saes.errors import InputError

sites = st.builds(Site, st.integers(0, 99), st.sampled_from(STREAMS)) | st.builds(
    Site, st.integers(0, 99), st.sampled_from(HEAD_STREAMS), st.integers(0, 99)
)
optional = st.none() | st.integers(0, 10**6)


@given(sites)
def test_a_site_is_parsed_as_it_is_printed(site: Site):
    assert Site.parse(str(site)) == site


@given(st.builds(Node, sites, optional, optional))
def test_a_node_is_parsed_as_it_is_printed(node: Node):
    assert Node.parse(str(node)) == node


@given(st.text(max_size=12))
def test_junk_is_a_site_or_one_clear_error(text: str):
    try:
        assert Site.parse(str(Site.parse(text))) == Site.parse(text)
    except InputError as error:
        assert "\n" not in str(error).replace(repr(text), "")


@pytest.mark.parametrize("text", ["10.resid", "resid_post", "3.z.", "-1.z", "3.resid_post.1", "3.z.5#x", ""])
def test_what_is_no_site_is_refused(text: str):
    with pytest.raises(InputError, match=r"names no site|has none"):
        Site.parse(text)


def test_a_list_of_sites_is_sorted_and_has_no_repeats():
    assert Site.parse_list("20.z, 3.mlp_in 20.z") == (Site(3, "mlp_in"), Site(20, "z"))


@dataclass(frozen=True)
class Inner:
    x: float = 1.0


@dataclass(frozen=True)
class Other:
    y: int = 2


@dataclass(frozen=True)
class Outer:
    sites: tuple[Site, ...]
    choice: Inner | Other
    folder: Path
    maybe: float | None = None


@given(st.lists(sites, max_size=3), st.builds(Inner, st.floats(-1e6, 1e6)) | st.builds(Other, st.integers()), st.none() | st.floats(-1, 1))
def test_a_config_survives_json(found: list[Site], choice: Inner | Other, maybe: float | None):
    config = Outer(tuple(found), choice, Path("a/b"), maybe)
    assert from_json(Outer, to_json(config)) == config


def test_an_unknown_field_of_a_config_is_named():
    with pytest.raises(InputError, match="Inner has no field z"):
        from_json(Inner, {"z": 1})


def test_the_hash_does_not_depend_on_the_order_of_keys_but_on_every_value():
    assert hash8({"a": 1, "b": 2}) == hash8({"b": 2, "a": 1}) != hash8({"a": 1, "b": 3})
    assert canonical({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'
