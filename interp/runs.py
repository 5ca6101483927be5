"""Run folders, the one contract between stages, command line and app (`data/README.md` is the normative page).

`<stage>-<hash8>/` is finished, sealed by `manifest.json` and read-only; `<stage>-<hash8>.part/` is work in progress, which the same
command resumes. The hash covers the config and the parents, so equal work has one folder and a stage is its own cache.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interp.tables import hash8
from saes.errors import InputError

SCHEMA = 1
MANIFEST = "manifest.json"
CONFIG = "config.json"
_NAME = re.compile(r"[a-z]+-[0-9a-f]{8}")
# Files of a folder in progress that the finished run does not keep.
SCRATCH = (".lock", "checkpoint", "progress.jsonl", "progress.json")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run folder."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def stage(self) -> str:
        return self.id.split("-")[0]

    @property
    def config(self) -> dict[str, Any]:
        return self._object(CONFIG)

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """File name to {"size": bytes, "sha256": hex}."""
        return self._object(MANIFEST)["files"]

    def _object(self, name: str) -> dict[str, Any]:
        """A JSON object of the run; raises InputError when it cannot be read."""
        try:
            return dict(read_json(self.path / name))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.id}/{name} is damaged ({error}); delete the folder {self.path} and make the run anew") from None

    def parent(self, name: str) -> "Run":
        """The run that this one was made from under that name; raises InputError when it is gone."""
        return open_run(self.path.parent, self.config["parents"][name])

    def has(self, name: str) -> bool:
        return name in self.manifest

    def file(self, name: str) -> Path:
        """The path of a file of the run, its size checked; raises InputError when it is missing or cut short."""
        entry = self.manifest.get(name)
        if entry is None:
            raise InputError(f"{self.id} has no {name}; it holds {', '.join(sorted(self.manifest))}")
        path = self.path / name
        size = path.stat().st_size if path.exists() else 0
        if size != entry["size"]:
            raise InputError(
                f"{self.id}/{name} has {size} bytes where its manifest says {entry['size']}: "
                f"the file is damaged; delete the folder {self.path} and run the command again: {self.command}"
            )
        return path

    @property
    def command(self) -> str:
        """The command that made the run."""
        return self.config["provenance"]["command"]

    def verify(self, *names: str) -> None:
        """Recompute the sha256 of the named files (all without names); raises InputError for the first that differs."""
        for name in names or tuple(self.manifest):
            if sha256(self.file(name)) != self.manifest[name]["sha256"]:
                raise InputError(
                    f"{self.id}/{name} does not match its sha256: the file is damaged; "
                    f"delete the folder {self.path} and run the command again: {self.command}"
                )


@dataclasses.dataclass(frozen=True)
class Draft:
    """A run folder in progress, held by one process. `seal` makes it a run."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name.removesuffix(".part")

    def write_json(self, name: str, data: Any) -> None:
        """Write aside, then rename: a reader sees the old file or the new one."""
        with written(self.path / name) as aside:
            aside.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    def seal(self) -> Run:
        """Write the manifest last, rename the folder, return the finished run."""
        files = {name: {"size": (self.path / name).stat().st_size, "sha256": sha256(self.path / name)} for name in self._kept()}
        self.write_json(MANIFEST, {"schema": SCHEMA, "files": files})
        # A killed process resumes from these as long as it may have to.
        for name in SCRATCH:
            scratch = self.path / name
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink(missing_ok=True)
        final = self.path.with_name(self.id)
        os.rename(self.path, final)
        _sync(final.parent)
        return Run(final)

    def _kept(self) -> list[str]:
        """Names of the files that the finished run holds."""
        paths = (path.relative_to(self.path) for path in sorted(self.path.rglob("*")) if path.is_file())
        return [p.as_posix() for p in paths if p.parts[0] not in (*SCRATCH, MANIFEST) and p.suffix != ".aside"]


def run_id(stage: str, config: dict[str, Any], parents: dict[str, str]) -> str:
    """The folder name of that work: `train-1a2b3c4d`."""
    return f"{stage}-{hash8({'schema': SCHEMA, 'stage': stage, 'parents': parents, 'config': config})}"


def find_run(root: Path, name: str) -> Run | None:
    """The finished run of that name, or None."""
    return Run(root / name) if (root / name / MANIFEST).is_file() else None


def open_run(root: Path, name: str, stage: str | None = None) -> Run:
    """The finished run `name` under `root`; raises InputError when it is unknown, unfinished, of another stage or schema."""
    name = name.strip().rstrip("/").split("/")[-1]
    if (root / name).is_dir():
        name = name.removesuffix(".part")
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no run name; names look like train-1a2b3c4d, and `interp runs` lists those under {root}")
    if (run := find_run(root, name)) is None:
        if (root / f"{name}.part").is_dir():
            raise InputError(f"{name} is unfinished; run the command that started it again: {_command(root / (name + '.part'))}")
        raise InputError(f"there is no run {name} under {root}; `interp runs` lists what is there")
    if (schema := run.config.get("schema")) != SCHEMA:
        raise InputError(f"{name} has schema {schema}, this version reads {SCHEMA}; make it anew: {_command(run.path)}")
    if stage is not None and run.stage != stage:
        raise InputError(f"{name} is a {run.stage} run, a {stage} run is needed; `interp runs` lists what is there")
    return run


def list_runs(root: Path, stage: str | None = None) -> list[Run]:
    """All finished runs under `root`, newest first."""
    found = [Run(p.parent) for p in root.glob(f"*-*/{MANIFEST}") if _NAME.fullmatch(p.parent.name)]
    found = [run for run in found if stage is None or run.stage == stage]
    return sorted(found, key=lambda run: (run.path / MANIFEST).stat().st_mtime, reverse=True)


@contextlib.contextmanager
def draft(root: Path, stage: str, config: dict[str, Any], parents: dict[str, str], command: str | None = None) -> Iterator[Draft]:
    """Begin or resume the folder of that work, made by `command` (the one that runs). Raises InputError when another process holds it."""
    path = root / f"{run_id(stage, config, parents)}.part"
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is working on {path.name}; wait for it or stop it first") from None
        work = Draft(path)
        if not (path / CONFIG).exists():
            head = {"schema": SCHEMA, "stage": stage, "parents": parents, "config": config}
            work.write_json(CONFIG, {**head, "provenance": _provenance(root, parents, command)})
        try:
            yield work
        except InputError:
            # Refused before anything was written: there is nothing to resume.
            if {p.name for p in path.iterdir()} == {CONFIG, ".lock"}:
                shutil.rmtree(path)
            raise


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to; afterwards it is synced and renamed to `path`. A crash or a full disk leaves the old file."""
    aside = path.with_name(path.name + ".aside")
    try:
        yield aside
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _command(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError, ValueError):
        return json.loads((path / CONFIG).read_text())["provenance"]["command"]
    return "`interp --help` lists the commands"


def _provenance(root: Path, parents: dict[str, str], command: str | None) -> dict[str, Any]:
    from importlib.metadata import version

    arguments = sys.argv[1:] if Path(sys.argv[0]).stem in ("interp", "__main__", "cli") else []
    return {
        "command": command or shlex.join(["interp", *arguments]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("interp-workbench", "torch", "transformers", "transformer-lens")},
        "parents": {name: sha256(root / run / MANIFEST) for name, run in parents.items()},
    }
