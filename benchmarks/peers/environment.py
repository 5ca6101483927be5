"""The peers' own virtual environment: made on first use, kept in the user's cache directory, made anew when `requirements.txt` changes."""

import shutil
import subprocess
import sys
from pathlib import Path

from interp.models.packaged import cache_folder
from saes.errors import InputError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def folder() -> Path:
    return cache_folder() / "peers"


def interpreter() -> Path:
    """The environment's Python. Raises InputError when it cannot be made."""
    python, ready = folder() / "bin" / "python", folder() / "ready.txt"
    if not (python.exists() and ready.exists() and ready.read_text() == REQUIREMENTS.read_text()):
        print(f"installing the peers into {folder()}: 2.5 GB, some minutes, once", file=sys.stderr)
        shutil.rmtree(folder(), ignore_errors=True)
        _install(python)
        ready.write_text(REQUIREMENTS.read_text())
    return python


def _install(python: Path) -> None:
    _run(sys.executable, "-m", "venv", str(folder()))
    _run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS))
    # nnsight brings torchvision, which nobody here uses; built for another torch it keeps transformers from being imported.
    _run(str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"the peers could not be installed ({last}); check the network and run the same command again, or measure --only ours"
        )
