"""Our TopK training beside sparsify, SAELens and dictionary_learning: speed, memory, and what is learnt from equal tokens.

    python benchmarks/dictionaries.py --json                                # everything: about half an hour on two cores
    python benchmarks/dictionaries.py --quick --json                        # speed at the first width, under a minute
    python benchmarks/dictionaries.py --activations data/runs/cache-1a2b3c4d

**Speed.** Each trainer lives in a process of its own (`peers/worker.py`) and runs its library's own loop, optimiser and all, on the same
rows. One steps while the others sleep; a round gives each its turn, every round begins with another one. A rate is that of the fastest
turn, a ratio the median over the rounds, so that other programs disturb both little. Before that, every setting that a library offers for
speed is tried, and the fastest stays. `floor` is the encoder's matrix product alone. No auxiliary loss is at work, in ours as in theirs:
it begins when latents have been silent for long. `--dead N` keeps N latents of ours from firing, which switches ours on. Memory is the
process's resident high-water mark less what it held before the dictionary was built.

**Quality.** The same normalised rows of a cache run, in the same order and as many batches. Peers train in float32, ours in bfloat16, a
peer by its own learning rate and by ours; the better counts. FVU is global, over the held-out rows.

The peers are installed on first use into an environment of their own (`peers/environment.py`, 2.5 GB).
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from peers.environment import interpreter
from peers.task import Task
from safetensors.torch import save_file

from interp import runs
from interp.runs import Run
from interp.store import Store
from saes.errors import InputError
from saes.normalise import measure
from saes.schedule import FitConfig

Peer = Literal["sparsify", "saelens", "dictionary_learning"]
PACKAGES = {"sparsify": "eai-sparsify", "saelens": "sae-lens", "dictionary_learning": "dictionary-learning"}
# What each offers for speed on a CPU, the one that was found fastest first: `--quick` takes that one untried.
SETTINGS = {
    "ours": ("bfloat16", "float32"),
    "floor": ("bfloat16",),
    "sparsify": ("bfloat16", "float32"),
    "saelens": ("bfloat16", "bfloat16 compiled", "float32 sparse", "float32"),
    "dictionary_learning": ("bfloat16", "float32"),
}
# What they run on a CPU by themselves: the autocast of sparsify and dictionary_learning is for GPUs only, and it takes a line around their
# loops to have it here; SAELens's is an option, off unless asked for.
SHIPPED = {"sparsify": "float32", "saelens": "float32", "dictionary_learning": "float32"}
# The width whose keys have no suffix.
BASE = 4608
# Batches of random rows that take turns in the speed part.
POOL = 8
# Tokens that centring and scale are measured on, as in `interp train`.
SAMPLE = 32_768


@dataclasses.dataclass(frozen=True)
class Bench:
    """What to measure."""

    json: bool = False
    """Print one JSON object as the last line."""
    quick: bool = False
    """Speed at the first width only, three rounds, the settings known to be fastest."""
    only: tuple[Literal["ours", "sparsify", "saelens", "dictionary_learning"], ...] = ("ours", *PACKAGES)
    """Which trainers."""
    speed: bool = True
    """Measure speed and memory."""
    quality: bool = True
    """Train on a cache run and evaluate."""
    widths: tuple[int, ...] = (4608, 18432)
    """Latents, in the speed part."""
    d: int = 576
    """Numbers of a row, in the speed part."""
    k: int = 32
    batch: int = 4096
    """Rows of a step, in the speed part."""
    rounds: int = 5
    steps: int = 2
    """Timed steps of a turn; one more goes before them, untimed."""
    threads: int = 2
    dead: int = 0
    """Latents of ours that cannot fire, in the speed part."""
    activations: Path | None = None
    """Folder of a cache run, for the quality part; without one the newest under `root`."""
    root: Path = Path("data/runs")
    """Where runs are."""
    site: str = ""
    """Which site of the cache run; the first without one."""
    tokens: int = 1_130_000
    """Tokens to train on, over as many epochs as that takes, in the quality part."""
    width: int = 4608
    """Latents, in the quality part."""
    quality_batch: int = 2048
    """Rows of a step in the quality part, the default of `interp train`; short runs want the many steps."""
    recipes: tuple[Literal["defaults", "ours"], ...] = ("defaults", "ours")
    """A peer's own learning rate, and ours; the better counts."""


def main(bench: Bench) -> dict[str, Any]:
    check(bench)
    python = {name: Path(sys.executable) for name in ("ours", "floor")}
    if set(bench.only) - {"ours"}:
        python |= dict.fromkeys(PACKAGES, interpreter())
    run = cache_run(bench)
    result: dict[str, Any] = {"threads": bench.threads, "versions": versions(python, bench)}
    with tempfile.TemporaryDirectory() as scratch:
        if bench.speed:
            for width in bench.widths[:1] if bench.quick else bench.widths:
                suffix = "" if width == BASE else f"_{width}"
                result |= {f"{key}{suffix}": value for key, value in speed(bench, width, python, Path(scratch)).items()}
        if run is not None:
            result |= quality(bench, run, python, Path(scratch))
    return result


def check(bench: Bench) -> None:
    """Raises InputError for what cannot be measured."""
    counts = ("d", "k", "batch", "rounds", "steps", "threads", "width", "tokens", "quality_batch")
    small = [name for name in counts if getattr(bench, name) < 1]
    if small:
        raise InputError(f"{small[0]}={getattr(bench, small[0])} is too small; it must be at least 1")
    if not bench.only or not bench.recipes or not bench.widths:
        raise InputError("there is nothing to measure; name at least one of --only, one of --recipes and one of --widths")
    if narrow := [width for width in (*bench.widths, bench.width) if width < bench.k]:
        raise InputError(f"{narrow[0]} latents are fewer than k={bench.k} active ones; choose a larger width")
    if bench.batch % 32 or bench.quality_batch % 32:
        raise InputError("a batch must be a multiple of 32 rows, because sparsify reads whole sequences; choose 2048 or 4096")
    if bench.quality and bench.tokens < 20 * bench.quality_batch:
        raise InputError(f"tokens={bench.tokens} are too few to learn from; choose at least {20 * bench.quality_batch}")


def cache_run(bench: Bench) -> Run | None:
    """The run that the quality part reads. Without any, that part is left out, or InputError raised where nothing would be left."""
    if bench.quick or not bench.quality:
        return None
    if bench.activations is not None:
        folder = bench.activations.resolve()
        return runs.open_run(folder.parent, folder.name, "cache")
    if found := runs.list_runs(bench.root, "cache"):
        return found[0]
    hint = (
        f"there is no cache run under {bench.root}, so nothing can be learnt: make one with `interp cache --model smollm2 --sites "
        "10.resid_post --tokens 400_000`, or name one with --activations"
    )
    if not bench.speed:
        raise InputError(hint)
    say(hint)
    return None


def versions(python: dict[str, Path], bench: Bench) -> dict[str, str]:
    """Of every library and of both torches."""
    found = {"ours": importlib.metadata.version("interp-workbench"), "torch": str(torch.__version__)}
    for name in bench.only:
        if name != "ours":
            code = f"from importlib.metadata import version as v; print(v({PACKAGES[name]!r}), v('torch'))"
            done = subprocess.run([str(python[name]), "-c", code], capture_output=True, text=True, check=True)
            found[name], found["torch_of_peers"] = done.stdout.split()
    return found


# Speed and memory


def speed(bench: Bench, width: int, python: dict[str, Path], scratch: Path) -> dict[str, Any]:
    """Rates, memory and ratios at one width."""
    rows = scratch / f"rows-{width}.safetensors"
    save_file({"train": torch.randn(POOL * bench.batch, bench.d, generator=torch.Generator().manual_seed(0))}, rows)
    # A long training: nothing of its schedule is special so early, and no latent is dead yet.
    task = Task(
        "ours", str(rows), bench.d, width, bench.k, bench.batch, 10_000, bench.threads, lr=FitConfig(1).peak_lr(width), dead=bench.dead
    )
    say(f"\nspeed, {bench.d} to {width:,} latents, k {bench.k}, batch {bench.batch:,}, {bench.threads} threads")
    tasks = contestants(bench, task, python, scratch)
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker.start(each, python[each.trainer], scratch)) for name, each in tasks.items()}
        for worker in workers.values():
            worker.steps(1)
        seconds = take_turns(workers, min(3, bench.rounds) if bench.quick else bench.rounds, bench.steps)
        peaks = {name: worker.peak_mb for name, worker in workers.items()}
    result: dict[str, Any] = {}
    for name, each in tasks.items():
        rate = bench.batch / min(seconds[name])
        result |= {f"tokens_per_s_{name}": round(rate), f"peak_mb_{name}": peaks[name], f"setting_{name}": each.setting}
        line = f"  {name:30} {each.setting:18} {rate:10,.0f} tokens/s {peaks[name] or 0:8,.0f} MB"
        if name != "ours" and "ours" in tasks:
            ratio = statistics.median(other / own for own, other in zip(seconds["ours"], seconds[name], strict=True))
            result[f"ours_over_{name}"] = round(ratio, 3)
            line += f"   ours is {ratio:.2f} times as fast"
        say(line)
    return result


def contestants(bench: Bench, task: Task, python: dict[str, Path], scratch: Path) -> dict[str, Task]:
    """Who takes turns: each at its fastest setting, and beside it as it is shipped where that is another."""
    tasks = {}
    for name in ("ours", "floor", *(name for name in bench.only if name != "ours")):
        if name in (*bench.only, "floor"):
            setting = SETTINGS[name][0] if bench.quick else fastest(name, task, python[name], scratch)
            tasks[name] = dataclasses.replace(task, trainer=name, setting=setting)
            if not bench.quick and SHIPPED.get(name, setting) != setting:
                tasks[f"{name}_as_shipped"] = dataclasses.replace(task, trainer=name, setting=SHIPPED[name])
    return tasks


def fastest(name: str, task: Task, python: Path, scratch: Path) -> str:
    """The setting with the fastest step; one that a library cannot run here is passed over."""
    seconds: dict[str, float] = {}
    for setting in SETTINGS[name] if len(SETTINGS[name]) > 1 else ():
        try:
            with Worker.start(dataclasses.replace(task, trainer=name, setting=setting), python, scratch) as worker:
                worker.steps(1)
                seconds[setting] = min(worker.steps(2))
            say(f"  tried {name:24} {setting:18} {task.batch / seconds[setting]:10,.0f} tokens/s")
        except InputError as error:
            say(f"  tried {name:24} {setting:18} {error}")
    return min(seconds, key=seconds.__getitem__) if seconds else SETTINGS[name][0]


def take_turns(workers: dict[str, "Worker"], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step, by trainer and round."""
    names, seconds = list(workers), {name: [] for name in workers}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(statistics.mean(workers[name].steps(1 + steps)[1:]))
    return seconds


# Quality


def quality(bench: Bench, run: Run, python: dict[str, Path], scratch: Path) -> dict[str, Any]:
    """FVU and dead share of each, by the better of its recipes."""
    rows = scratch / "rows.safetensors"
    d, steps = write_rows(bench, run, rows)
    lr = FitConfig(steps).peak_lr(bench.width)
    task = Task("ours", str(rows), d, bench.width, bench.k, bench.quality_batch, steps, bench.threads, lr=lr, mode="quality")
    say(f"\nquality, {run.id}, {d} to {bench.width:,} latents, k {bench.k}, {steps:,} steps of {bench.quality_batch:,}")
    result: dict[str, Any] = {"run": run.id, "tokens": steps * bench.quality_batch, "batch": bench.quality_batch, "width": bench.width}
    for name in bench.only:
        tried = {}
        for recipe in ("defaults",) if name == "ours" else bench.recipes:
            setting = SETTINGS[name][0] if name == "ours" else "float32"
            with Worker.start(dataclasses.replace(task, trainer=name, setting=setting, recipe=recipe), python[name], scratch) as w:
                tried[recipe] = found = w.answer()
            dead = f"dead {found['dead_share']:6.2%} held out, {found['dead_share_train']:6.2%} on all rows"
            say(f"  {name:20} {recipe:9} fvu {found['fvu']:.4f}  {dead}  {found['train_seconds']:5.0f} s")
            if len(bench.recipes) > 1 and name != "ours":
                result[f"fvu_{name}_{recipe}"] = round(found["fvu"], 4)
        best = min(tried, key=lambda recipe: tried[recipe]["fvu"])
        result |= {f"{key}_{name}": round(value, 4) for key, value in tried[best].items()} | {f"recipe_{name}": best}
    return result


def write_rows(bench: Bench, run: Run, path: Path) -> tuple[int, int]:
    """Raw rows, their order and normalisation, as `interp train` takes them; returns their width and the number of steps."""
    store = Store.open(run)
    names = {str(site): site for site in store.sites}
    site = names.get(bench.site) if bench.site else store.sites[0]
    if site is None:
        raise InputError(f"{run.id} holds no {bench.site}; it holds {', '.join(names)}")
    store = Store.open(run, site)
    order, held_out = store.order(seed=0), store.order(seed=0, part="held_out").pool
    steps, n = bench.tokens // bench.quality_batch, len(order.pool)
    if not n or not len(held_out):
        raise InputError(f"{run.id} has {n} rows to train on and {len(held_out)} held out; make a larger one with `interp cache`")
    sample = store.rows(site, order.rows(0, min(SAMPLE, n)))
    norm = measure(sample, sample)
    flat = torch.from_numpy(order.rows(0, steps * bench.quality_batch))
    tensors = {
        "train": store.rows(site, order.pool),
        "held_out": store.rows(site, held_out),
        "order": torch.searchsorted(torch.from_numpy(order.pool), flat),
        "mean": norm.mean_x,
        "scale": torch.as_tensor(norm.scale_x),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return sample.shape[1], steps


# Workers


@dataclasses.dataclass
class Worker:
    """A trainer in a process of its own, asleep until told to go on."""

    task: Task
    process: subprocess.Popen[str]
    log: Path
    ready: bool = False
    peak_mb: int | None = None
    """The most memory that it took so far, beyond what it held before the dictionary was built."""

    @staticmethod
    @contextlib.contextmanager
    def start(task: Task, python: Path, scratch: Path) -> Iterator["Worker"]:
        """A running worker; stopped on leaving."""
        here = str(Path(__file__).parent)
        paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        offline = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(task.threads)}
        log = Path(tempfile.mkstemp(dir=scratch, suffix=".log")[1])
        with log.open("w") as errors:
            process = subprocess.Popen(
                [str(python), "-m", "peers.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=scratch,
                env={**os.environ, **offline, "PYTHONPATH": paths},
            )
        worker = Worker(task, process, log)
        try:
            worker.tell(task.line())
            yield worker
        finally:
            process.kill()
            process.wait()

    def steps(self, n: int) -> list[float]:
        """Take n steps; the seconds of each. The worker says once that it is ready, so several start side by side."""
        if not self.ready:
            self.ready = bool(self.answer())
        self.tell(f"{n}\n")
        answer = self.answer()
        self.peak_mb = answer["peak_mb"]
        return answer["seconds"]

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Its next answer; raises InputError when there is none, or when its library failed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"failed": (self.log.read_text().splitlines() or ["killed"])[-1]}
        if "failed" in answer:
            raise InputError(f"{self.task.trainer} could not be run ({answer['failed']}); leave it out with --only")
        return answer


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    bench = tyro.cli(Bench, description=__doc__)
    try:
        figures = main(bench)
    except InputError as error:
        say(str(error))
        raise SystemExit(2) from None
    if bench.json:
        print(json.dumps(figures))
