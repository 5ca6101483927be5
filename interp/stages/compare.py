"""`interp compare A B`: two circuits of one model, found by two methods or on two settings, on the same prompts. Needs no model."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from interp.circuits.comparison import Side, example_rows, figures, require_alike, unit_rows
from interp.runs import Draft, Run, open_run, written
from interp.stages.base import Context, Plan
from saes.errors import InputError

SCHEMAS = {
    "units.parquet": pa.schema(
        [("unit", pa.utf8()), ("score_a", pa.float32()), ("score_b", pa.float32()), ("in_a", pa.bool_()), ("in_b", pa.bool_())]
    ),
    "examples.parquet": pa.schema(
        [("pair", pa.int32()), *((name, pa.float32()) for name in ("clean", "ablated", "circuit_a", "circuit_b"))]
    ),
}


@dataclass(frozen=True)
class Compare:
    """Hold two circuits of one model against each other: shared units, agreement of scores, a paired test on the same prompts."""

    NAME: ClassVar[str] = "compare"
    PARENTS: ClassVar[dict[str, str]] = {"a": "circuit", "b": "circuit"}

    a: tyro.conf.Positional[str]
    """A circuit run."""
    b: tyro.conf.Positional[str]
    """Another, on the same model, with the same units and prompts."""

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {}

    def plan(self, ctx: Context) -> Plan:
        a, b = self._sides(ctx)
        lines = {"circuits": f"{len(a.circuit):,} and {len(b.circuit):,} of {len(a.scores):,} {a.unit}s, on {len(a.examples)} prompts"}
        return Plan(lines, disk=10_000 + 60 * len(a.scores), memory=2_000 * len(a.scores), seconds=1 + len(a.scores) / 50_000)

    def work(self, draft: Draft, ctx: Context) -> None:
        a, b = self._sides(ctx)
        for name, rows in (("units.parquet", unit_rows(a, b)), ("examples.parquet", example_rows(a, b))):
            with written(draft.path / name) as aside:
                pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), aside, compression="zstd")
        draft.write_json("summary.json", {"a": a.name, "b": b.name, **figures(a, b)})

    def _sides(self, ctx: Context) -> tuple[Side, Side]:
        a, b = (side(open_run(ctx.root, name, "circuit")) for name in (self.a, self.b))
        require_alike(a, b)
        return a, b


def side(run: Run) -> Side:
    """Read one circuit run; raises InputError for one that was made before circuits were marked in it."""
    if not run.has("examples.parquet"):
        raise InputError(
            f"{run.id} marks no circuit: it is of an earlier version; delete its folder and run its command again: {run.command}"
        )
    unit = "edge" if run.has("edges.parquet") else "node"
    rows = pq.read_table(run.file(f"{unit}s.parquet")).to_pylist()
    names = [row["node"] if unit == "node" else f"{row['source']}->{row['destination']}" for row in rows]
    prompts = [row for row in pq.read_table(run.file("prompts.parquet")).to_pylist() if row["split"] == "test"]
    return Side(
        run.id,
        run.config["config"],
        unit,
        {name: row["score"] for name, row in zip(names, rows, strict=True)},
        frozenset(name for name, row in zip(names, rows, strict=True) if row["in_circuit"]),
        tuple((tuple(row["clean"]), tuple(row["corrupt"]), row["answer"], tuple(row["wrong"])) for row in prompts),
        pq.read_table(run.file("examples.parquet")).to_pylist(),
    )
