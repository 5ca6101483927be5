"""`python -m app --root data/runs`: start the server on this machine only."""

import argparse
import os
import sys
from pathlib import Path

LOCAL = ("127.0.0.1", "localhost", "::1")


def command(root: Path, port: int, host: str) -> list[str]:
    """The command line of the server."""
    server = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("main.py"))]
    return [*server, "--server.address", host, "--server.port", str(port), "--", "--root", str(root)]


def main() -> None:
    """Parse the command line and become the server."""
    parser = argparse.ArgumentParser("app", description="Explore run folders in a browser.")
    parser.add_argument("--root", type=Path, default=Path("data/runs"), help="folder of the run folders")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; anything else than this machine shows the runs to others"
    )
    given = parser.parse_args()
    if given.host not in LOCAL:
        print(f"warning: listening on {given.host}: everyone who reaches it can read the runs under {given.root}", file=sys.stderr)
    line = command(given.root, given.port, given.host)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
