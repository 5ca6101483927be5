"""Circuit identification from discrete codes (O'Neill and Bui 2024, arXiv:2405.12522): heads whose codes tell clean from corrupt prompts.

Every head's output on a prompt is one vector (`pooling`); one autoencoder, trained on a few prompts, serves all heads and gives each vector
one code (`coding`). Clean prompts are positives, corrupt ones negatives:

    node            u_h = number of codes that head h has on positives and never on negatives
    cooccurrence    U[h, g] the same for joint codes of two heads; a head scores by how often it stands in the better half of all pairs

Nothing is ablated and no metric is read; scores are -u, because a score below 0 means that a node helps. `DiscreteCodes.published()` sets
what the paper's code sets, and differs from it in four points. A decoder vector has length 1 because the code is divided by its length;
the original projects the gradient and renormalises, along the wrong axis of the matrix. Pairs that tie at the half share its places, where
the original takes them in the order of the heads. Prompts are the task's. Softmax over heads is off: it changes no order.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.ablation import Outputs, outputs
from interp.circuits.coding import Coder, Encoder, encoder, n_codes
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.novelty import Counting, appearances, cooccurrence, novelty
from interp.circuits.pooling import pooled
from interp.models.bridge import Model
from interp.tasks import Pairs, Task
from interp.tasks.kl import Kl
from saes.errors import InputError

Score = Literal["node", "cooccurrence"]
Softmax = Literal["none", "heads", "across_layers", "within_layer"]


@dataclass(frozen=True, eq=False)
class Vectors:
    """What each head, and MLP where they are scored, writes on positive and negative prompts."""

    positive: Float[Tensor, "prompt unit d"]
    negative: Float[Tensor, "kind prompt unit d"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """An encoder, what goes before it (each unit less its centre, times its factor), and the prompts that it was fitted on."""

    code: Coder
    centre: Float[Tensor, "unit d"]
    factor: Float[Tensor, "unit 1"]
    drawn: Bool[Tensor, "kind prompt"]


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of the prompts that are counted, as many positive as negative of each kind; -1 is no active latent."""

    positive: Int[Tensor, "prompt unit"]
    negative: Int[Tensor, "kind prompt unit"]
    n: int


@dataclass(frozen=True)
class DiscreteCodes:
    """Codes of a discrete autoencoder that clean prompts have and corrupt ones lack."""

    NAME: ClassVar[str] = "discrete-codes"
    ABOUT: ClassVar[str] = "counts the codes of a sparse autoencoder that only clean prompts have; the score is minus their number"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "node"

    score: Score = "node"
    """node: codes of each head. cooccurrence: joint codes of two heads."""
    encoder: Encoder = "trained"
    """trained: the autoencoder. random, kmeans, pca: controls of equally many codes."""
    latents: int = 200
    """Latents, or centres; signs take the next power of two."""
    penalty: float = 0.02
    """Coefficient of the L1 penalty (published: .02 for IOI and greater-than, .05 for docstring)."""
    examples: int = 10
    """Prompts that the encoder is fitted on, drawn from positives and negatives together."""
    epochs: int = 500
    """Passes over these prompts, all at once."""
    scale: float | None = 10.0
    """Divide each head by its mean norm on the training prompts and multiply by this; None leaves norms as they are (published), and late
    heads take most latents: AUC .69 in place of .83 for the 20 strongest heads of SmolLM2 on IOI."""
    centre: bool = False
    """Subtract each head's mean over the training prompts, after its norm was taken: what a head always writes then takes no latents."""
    no_feature: bool = True
    """Leave out vectors on which no latent is active; off, they count as latent 0 (published)."""
    held_out: bool = True
    """Count on pairs that the encoder was not fitted on; off, on all (published)."""
    pool: tuple[str, ...] = ("mean",)
    """Which positions make the vector: mean, after-first, end, or spans of the task; several are concatenated."""
    counting: Counting = field(default_factory=Counting)
    """What of a code counts."""
    softmax: Softmax = "none"
    """Softmax of u over all heads, over the layers of each head number, or over the heads of each layer."""
    corruptions: tuple[str, ...] = ()
    """More kinds of negatives: corruptions of the task whose prompts are drawn beside those of the pairs."""
    mlps: bool = False
    """Score MLPs too; else they score 0."""
    code_seed: int = 0
    """Seed of the training prompts, the weights at the start and the prompts of more corruptions."""

    def __post_init__(self) -> None:
        if min(self.latents - 1, self.examples, self.epochs) < 1 or not self.pool:
            raise InputError("discrete codes need two latents, an example, an epoch and a pooling at least; give more")
        if self.softmax not in ("none", "heads") and self.mlps:
            raise InputError(f"softmax {self.softmax} is over a table of layers and heads, where MLPs have no place; leave out mlps")

    @staticmethod
    def published(**options: Any) -> "DiscreteCodes":
        """As the code of arXiv 2405.12522 does it."""
        return DiscreteCodes(**{"scale": None, "no_feature": False, "held_out": False, **options})

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the number of codes that tell positives from negatives. Raises InputError when no pair is left to count."""
        given = self.vectors(model, task, pairs, graph)
        return self.scores(self.codes(given, self.fitted(given)), graph)

    def vectors(self, model: Model, task: Task, pairs: Pairs, graph: Graph) -> Vectors:
        """What the heads write on the clean prompts, on the corrupt ones and on those of more corruptions."""
        kinds = [(pairs.corrupt, pairs)]
        for more in (_corrupted(model, task, pairs, kind, self.code_seed) for kind in self.corruptions):
            kinds.append((more.corrupt, more))
        found = [pooled(model, graph, outputs(model, graph, t), p, self.pool, self.mlps) for t, p in [(pairs.clean, pairs), *kinds]]
        return Vectors(found[0].float(), torch.stack(found[1:]).float())

    def fitted(self, given: Vectors) -> Fitted:
        """Fit the encoder on some of the prompts."""
        both = torch.cat((given.positive[None], given.negative))
        drawn = self._drawn(both.shape[0], both.shape[1]).to(both.device)
        rows = both[drawn]
        norms = rows.norm(dim=2).mean(0).clamp_min(1e-12)[:, None]
        factor = torch.ones_like(norms) if self.scale is None else self.scale / norms
        centre = rows.mean(0) if self.centre else torch.zeros_like(rows[0])
        code = encoder(self.encoder, ((rows - centre) * factor).flatten(0, 1), self.latents, self.penalty, self.epochs, self.code_seed)
        return Fitted(code, centre, factor, drawn)

    def codes(self, given: Vectors, fitted: Fitted) -> Codes:
        """Encode the prompts that are counted."""
        both = torch.cat((given.positive[None], given.negative))
        counted = both[:, ~fitted.drawn.any(0)] if self.held_out else both
        if not counted.shape[1]:
            raise InputError(f"{self.examples} training examples leave none of {both.shape[1]} pairs to count; give more --pairs")
        found = fitted.code(((counted - fitted.centre) * fitted.factor).flatten(0, 2)).unflatten(0, counted.shape[:3])
        return Codes(found[0], found[1:], n_codes(self.encoder, self.latents))

    def _drawn(self, kinds: int, pairs: int) -> Bool[Tensor, "kind prompt"]:
        """The training examples."""
        if self.examples > kinds * pairs:
            raise InputError(f"{self.examples} training examples cannot be drawn from {kinds * pairs} prompts; give more --pairs")
        order = torch.randperm(kinds * pairs, generator=torch.Generator().manual_seed(self.code_seed))
        return (order.argsort() < self.examples).unflatten(0, (kinds, pairs))

    def counted(self, codes: Codes) -> tuple[Int[Tensor, "prompt unit"], Int[Tensor, "kind prompt unit"]]:
        """Codes of both sides; where silence has no code of its own it is latent 0."""
        return (codes.positive, codes.negative) if self.no_feature else (codes.positive.clamp_min(0), codes.negative.clamp_min(0))

    def scores(self, codes: Codes, graph: Graph) -> Scores:
        """Count codes and score the nodes of the graph."""
        positive, negative = self.counted(codes)
        if self.score == "node":
            found = novelty(positive, negative, codes.n, self.counting)
        else:
            found = appearances(cooccurrence(positive, negative, codes.n, self.counting))
        found = -_softmax(found, self.softmax, graph.n_layers).float().cpu()
        mean = torch.zeros(len(graph.nodes))
        mean[slice(None) if self.mlps else graph.index(graph.heads())] = found
        silent = torch.cat((codes.positive[None], codes.negative)) < 0
        notes = {"no_feature": float(silent.double().mean()), "counted": float(len(positive))}
        return Scores(graph, "node", mean, torch.zeros_like(mean), torch.ones_like(mean), len(positive), notes=notes)


def _corrupted(model: Model, task: Task, pairs: Pairs, kind: str, seed: int) -> Pairs:
    """As many pairs of another corruption, with BOS where the given ones have it."""
    task = task.task if isinstance(task, Kl) else task
    if not hasattr(task, "corruption"):
        raise InputError(f"task {task.NAME} has one corruption; leave out corruptions")
    bos = model.bos if model.bos is not None and bool((pairs.clean[:, 0] == model.bos).all()) else None
    other: Task = replace(task, corruption=kind)  # pyright: ignore[reportArgumentType]
    return other.pairs(model.tokenizer, len(pairs), seed, bos).to(pairs.clean.device)


def _softmax(u: Float[Tensor, " unit"], over: Softmax, layers: int) -> Float[Tensor, " unit"]:
    if over in ("none", "heads"):
        return u if over == "none" else u.softmax(0)
    return u.unflatten(0, (layers, -1)).softmax(0 if over == "across_layers" else 1).flatten()
