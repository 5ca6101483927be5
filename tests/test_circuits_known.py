"""Methods on compiled models, whose circuits are certified: no norm, saturated gates, sources that change nothing."""

import pytest
import torch

from interp.circuits.ablation import replacement
from interp.circuits.graph import graph
from interp.circuits.methods import Acdc, Eap, EapIg, EapIgActivations, ExactEdges, Scorer
from interp.circuits.roc import auroc
from interp.models.compiled import certify, compile, gate, program
from interp.models.compiled.forward import edges, run
from interp.tasks.base import Pairs
from interp.tasks.compiled import CompiledTask


class Sum(CompiledTask):
    """A metric with a slope everywhere."""

    def metric(self, logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        weights = torch.linspace(0.5, 1.5, logits[0].numel(), dtype=logits.dtype).reshape(logits.shape[1:])
        return (logits * weights).sum((-1, -2))


def test_eap_is_the_slope_of_the_literal_twin_where_there_is_no_norm() -> None:
    compiled = compile(program("reverse"))
    task, model = Sum(compiled, 3), compiled.model(torch.float64)
    pairs, whole = task.pairs(model.tokenizer, 12, 0, model.bos), graph(model, pos=True)
    scores = Eap()(model, task, pairs, whole, replacement(model, whole, pairs, "zero"))
    own, names = run(compiled.weights, pairs.clean)[1], edges(compiled.weights)
    share = torch.zeros(len(names), 1, 1, 1, dtype=torch.float64, requires_grad=True)
    cut = {edge: torch.arange(len(names)) != i for i, edge in enumerate(names)}
    logits = run(compiled.weights, pairs.clean, cut, {u: y - share * y for u, y in own.items()})[0]
    metric = task.metric(logits[:, torch.arange(len(pairs))[:, None], pairs.read], pairs).mean(1)
    (slope,) = torch.autograd.grad(metric.sum(), share)
    expected = dict(zip((f"{u}->{t}" for u, t in names), slope.flatten().tolist(), strict=True))
    assert abs(expected["3.0->logits"]) > 0.1
    assert expected["3.0->m3"] == 0
    torch.testing.assert_close(scores.mean, torch.tensor([expected[name] for name in scores.names()]), rtol=1e-5, atol=1e-6)


def test_a_source_that_changes_nothing_scores_zero_along_its_path() -> None:
    compiled = compile(gate("and"))
    task, model = CompiledTask(compiled, 3), compiled.model(torch.float64)
    pairs, whole = task.pairs(model.tokenizer, 4, 0, model.bos), graph(model, pos=True)
    scores = EapIgActivations()(model, task, pairs, whole, replacement(model, whole, pairs, "resample"))
    truth = certify(compiled, "resample", compiled.inputs(3)).edges
    found = dict(zip(scores.names(), scores.mean.tolist(), strict=True))
    assert all(found[f"pos->{t}"] == 0 for t in whole.destinations)
    assert all(found[f"{u}->{t}"] < 0 for u, t in truth)


@pytest.mark.slow
@pytest.mark.parametrize("method", [EapIg(steps=50), ExactEdges(), Acdc((0.001, 0.03))])
def test_methods_that_leave_the_clean_prompts_rank_certified_edges_first(method: Scorer) -> None:
    compiled = compile(program("xproportion"))
    task, model = CompiledTask(compiled, 3), compiled.model(torch.float64)
    pairs, whole = task.pairs(model.tokenizer, 64, 0, model.bos), graph(model, pos=True)
    scores = method(model, task, pairs, whole, replacement(model, whole, pairs, "zero"))
    truth = certify(compiled, "zero", compiled.inputs(3)).edges
    true = torch.tensor([tuple(name.split("->")) in truth for name in scores.names()])
    assert auroc(scores.mean.abs().double().numpy(), true.numpy()) == 1
