"""A training in progress as one file: written aside, synced, renamed, so that a crash or a full disk leaves the previous one whole.

safetensors with a JSON header and a checksum; no pickles.
"""

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saes.errors import InputError

SCHEMA = "1"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step depends on, but for the batches."""

    step: int
    """Steps done; `batches` must be positioned to give the next one."""
    tokens: int
    config: dict[str, Any]
    """The `FitConfig` as plain JSON; a run can only be resumed with the same."""
    tensors: dict[str, Tensor]
    """Weights and buffers (`module/...`), Adam's moments (`adam/...`), `silent` counters, state of the generator."""


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file by this checkpoint, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    head = {"step": checkpoint.step, "tokens": checkpoint.tokens, "config": checkpoint.config}
    metadata = {"schema": SCHEMA, "checkpoint": json.dumps(head), "crc32": _checksum(tensors)}
    with aside(path) as new:
        save_file(tensors, new, metadata)


def read(path: Path) -> Checkpoint:
    """Read what `write` wrote; raises InputError when the file is missing, cut short, damaged or of another schema."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; start the training without one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file handle, not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"the checkpoint {path} is damaged ({error}); delete it and start the training anew") from None
    if metadata.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {metadata.get('schema')}, this version reads {SCHEMA}; delete it and start the training anew")
    if metadata.get("crc32") != _checksum(tensors):
        raise InputError(f"the checkpoint {path} does not match its checksum: it is damaged; delete it and start the training anew")
    return Checkpoint(**json.loads(metadata["checkpoint"]), tensors=tensors)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path to write to; afterwards it is synced and renamed to `path`."""
    new = path.with_name(path.name + ".aside")
    try:
        yield new
        _sync(new)
        os.replace(new, path)
        _sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(tensors: dict[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        if tensors[name].numel():
            total = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
