"""`interp runs` and `interp show`: runs, latents and heads in the terminal. Reads run folders, loads no model."""

import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import safe_open

from interp import runs
from interp.runs import Run
from interp.stages.base import Context, size
from saes.errors import InputError

_ADDRESS = re.compile(r"(?P<run>[^:]+)(?::(?P<kind>[fh]):(?P<id>[\d.]+))?")
_SHADES = ("", "on grey19", "on grey30", "on dark_orange3", "bold black on orange1")


@dataclass(frozen=True)
class Runs:
    """List the finished runs, newest first."""

    def __call__(self, ctx: Context) -> dict[str, Any] | None:
        found = runs.list_runs(ctx.root)
        found = [run for run in found if _readable(run)]
        if ctx.json:
            return {"runs": [{"run": run.id, "parents": run.config["parents"], "command": run.command} for run in found]}
        if not found:
            print(f"no runs under {ctx.root}; `interp demo` makes some")
            return None
        table = Table(box=None)
        for column in ("run", "size", "made", "command"):
            table.add_column(column)
        for run in found:
            table.add_row(run.id, size(sum(f["size"] for f in run.manifest.values())), run.config["provenance"]["time"], run.command)
        Console().print(table)
        return None


def _readable(run: Run) -> bool:
    """Whether config and manifest can be read; says so on standard error when not."""
    try:
        return bool(run.config) and bool(run.manifest)
    except InputError as error:
        print(f"interp: {error}", file=sys.stderr)
        return False


@dataclass(frozen=True)
class Show:
    """Show a run, one latent (RUN:f:41, RUN from describe or train) or one head (RUN:h:5.1, RUN from heads)."""

    what: tyro.conf.Positional[str]
    """RUN, RUN:f:LATENT or RUN:h:LAYER.HEAD."""
    examples: int = 8
    """Top examples of a latent."""

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise InputError(f"--examples {self.examples} is less than none; give a count")

    def __call__(self, ctx: Context) -> dict[str, Any] | None:
        match = _ADDRESS.fullmatch(self.what)
        if match is None:
            raise InputError(f"{self.what!r} is no address; write RUN, RUN:f:41 for a latent or RUN:h:5.1 for a head")
        run = runs.open_run(ctx.root, match["run"])
        if match["kind"] == "f":
            return _show_latent(_describe_run(ctx, run), _number(match["id"]), self.examples, ctx.json)
        if match["kind"] == "h":
            return _show_head(run, match["id"], ctx.json)
        return _show_run(run, ctx.json)


def _describe_run(ctx: Context, run: Run) -> Run:
    """The run itself, or the newest description of a dictionary."""
    if run.stage == "describe":
        return run
    for candidate in runs.list_runs(ctx.root, "describe"):
        if candidate.config["parents"]["dictionary"] == run.id:
            return candidate
    if run.stage != "train":
        raise InputError(f"{run.id} is a {run.stage} run; latents are shown from a describe run, made by `interp describe RUN`")
    raise InputError(f"{run.id} has no described latents; run `interp describe {run.id}`")


def _number(text: str) -> int:
    if not text.isdigit():
        raise InputError(f"{text!r} is no latent; write its number, for example RUN:f:41")
    return int(text)


def _show_run(run: Run, as_json: bool) -> dict[str, Any] | None:
    summary = runs.read_json(run.file("summary.json")) if run.has("summary.json") else {}
    if as_json:
        return {"run": run.id, **run.config, "summary": summary}
    table = Table(title=run.id, title_justify="left", show_header=False, box=None)
    for part in (run.config["parents"], run.config["config"], summary, {"command": run.command, "made": run.config["provenance"]["time"]}):
        for key, value in part.items():
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
        table.add_section()
    Console().print(table)
    return None


def _show_latent(run: Run, latent: int, n_examples: int, as_json: bool) -> dict[str, Any] | None:
    table = pa.ipc.open_file(pa.memory_map(str(run.file("latents.arrow")))).read_all()
    if latent >= len(table):
        raise InputError(f"latent {latent} is out of range: {run.id} has latents 0 to {len(table) - 1}")
    statistics = {name: table[name][latent].as_py() for name in table.column_names}
    if as_json:
        return {"run": run.id, **statistics}
    console = Console()
    console.rule(f"{run.id}:f:{latent}", align="left")
    console.print("   ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in statistics.items()))
    words = _vocabulary(run.parent("dictionary").parent("store"))
    with safe_open(run.file("logits.safetensors"), "np") as file:
        for name in ("top", "bottom"):
            ids = file.get_slice(f"{name}_ids")[latent : latent + 1][0]
            console.print(Text(f"{name} logits  ") + Text("  ".join(repr(words[i]) for i in ids[:10])))
    for line in _example_lines(run, latent, words, n_examples):
        console.print(line, no_wrap=True, overflow="ellipsis")
    return None


def _example_lines(run: Run, latent: int, words: list[str], n_examples: int) -> list[Text]:
    """The top examples, each token shaded by the latent's activation on it."""
    rows = pq.ParquetFile(run.file("examples.parquet")).read_row_group(latent // 64).to_pylist()
    chosen = [row for row in rows if row["latent"] == latent and row["bucket"] == 0][:n_examples]
    if not chosen:
        return [Text("dead: it never fired on the described tokens")]
    store = run.parent("dictionary").parent("store")
    with safe_open(store.file("tokens.safetensors"), "np") as file:
        tokens = file.get_tensor("tokens")
    peak = max(row["act"] for row in chosen)
    return [_strip(row, tokens[row["seq"], row["start"] : row["start"] + len(row["acts"])], words, peak) for row in chosen]


def _strip(row: dict[str, Any], ids: np.ndarray, words: list[str], peak: float) -> Text:
    line = Text(f"{row['act']:8.2f}  ")
    for token, act in zip(ids, row["acts"], strict=False):
        line.append(words[token].replace("\n", " "), style=_SHADES[min(4, int(np.ceil(4 * max(act, 0) / peak)))])
    return line


def _show_head(run: Run, text: str, as_json: bool) -> dict[str, Any] | None:
    if run.stage != "heads":
        raise InputError(f"{run.id} is a {run.stage} run; heads are shown from a heads run, made by `interp heads --model MODEL`")
    layer, _, head = text.partition(".")
    table = pq.read_table(run.file("scores.parquet")).to_pylist()
    rows = [row for row in table if str(row["layer"]) == layer and str(row["head"]) == head]
    if not rows:
        last = table[-1]
        raise InputError(f"head {text} is out of range: {run.id} has heads 0.0 to {last['layer']}.{max(row['head'] for row in table)}")
    if as_json:
        return {"run": run.id, "head": text, "scores": {row["metric"]: row["value"] for row in rows}}
    shown = Table(title=f"{run.id}:h:{text}", title_justify="left", box=None)
    for column in ("metric", "value", "95 % interval", "n", "baseline"):
        shown.add_column(column)
    for row in rows:
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        shown.add_row(row["metric"], f"{row['value']:.3f}", interval, str(row["n"]), f"{row['baseline']:.3f}")
    Console().print(shown)
    return None


def _vocabulary(store: Run) -> list[str]:
    return pa.ipc.open_file(pa.memory_map(str(store.file("vocab.arrow")))).read_all()["text"].to_pylist()
