"""The app in a real browser: addresses, keyboard, clicks, hostile text, both themes, and a silent console."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from synthetic_runs import Family, write_family
from synthetic_zoo import Zoo, write_zoo

from app.__main__ import command
from interp.viz.colours import DARK, LIGHT

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Streamlit probes these two below the address of a page that is opened directly, and gets 404.
PROBES = ("/_stcore/health", "/_stcore/host-config")
WAIT = 60_000


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    return write_family(tmp_path_factory.mktemp("runs"), hostile=True)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def server(family, tmp_path_factory) -> Iterator[str]:
    with serving(family.root, tmp_path_factory.mktemp("log")) as address:
        yield address


@pytest.fixture(scope="module")
def zoo_server(zoo, tmp_path_factory) -> Iterator[str]:
    with serving(zoo.root, tmp_path_factory.mktemp("log")) as address:
        yield address


@contextlib.contextmanager
def serving(root: Path, logs: Path) -> Iterator[str]:
    """The app on a free port, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (logs / "server.log").open("w") as log:
        process = subprocess.Popen(command(root, port, "127.0.0.1"), stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(address: str, process: subprocess.Popen) -> None:
    for _ in range(120):
        assert process.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """A tab that waits for the page's marker and collects what the console complains about."""

    def __init__(self, browser, server: str, scheme: str = "light") -> None:
        self.page = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme=scheme).new_page()
        self.server, self.errors = server, []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._listen)

    def _listen(self, message) -> None:
        if message.type == "error" and not message.location.get("url", "").endswith(PROBES):
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def open(self, page: str, query: str = "") -> "Tab":
        self.page.goto(f"{self.server}/{page}" + (f"?{query}" if query else ""))
        return self.settle(page)

    def settle(self, page: str) -> "Tab":
        self.page.wait_for_selector(f'header[data-page="{page or "home"}"]', timeout=WAIT)
        self.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=WAIT)
        return self

    def press(self, key: str, expected: str) -> None:
        self.page.keyboard.press(key)
        self.page.wait_for_selector(f"text={expected}", timeout=WAIT)

    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.url).query)

    def wait_for_query(self, name: str, value: str) -> None:
        self.page.wait_for_url(lambda url: parse_qs(urlsplit(url).query).get(name) == [value], timeout=WAIT)

    def text(self) -> str:
        return self.page.inner_text('[data-testid="stMain"]')


@pytest.fixture
def tab(chromium, server) -> Iterator[Tab]:
    opened = Tab(chromium, server)
    yield opened
    pwned, errors = opened.page.evaluate("window.pwned"), opened.errors
    opened.page.context.close()
    assert pwned is None
    assert not errors


def test_home_leads_to_the_features_and_back_returns(tab, family):
    tab.open("").page.click("text=Explore latents")
    tab.settle("explorer").page.wait_for_selector("table.grid >> text=strongest example", timeout=WAIT)
    assert tab.query()["run"] == [family.describe.id]
    tab.page.go_back()
    tab.settle("home")


@pytest.mark.parametrize(
    ("page", "query", "sign"),
    [
        ("runs", "sel={train}&m=fvu&y=kl", "Sparsity against fidelity"),
        ("explorer", "run={describe}&preset=dead&sort=nearest_cos&dens=-7&dens=-1", "lost capacity"),
        ("feature", "run={describe}&f=41&group=bands&width=short", "Latent 41"),
        ("codes", "run={describe}&rx=( the)&by=recall&c=7", "tokens marked"),
        ("heads", "run={heads}&metric=previous_token&h=2.3", "Head 2.3"),
        ("head", "run={heads}&h=5.4&ex=1&q=3", "What token 3 attends to"),
        ("circuit", "run={circuit}&by=exact&n=7&scope=heads", "7 nodes by exact"),
        ("circuit", "run={edges}&n=137&node=7.3", "137 edges by score"),
    ],
)
def test_an_address_restores_its_view_and_stays_in_the_bar(tab, family, page, query, sign):
    names = {"train": family.trains[0].id, "describe": family.describe.id, "heads": family.heads.id, "circuit": family.circuit.id}
    names["edges"] = family.edges.id
    filled = query.format(**names)
    tab.open(page, filled).page.wait_for_selector(f"text={sign}", timeout=WAIT)
    assert {name: tab.query().get(name) for name in parse_qs(filled)} == parse_qs(filled)


def test_a_page_from_the_menu_writes_its_address(tab, family):
    tab.open("").page.click('a:has-text("Feature") >> nth=0')
    tab.settle("feature").wait_for_query("run", family.describe.id)
    assert "f" in tab.query()


def test_the_picker_changes_the_run_and_back_undoes_it(chromium, zoo_server, zoo):
    tab = Tab(chromium, zoo_server).open("feature", f"run={zoo.describes['codebook'].id}&f=3")
    tab.page.wait_for_selector("h2:has-text('Code 3')", timeout=WAIT)
    tab.page.get_by_role("combobox").first.click()
    tab.page.click(f"text={zoo.describes['skip'].id}")
    tab.wait_for_query("run", zoo.describes["skip"].id)
    tab.page.wait_for_selector("h2:has-text('Latent 3')", timeout=WAIT)
    tab.page.go_back()
    tab.wait_for_query("run", zoo.describes["codebook"].id)
    tab.page.wait_for_selector("h2:has-text('Code 3')", timeout=WAIT)
    assert not tab.errors
    tab.page.context.close()


def test_a_pill_takes_the_relatives_of_a_run_away_and_back_brings_them_again(chromium, zoo_server, zoo):
    tab = Tab(chromium, zoo_server).open("runs", f"sel={zoo.grid[0].id}&vary=k&vary=architecture")
    tab.page.wait_for_selector("text=In view: 6 runs", timeout=WAIT)
    tab.page.get_by_test_id("stButtonGroup").get_by_text("architecture", exact=True).click()
    tab.page.wait_for_selector("text=In view: 3 runs", timeout=WAIT)
    assert tab.query()["vary"] == ["k"]
    tab.page.go_back()
    tab.page.wait_for_selector("text=In view: 6 runs", timeout=WAIT)
    assert not tab.errors
    tab.page.context.close()


def test_a_click_on_a_point_names_its_dictionary(chromium, zoo_server, zoo):
    tab = Tab(chromium, zoo_server).open("runs", f"sel={zoo.grid[0].id}&vary=k&vary=architecture")
    points = tab.page.locator('[data-testid="stPlotlyChart"]').nth(1).locator(".scatterlayer .points path.point")
    points.first.wait_for(timeout=WAIT)
    points.first.click(force=True)
    tab.page.wait_for_selector("text=Chosen: ", timeout=WAIT)
    assert not tab.errors
    tab.page.context.close()


def test_keys_step_through_the_latents_and_back_undoes_a_step(tab, family):
    tab.open("feature", f"run={family.describe.id}&f=10").page.wait_for_selector("h2:has-text('Latent 10')", timeout=WAIT)
    tab.press("j", "Latent 11")
    tab.wait_for_query("f", "11")
    tab.press("k", "Latent 10")
    tab.wait_for_query("f", "10")
    tab.page.go_back()
    tab.wait_for_query("f", "11")


def test_keys_do_nothing_while_one_types(tab, family):
    tab.open("explorer", f"run={family.describe.id}").page.wait_for_selector("table.grid >> text=strongest example", timeout=WAIT)
    box = tab.page.get_by_label("top token contains, or latent number")
    box.fill("ma")
    box.press("ArrowRight")
    box.press("Enter")
    tab.wait_for_query("q", "ma")
    assert "page" not in tab.query() or tab.query()["page"] == ["1"]


def test_a_link_to_a_latent_keeps_the_filters_of_the_list(tab, family):
    tab.open("explorer", f"run={family.describe.id}&sort=density").page.wait_for_selector("table.grid td a", timeout=WAIT)
    tab.page.locator("table.grid td a").first.click()
    tab.settle("feature")
    assert tab.query()["sort"] == ["density"]
    tab.page.wait_for_selector("text=1 of 192 in", timeout=WAIT)


def test_a_click_on_a_cell_picks_the_head(tab, family):
    tab.open("heads", f"run={family.heads.id}&metric=induction&h=0.0").page.wait_for_selector("h3:has-text('Head 0.0')", timeout=WAIT)
    changed = "new URLSearchParams(location.search).get('h') !== '0.0'"
    for share in (0.3, 0.45, 0.6, 0.75):
        # ECharts stacks canvases, of which only the uppermost takes the mouse; a click before it listens is lost, so the next cell follows.
        box = tab.page.locator("canvas").first.bounding_box()
        tab.page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.6)
        with contextlib.suppress(sync_api.TimeoutError):
            tab.page.wait_for_function(changed, timeout=8000)
            break
    (picked,) = tab.query()["h"]
    tab.page.wait_for_selector(f"h3:has-text('Head {picked}')", timeout=WAIT)


def test_hostile_tokens_are_drawn_as_text_and_run_nothing(tab, family):
    latent = next(i for i in range(192) if (family.acts[i] > 0)[family.tokens.ravel() == 2].any())
    tab.open("feature", f"run={family.describe.id}&f={latent}").page.wait_for_selector("h3:has-text('Examples')", timeout=WAIT)
    tab.page.wait_for_selector("bdi.t", timeout=WAIT)
    assert "<script>window.pwned=1</script>" in tab.text()
    assert tab.page.locator(".strip script, .strip img, .strip a").count() == 0


@pytest.mark.parametrize("page", ["", "runs", "explorer", "feature", "heads", "head", "circuit"])
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_every_page_draws_in_both_themes(chromium, server, page, theme):
    opened = Tab(chromium, server, theme.name).open(page)
    opened.page.wait_for_selector(".panel", timeout=WAIT)
    style = "getComputedStyle(document.documentElement).getPropertyValue('--bg').trim()"
    opened.page.wait_for_function(f"{style} === '{theme.background}'", timeout=WAIT)
    assert opened.page.locator('[data-testid="stException"]').count() == 0
    assert not opened.errors
    opened.page.context.close()


def test_the_server_answers_on_this_machine_only(server):
    port = urlsplit(server).port
    listening = Path("/proc/net/tcp").read_text().split("\n") if sys.platform == "linux" else []
    local = [line.split()[1] for line in listening[1:] if line and line.split()[3] == "0A"]
    assert {address.split(":")[0] for address in local if int(address.split(":")[1], 16) == port} == {"0100007F"}
