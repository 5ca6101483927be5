"""How well discrete codes find the heads of IOI in SmolLM2, beside statistics that need no training and gradients that need a metric.

    python benchmarks/discrete_codes.py [--bos] [--seeds 5] [--curve 5 25 50 --curve-seeds 2]

Truth: the heads with the largest |effect| of exact resample ablation on 32 prompts, in smollm2_ioi_heads.json (measured when absent), and
the class table. Each seed draws its prompts, training examples and weights, so intervals cover all three.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from interp.circuits.ablation import outputs, replacement
from interp.circuits.graph import Graph, Scores, graph, short
from interp.circuits.methods import Attribution, DifferenceNorm, DiscreteCodes, Eap, Exact, Magnitude
from interp.circuits.methods.discrete_codes import Fitted, Vectors
from interp.circuits.node_truth import SMOLLM2_IOI, Interval, found, named, strongest
from interp.circuits.novelty import Counting
from interp.circuits.pooling import pooled
from interp.models import Model, load
from interp.tasks import Ioi

TRUTH = Path(__file__).with_name("smollm2_ioi_heads.json")
TRUTH_SEED, TRUTH_PROMPTS = 1000, 32
TASK = Ioi("s2")
CODES = {
    "as published": DiscreteCodes.published(),
    "+ rescaled per head": DiscreteCodes.published(scale=10.0),
    "+ no-feature code": DiscreteCodes.published(scale=10.0, no_feature=True),
    "+ held-out (ours)": DiscreteCodes(),
    "ours, divided by union": DiscreteCodes(counting=Counting(divide=True)),
    "ours, weight by occurrence": DiscreteCodes(counting=Counting("occurrences")),
    "ours, excess of occurrence": DiscreteCodes(counting=Counting("excess")),
    "ours, end": DiscreteCodes(pool=("end",)),
    "co-occurrence, as published": DiscreteCodes.published(score="cooccurrence"),
    "co-occurrence, ours": DiscreteCodes(score="cooccurrence"),
    "ours, centred": DiscreteCodes(centre=True),
    "control: random encoder": DiscreteCodes(encoder="random"),
    "control: random, centred": DiscreteCodes(encoder="random", centre=True),
    "control: random, centred, co-occurrence": DiscreteCodes(encoder="random", centre=True, score="cooccurrence"),
    "control: random, excess": DiscreteCodes(encoder="random", counting=Counting("excess")),
    "control: k-means": DiscreteCodes(encoder="kmeans"),
    "control: k-means, excess": DiscreteCodes(encoder="kmeans", counting=Counting("excess")),
    "control: PCA signs": DiscreteCodes(encoder="pca"),
    "control: PCA signs, centred": DiscreteCodes(encoder="pca", centre=True),
    "control: k-means, centred": DiscreteCodes(encoder="kmeans", centre=True),
    "control: PCA signs, excess": DiscreteCodes(encoder="pca", counting=Counting("excess")),
}
OTHERS = {
    "difference norm": DifferenceNorm(),
    "difference norm, paired": DifferenceNorm(paired=True),
    "output norm": Magnitude(),
    "attribution patching": Attribution(),
    "EAP, summed to nodes": Eap(),
}


@dataclass(frozen=True)
class Bench:
    bos: bool = False
    """Put BOS in front of every prompt."""
    seeds: int = 5
    prompts: int = 120
    """Pairs of a seed: as many positives as negatives."""
    curve: tuple[int, ...] = (5, 25, 50, 100)
    """Training examples beside 10."""
    curve_seeds: int = 1
    """Seeds that the curve is measured for."""


def truth(model: Model, nodes: Graph, bos: bool) -> torch.Tensor:
    """Effects of all heads in the places of `nodes.nodes`, from the file or measured into it."""
    kept = json.loads(TRUTH.read_text()) if TRUTH.exists() else {}
    key = "BOS" if bos else "no BOS"
    if key not in kept:
        pairs = TASK.pairs(model.tokenizer, TRUTH_PROMPTS, TRUTH_SEED, model.bos if bos else None)
        scores = Exact()(model, TASK, pairs, nodes, replacement(model, nodes, pairs, "resample"))
        measured = dict(zip(scores.names(), scores.mean.tolist(), strict=True))
        kept[key] = {short(head): round(measured[short(head)], 4) for head in nodes.heads()}
        TRUTH.write_text(json.dumps(kept, indent=0) + "\n")
    effects = torch.zeros(len(nodes.nodes))
    effects[nodes.index(nodes.heads())] = torch.tensor([kept[key][short(head)] for head in nodes.heads()])
    return effects


class Repetition:
    """One draw of prompts with every method on it; autoencoders are shared by the rows that count their codes differently."""

    def __init__(self, model: Model, nodes: Graph, bench: Bench, seed: int) -> None:
        self.model, self.nodes, self.seed = model, nodes, seed
        self.pairs = TASK.pairs(model.tokenizer, bench.prompts, seed, model.bos if bench.bos else None)
        self.own, self.values = (outputs(model, nodes, tokens) for tokens in (self.pairs.clean, self.pairs.corrupt))
        self.fitted: dict[DiscreteCodes, tuple[Fitted, float]] = {}

    def codes(self, method: DiscreteCodes) -> tuple[Scores, float]:
        """Scores, and seconds from cached activations."""
        method = replace(method, code_seed=self.seed)
        clean, corrupt = (pooled(self.model, self.nodes, side, self.pairs, method.pool) for side in (self.own, self.values))
        given = Vectors(clean, corrupt[None])
        key = replace(method, score="node", no_feature=True, held_out=True, counting=Counting())
        started = time.perf_counter()
        if key not in self.fitted:
            fitted = method.fitted(given)
            self.fitted[key] = fitted, time.perf_counter() - started
        counting = time.perf_counter()
        scores = method.scores(method.codes(given, self.fitted[key][0]), self.nodes)
        return scores, self.fitted[key][1] + time.perf_counter() - counting

    def others(self) -> dict[str, tuple[Scores, float]]:
        """Methods without codes; seconds include their forwards and backwards."""
        done = {}
        for name, method in OTHERS.items():
            started = time.perf_counter()
            scores = method(self.model, TASK, self.pairs, self.nodes, self.values)
            seconds = time.perf_counter() - started
            if isinstance(method, Eap):
                edges = scores.matrix()[self.nodes.n_embeddings :]
                # Signed sums over the edges that leave a node are attribution patching again.
                done[name] = replace(scores, unit="node", mean=edges.sum(1)), seconds
                done["EAP, absolute values summed to nodes"] = replace(scores, unit="node", mean=edges.abs().sum(1)), seconds
            else:
                done[name] = scores, seconds
        return done


def main(bench: Bench) -> None:
    model = load("smollm2")
    nodes = graph(model)
    effects = truth(model, nodes, bench.bos)
    sets = {f"top {k}": strongest(nodes, effects, k) for k in (8, 20, 27)}
    sets["class"] = named(nodes, (head for heads in SMOLLM2_IOI.values() for head in heads))
    rows: dict[str, list[tuple[Scores, float]]] = {}
    for seed in range(bench.seeds):
        one = Repetition(model, nodes, bench, seed)
        made = one.others() | {name: one.codes(method) for name, method in CODES.items()}
        for n in bench.curve if seed < bench.curve_seeds else ():
            # Counted on all pairs, so that more training examples do not leave fewer to count.
            made[f"+ no-feature code, {n} training examples"] = one.codes(replace(CODES["+ no-feature code"], examples=n))
        for name, result in made.items():
            rows.setdefault(name, []).append(result)
        table(rows, sets, bench)


def table(rows: dict[str, list[tuple[Scores, float]]], sets: dict[str, torch.Tensor], bench: Bench) -> None:
    print(
        f"SmolLM2, IOI, second subject replaced, {'BOS' if bench.bos else 'no BOS'}, {bench.prompts} + {bench.prompts} prompts, 270 heads"
    )
    columns = [*(f"AUC {name}" for name in sets), *(f"AP {name}" for name in ("top 20", "class")), "seeds", "seconds"]
    print(f"| method | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, results in rows.items():
        scores = [one for one, _ in results]
        by = {which: found(scores, truth) for which, truth in sets.items()}
        cells = [text(by[which].auc) for which in sets] + [text(by[which].precision) for which in ("top 20", "class")]
        print(f"| {name} | {' | '.join(cells)} | {len(results)} | {sum(s for _, s in results) / len(results):.1f} |", flush=True)


def text(value: Interval) -> str:
    return f"{value.mean:.3f}" + (f" ± {value.high - value.mean:.3f}" if value.n > 1 else "")


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
