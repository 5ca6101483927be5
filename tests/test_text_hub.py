"""Data sets of the Hub: the real client, against nothing, and against a server on the loopback that answers as the Hub does."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from interp.text import Docs, Hub
from saes.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [{"text": "One day a fox ran.", "n": 1}, {"text": " ", "n": 2}, {"text": "A dog saw it.", "n": 3}]
CONTENT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()

# The address of the Hub is read when its client is imported, hence a process of its own.
CLIENT = """
import json, sys
from interp.text import parse
from saes.errors import InputError
for text in sys.argv[1:]:
    try:
        corpus = parse(text)
        print(json.dumps([corpus.revision(), [[d.text, d.source] for d in corpus.documents()]]))
    except InputError as error:
        print(json.dumps(str(error)))
"""


class FoxHub(http.server.BaseHTTPRequestHandler):
    """The part of the Hub that a stream of one JSON file needs."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path in ("/api/datasets/own/fox", f"/api/datasets/own/fox/revision/{COMMIT}"):
            self.answer(json.dumps({"id": "own/fox", "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}]}).encode())
        elif path == f"/api/datasets/own/fox/tree/{COMMIT}":
            self.answer(json.dumps([{"type": "file", "oid": "a" * 40, "size": len(CONTENT), "path": "train.jsonl"}]).encode())
        elif path == f"/datasets/own/fox/resolve/{COMMIT}/train.jsonl":
            self.answer(CONTENT, ETag='"a"', X_Repo_Commit=COMMIT)
        else:
            self.answer(b"", 404, X_Error_Code="EntryNotFound" if "/fox/" in path else "RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        entries = [{"type": "file", "oid": "a" * 40, "size": len(CONTENT), "path": "train.jsonl"}] if "train.jsonl" in asked else []
        self.answer(json.dumps(entries).encode())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FoxHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def asked(endpoint: str, home: Path, *corpora: str) -> list:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", CLIENT, *corpora], env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_offline_one_sentence_offers_what_needs_no_network():
    with pytest.raises(InputError, match=r"roneneldan/TinyStories.*OfflineModeIsEnabled.*`docs`.*`files:PATH`") as error:
        next(Hub("roneneldan/TinyStories").documents())
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="`docs`"):
        Hub("roneneldan/TinyStories").revision()


def test_describing_needs_no_network():
    assert Hub("own/fox", config="small").describe() == "own/fox (small), split train, column text, from the Hub"
    assert "packages" in Docs().describe()


def test_an_unreachable_hub_is_one_sentence_and_no_long_wait(tmp_path: Path):
    (said,) = asked("http://127.0.0.1:9", tmp_path, "hub:own/fox")
    assert said.startswith("the Hub could not be asked for the data set 'own/fox'")
    assert "`docs`" in said


@pytest.mark.slow
def test_a_data_set_is_streamed_at_the_commit_of_its_revision(endpoint: str, tmp_path: Path):
    read, column, kind, split, config, unknown = asked(
        endpoint,
        tmp_path,
        "hub:own/fox",
        "hub:own/fox:train:body",
        "hub:own/fox:train:n",
        "hub:own/fox:test",
        "hub:own/fox/small",
        "hub:own/none",
    )
    assert read == [
        f"hub-{COMMIT}-default-train-text",
        [["One day a fox ran.", "own/fox:1"], ["A dog saw it.", "own/fox:3"]],
    ]
    assert column == "own/fox has no text in the column 'body' but in: text; name one as hub:NAME:SPLIT:COLUMN"
    assert "column 'n' but in: text" in kind
    assert "Bad split: test" in split
    assert "'small' not found" in config
    assert "no data set 'own/none'" in unknown
