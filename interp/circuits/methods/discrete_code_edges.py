"""Edges from discrete codes: the pairs of heads of arXiv:2405.12522, scored as the edges that they are.

The published co-occurrence is read out on heads only. Here the number of joint codes of an earlier and a later head that positives alone
have is the score of the edges from the one to the other's query, key and value, which codes cannot tell apart. Keys and values of a group
take the best of its heads; all other edges score 0.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from interp.circuits.ablation import Outputs
from interp.circuits.graph import Graph, Scores, Unit
from interp.circuits.methods.discrete_codes import Codes, DiscreteCodes
from interp.circuits.novelty import cooccurrence
from interp.models.bridge import Model
from interp.tasks import Pairs, Task


@dataclass(frozen=True)
class DiscreteCodeEdges:
    """Joint codes of an earlier and a later head that clean prompts have and corrupt ones lack."""

    NAME: ClassVar[str] = "discrete-code-edges"
    ABOUT: ClassVar[str] = "counts pairs of such codes that only clean prompts have together; the score is minus their number"
    EFFECTS: ClassVar[bool] = False
    UNIT: ClassVar[Unit] = "edge"

    options: DiscreteCodes = field(default_factory=DiscreteCodes)
    """How codes are made and counted; score, softmax and mlps are not used."""

    def __call__(self, model: Model, task: Task, pairs: Pairs, graph: Graph, values: Outputs) -> Scores:
        """Minus the number of joint codes."""
        options = replace(self.options, mlps=False)
        given = options.vectors(model, task, pairs, graph)
        return self.scores(options.codes(given, options.fitted(given)), graph)

    def scores(self, codes: Codes, graph: Graph) -> Scores:
        """Count joint codes and put them on the edges between heads."""
        positive, negative = self.options.counted(codes)
        found = cooccurrence(positive, negative, codes.n, self.options.counting).float().cpu()
        heads = graph.n_embeddings + graph.index(graph.heads())
        table = torch.zeros(len(graph.sources), len(graph.destinations))
        place = {int(row): i for i, row in enumerate(heads)}
        for column, owners in enumerate(graph.owners):
            if owners and all(owner in place for owner in owners):
                table[heads, column] = found[:, [place[owner] for owner in owners]].amax(1)
        mean = -table[graph.edges[:, 0], graph.edges[:, 1]]
        return Scores(graph, "edge", mean, torch.zeros_like(mean), torch.ones_like(mean), len(positive))
