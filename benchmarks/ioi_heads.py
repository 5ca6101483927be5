"""Head classes of a model on indirect object identification, with their evidence: attention, direct effect, ablation, path patching.

    python benchmarks/ioi_heads.py                 # SmolLM2, no BOS; about ten minutes on two cores
    python benchmarks/ioi_heads.py --bos --pairs 16

Four kinds of evidence for each head:

    attention    mean pattern weight between the positions of the class (END to IO, END to S2, S2 to S1, S2 to S1+1, S1+1 to S1)
    direct       what the head writes along (W_U[IO] - W_U[S]) through the frozen final norm, in logits
    effect       change of the logit difference when the head alone is resampled (interp.circuits.methods.exact)
    path         change through one path only: to the logits, to the queries of the heads that write directly, to the keys and values of the
                 heads that look back from END (interp.circuits.methods.path_patching, MLPs recomputed)

A head belongs to a class when its attention says so and its own path moves the metric: attention alone is no evidence.
"""

import dataclasses
import json
import sys

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from interp import models
from interp.circuits.ablation import outputs, replacement
from interp.circuits.graph import Graph, Scores, graph
from interp.circuits.methods import Exact, PathPatching
from interp.circuits.pullback import measured
from interp.hooks import record
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Corruption, Ioi, Pairs

# A head attends when this share of its pattern lies between the positions; it acts when a path moves the logit difference by this much.
ATTENDS, ACTS = 0.25, 0.03
LOOKS = {"END->IO": ("end", "IO"), "END->S2": ("end", "S2"), "S2->S1": ("S2", "S1"), "S2->S1+1": ("S2", "S1+1"), "S1+1->S1": ("S1+1", "S1")}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What to measure."""

    model: str = "smollm2"
    """A model that interp loads."""
    pairs: int = 32
    """Prompts."""
    corruption: Corruption = "abc"
    """What the corrupt prompt changes. Under s2 nothing before S2 differs, so no path from a previous-token head can be seen."""
    bos: bool = False
    """Put BOS in front of each prompt."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(asked: Evidence) -> None:
    model = models.load(asked.model)
    task = Ioi(asked.corruption)
    pairs = task.pairs(model.tokenizer, asked.pairs, 0, model.bos if asked.bos else None)
    whole = graph(model)
    values = replacement(model, whole, pairs, "resample")
    looks, direct = attention(model, pairs, whole), directly(model, pairs, whole)
    effect = Exact()(model, task, pairs, whole, values)

    def along(*receivers: str) -> Scores:
        return PathPatching(receivers)(model, task, pairs, whole, values)

    heads = whole.is_head()
    names = [name for name, head in zip(effect.names(), heads.tolist(), strict=True) if head]
    columns: dict[str, Tensor] = {**looks, "direct": direct, "effect": effect.mean[heads]}
    columns["to logits"] = along("logits").mean[heads]
    writers = [names[i] for i in columns["to logits"].abs().sort(descending=True).indices[:8].tolist()]
    columns["to queries of writers"] = along(*(f"{name}.q" for name in writers)).mean[heads]
    queries = columns["to queries of writers"]
    steerers = [n for i, n in enumerate(names) if float(looks["END->S2"][i]) > ATTENDS and abs(float(queries[i])) > ACTS]
    if steerers:
        columns["to keys and values of steerers"] = along(*_shared(whole, model, steerers)).mean[heads]
    inductive = [n for i, n in enumerate(names) if float(looks["S2->S1+1"][i]) > ATTENDS]
    if inductive:
        columns["to keys of induction heads"] = along(*_shared(whole, model, inductive, "k")).mean[heads]
    classes = classify(names, columns)
    say = lambda text: print(text, file=sys.stderr)  # noqa: E731
    say(f"{asked.model}, {asked.pairs} pairs, corruption {asked.corruption}, BOS {'in front' if asked.bos else 'none'}")
    say(f"writers {writers}, steerers {steerers}")
    for kind, members in classes.items():
        say(f"\n{kind}")
        for name in members:
            i = names.index(name)
            say(f"  {name:6}" + "  ".join(f"{column} {float(v[i]):+.2f}" for column, v in columns.items() if abs(float(v[i])) >= ACTS))
    print(json.dumps({"classes": classes}) if asked.json else "")


def attention(model: Model, pairs: Pairs, whole: Graph) -> dict[str, Float[Tensor, " head"]]:
    """Mean pattern weight of every head between the positions of each class."""
    patterns = record(model, pairs.clean, [Site(layer, "pattern") for layer in range(whole.n_layers)])
    spans = {**pairs.spans, "end": pairs.end}
    row = torch.arange(len(pairs))
    return {
        look: torch.cat([pattern[row, :, spans[query], spans[key]].mean(0) for pattern in patterns.values()])
        for look, (query, key) in LOOKS.items()
    }


def directly(model: Model, pairs: Pairs, whole: Graph) -> Float[Tensor, " head"]:
    """Direct logit attribution at the last token, the final norm held at the clean run."""
    last = Site(whole.n_layers - 1, "resid_post")
    row = torch.arange(len(pairs))
    resid = record(model, pairs.clean, [last])[last][row, pairs.end]
    direction = (model.w_u()[:, pairs.answer] - model.w_u()[:, pairs.wrong[:, 0]]).T
    norm = measured(model, last)
    scale = norm.normalised(resid)[1] * norm.weight
    z = outputs(model, whole, pairs.clean).z
    written = torch.cat([torch.einsum("bhd,hde->hbe", z[layer][row, pairs.end], model.w_o(layer)) for layer in range(whole.n_layers)])
    written = written - written.mean(-1, keepdim=True) if norm.centred else written
    return (written * scale * direction).sum(-1).mean(1)


def classify(names: list[str], columns: dict[str, Tensor]) -> dict[str, list[str]]:
    """Heads of each class by the evidence that the class asks for, strongest first. Scores are changes on ablation: negative helps."""

    def those(keep: Tensor, by: Tensor) -> list[str]:
        order = by.abs().sort(descending=True).indices
        return [names[i] for i in order.tolist() if bool(keep[i])]

    logits, queries = columns["to logits"], columns["to queries of writers"]
    none = torch.zeros_like(logits)
    steering, keys = columns.get("to keys and values of steerers", none), columns.get("to keys of induction heads", none)
    return {
        "name movers (END attends to IO and writes it)": those((columns["END->IO"] > ATTENDS) & (logits < -ACTS), logits),
        "negative name movers (END attends to IO and writes against it)": those((columns["END->IO"] > ATTENDS) & (logits > ACTS), logits),
        "S suppressors (END attends to S2 and writes directly)": those((columns["END->S2"] > ATTENDS) & (logits < -ACTS), logits),
        "other direct writers": those((columns["END->S2"] <= ATTENDS) & (columns["END->IO"] <= ATTENDS) & (logits.abs() > 0.1), logits),
        "S-inhibition (END attends to S2 and steers queries of writers)": those(
            (columns["END->S2"] > ATTENDS) & (queries < -ACTS), queries
        ),
        "induction (S2 attends to S1+1 and is read by steerers)": those(
            (columns["S2->S1+1"] > ATTENDS) & (steering.abs() > ACTS), steering
        ),
        "duplicate token (S2 attends to S1 and is read by steerers)": those(
            (columns["S2->S1"] > ATTENDS) & (steering.abs() > ACTS), steering
        ),
        "previous token (S1+1 attends to S1 and is read by induction heads)": those(
            (columns["S1+1->S1"] > ATTENDS) & (keys.abs() > ACTS / 3), keys
        ),
        "attention without a path (END attends to IO or S2, moves nothing)": those(
            ((columns["END->IO"] > ATTENDS) | (columns["END->S2"] > ATTENDS)) & (logits.abs() < ACTS) & (queries.abs() < ACTS),
            columns["END->IO"] + columns["END->S2"],
        ),
    }


def _shared(whole: Graph, model: Model, names: list[str], streams: str = "kv") -> list[str]:
    """Key and value inputs of heads, in the names of the graph."""
    size = model.n_heads // model.n_kv_heads
    found = []
    for name in names:
        layer, head = map(int, name.split("."))
        found += [f"{layer}.{f'g{head // size}' if size > 1 else head}.{stream}" for stream in streams]
    return list(dict.fromkeys(one for one in found if one in whole.destinations))


if __name__ == "__main__":
    main(tyro.cli(Evidence, description=__doc__))
