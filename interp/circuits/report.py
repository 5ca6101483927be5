"""What a circuit run reports: its tables as rows, and its figures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import rankdata

from interp.circuits.ablation import Ablation
from interp.circuits.faithfulness import Point, mean_intervals
from interp.circuits.graph import Scores
from interp.tasks import Pairs

SCHEMAS = {
    "nodes.parquet": pa.schema(
        [("node", pa.utf8()), ("kind", pa.utf8()), ("layer", pa.int16()), ("head", pa.int16())]
        + [(f"{method}{end}", pa.float32()) for method in ("attribution", "exact") for end in ("", "_low", "_high")]
    ),
    "curve.parquet": pa.schema(
        [("series", pa.utf8()), ("nodes", pa.utf8()), ("ablation", pa.utf8()), ("n_nodes", pa.int32())]
        + [(name, pa.float32()) for name in ("share", "faithfulness", "low", "high", "logit_diff")]
        + [("seed", pa.int32())]
    ),
    "prompts.parquet": pa.schema(
        [
            *(("pair", pa.int32()), ("clean", pa.list_(pa.int32())), ("corrupt", pa.list_(pa.int32()))),
            *(("answer", pa.int32()), ("wrong", pa.list_(pa.int32())), ("split", pa.utf8())),
        ]
    ),
}
# The size at which published IOI circuits are held against each other: Wang et al. 2022 name 26 heads.
TOP = 20


@dataclass(frozen=True)
class Splits:
    """Pairs by what they are used for; no pair is in two."""

    train: Pairs
    """Nodes are scored on these."""
    test: Pairs
    """Curves are measured on these."""
    mean: Pairs
    """Mean ablation averages their corrupt activations."""


def agreement(scores: dict[str, Scores]) -> dict[str, Any]:
    """How attribution agrees with exact patching, and the heads with the largest exact scores."""
    heads = np.array([node.site.head is not None for node in scores["exact"].nodes])
    guess, exact = (scores[name].mean().numpy() for name in ("attribution", "exact"))
    ranked = [str(node) for node in scores["exact"].ranking() if node.site.head is not None]
    return {
        "pearson_heads": pearson(guess[heads], exact[heads]),
        "pearson_mlps": pearson(guess[~heads], exact[~heads]),
        "spearman_heads": pearson(rankdata(guess[heads]), rankdata(exact[heads])),
        "top_heads": ranked[:10],
    }


def headline(points: list[Point]) -> dict[str, Any]:
    """Faithfulness of 20 heads with every MLP running; null where the model has no more than 20."""

    def of(series: str, ablation: Ablation) -> float | None:
        wanted = (series, "heads", ablation, TOP)
        found = [p.faithfulness for p in points if (p.series, p.nodes, p.ablation, p.n_nodes) == wanted and p.share < 1]
        return float(np.mean(found)) if found else None

    return {
        f"top{TOP}_resample": of("exact", "resample"),
        f"top{TOP}_mean": of("exact", "mean"),
        f"random{TOP}_resample": of("random", "resample"),
    }


def node_rows(scores: dict[str, Scores]) -> list[dict[str, Any]]:
    """Rows of nodes.parquet: each method's mean with its 95 % interval."""
    columns: dict[str, list[float]] = {}
    for name, one in scores.items():
        low, high = mean_intervals(one.per_example)
        columns |= {name: one.mean().tolist(), f"{name}_low": low.tolist(), f"{name}_high": high.tolist()}
    return [
        {"node": str(node), "kind": "mlp" if node.site.head is None else "head", "layer": node.site.layer, "head": node.site.head}
        | {name: values[i] for name, values in columns.items()}
        for i, node in enumerate(scores["exact"].nodes)
    ]


def prompt_rows(splits: Splits) -> list[dict[str, Any]]:
    """Rows of prompts.parquet, without padding."""
    rows = []
    for name, pairs in (("train", splits.train), ("test", splits.test), ("mean", splits.mean)):
        for i, end in enumerate(pairs.end.tolist()):
            tokens = {side: getattr(pairs, side)[i, : end + 1].tolist() for side in ("clean", "corrupt")}
            answers = {"answer": int(pairs.answer[i]), "wrong": pairs.wrong[i].unique().tolist()}
            rows.append({"pair": len(rows), **tokens, **answers, "split": name})
    return rows


def pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson correlation; None where one side is constant (JSON has no NaN)."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
