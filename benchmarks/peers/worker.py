"""One trainer in a process of its own.

    python -m peers.worker        (dictionaries.py starts it, and sends a Task on its standard input)

Each library, ours too, pulls batches from an iterator inside its own training loop. The iterator that it gets here waits for an order
before it hands out a batch: the time until the next batch is asked for is one whole step of the library's own code, and between two
orders the process sleeps. Answers are lines of JSON on standard output; what a library prints goes to standard error.
"""

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from peers.task import Reconstruct, Task

# Rows at once when a trained dictionary is evaluated.
CHUNK = 2048


class Channel:
    """Orders in, answers out."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def order(self) -> str:
        """The next line; the process ends when there is none."""
        return sys.stdin.readline() or sys.exit(0)

    def answer(self, **values: Any) -> None:
        self._out.write(json.dumps(values) + "\n")


def main() -> None:
    channel = Channel()
    task = Task.parse(channel.order())
    torch.set_num_threads(task.threads)
    try:
        library = importlib.import_module(f"peers.train_{task.trainer}")
        {"speed": speed, "quality": quality}[task.mode](task, library.train, channel)
    except Exception as error:
        channel.answer(failed=f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def speed(task: Task, train: Any, channel: Channel) -> None:
    with safe_open(task.rows, "pt") as file:
        batches = [rows.clone() for rows in file.get_tensor("train").split(task.batch)]
    before = forget_peak()
    train(task, ordered(batches, channel, before))


def ordered(batches: list[Tensor], channel: Channel, before: float | None) -> Iterator[Tensor]:
    """The batches over and over, as many as are ordered; the seconds of these steps go back when the last is done."""
    seconds, due = [], 0
    for batch in itertools.cycle(batches):
        if len(seconds) == due:
            peak = memory_mb("VmHWM")
            channel.answer(seconds=seconds, peak_mb=None if peak is None or before is None else round(peak - before))
            due, seconds = int(channel.order()), []
        start = time.perf_counter()
        yield batch
        seconds.append(time.perf_counter() - start)


def quality(task: Task, train: Any, channel: Channel) -> None:
    with safe_open(task.rows, "pt") as file:
        rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    start = time.perf_counter()
    reconstruct = train(task, in_order(rows, task.batch))
    seconds = time.perf_counter() - start
    held_out = evaluate(reconstruct, rows, "held_out")
    on_train = evaluate(reconstruct, rows, "train")
    channel.answer(train_seconds=seconds, fvu=held_out["fvu"], dead_share=held_out["dead_share"], dead_share_train=on_train["dead_share"])


def in_order(rows: dict[str, Tensor], batch: int) -> Iterator[Tensor]:
    for chosen in rows["order"].split(batch):
        yield normalised(rows, rows["train"][chosen])


@torch.no_grad()
def evaluate(reconstruct: Reconstruct, rows: dict[str, Tensor], part: str) -> dict[str, float]:
    """Global FVU (all squared error over all squared distance from the mean), and the share of latents that fire on no row."""
    error = square = torch.zeros((), dtype=torch.double)
    total, fired = torch.zeros(rows[part].shape[1], dtype=torch.double), torch.tensor(False)
    for raw in rows[part].split(CHUNK):
        x = normalised(rows, raw)
        y, active = reconstruct(x)
        error, square, total = error + (x - y).double().square().sum(), square + x.double().square().sum(), total + x.double().sum(0)
        fired = fired | active
    variance = square - total.square().sum() / len(rows[part])
    return {"fvu": float(error / variance), "dead_share": float((~fired).double().mean())}


def normalised(rows: dict[str, Tensor], raw: Tensor) -> Tensor:
    return (raw.float() - rows["mean"]) * rows["scale"]


def forget_peak() -> float | None:
    """Memory in use now, from which a new high-water mark is kept (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return memory_mb("VmRSS")


def memory_mb(field: str) -> float | None:
    """`VmRSS`, resident now, or `VmHWM`, the most it has been; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
