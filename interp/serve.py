"""`interp app`: start the browser app on this machine."""

import errno
import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from interp.stages.base import Context
from saes.errors import InputError


@dataclass(frozen=True)
class App:
    """Open the browser app on the runs."""

    port: int = 8501
    """Port to listen on."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but 127.0.0.1 lets others in."""
    browser: bool = True
    """Open a browser window."""

    def __call__(self, ctx: Context) -> None:
        check_port(self.host, self.port)
        if self.host not in ("127.0.0.1", "localhost", "::1"):
            print(f"interp: warning: {self.host} is reachable from other machines, and the app asks for no password", file=sys.stderr)
        subprocess.run(command(ctx.root, self.port, self.host, self.browser), env=os.environ, check=False)


def url(port: int, page: str = "", **parameters: str) -> str:
    """The address of a page of the app on this machine."""
    query = "&".join(f"{key}={value}" for key, value in parameters.items())
    return f"http://127.0.0.1:{port}/{page}" + (f"?{query}" if query else "")


def check_port(host: str, port: int) -> None:
    """Raises InputError when the port cannot be had."""
    if not 0 < port < 65536:
        raise InputError(f"port {port} is out of range; choose 1 to 65535, for example --port 8501")
    other = port + 1 if 1024 <= port < 65535 else 8501
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise InputError(f"{host} is no address of this machine; use --host 127.0.0.1") from error
        raise InputError(f"port {port} on {host} cannot be used ({error.strerror}); choose another, for example --port {other}") from error


def command(root: Path, port: int, host: str = "127.0.0.1", browser: bool = False) -> list[str]:
    """The Streamlit command line of the app."""
    settings = {
        "server.port": port, "server.address": host, "server.headless": str(not browser).lower(),
        "server.fileWatcherType": "none", "browser.gatherUsageStats": "false", "client.toolbarMode": "minimal",
    }  # fmt: skip
    flags = [f"--{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "streamlit", "run", str(_main()), *flags, "--", "--root", str(root.resolve())]


def _main() -> Path:
    """The app's first file, found without importing the app: imports point from the app to here."""
    spec = importlib.util.find_spec("app")
    assert spec is not None, "the app is installed with interp"
    assert spec.origin is not None, "the app is a package"
    return Path(spec.origin).parent / "main.py"
