"""Circuits of latents and codes: identities, a float64 twin, and a compiled model whose true features are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from test_circuits_toy import Toy, double

from interp.circuits.forward import clean_metric, corrupt_metric
from interp.circuits.latents import Latents, curve, latents, metrics, scores
from interp.circuits.latents import exact as audit
from interp.hooks import patched, record
from interp.models.bridge import Model
from interp.models.compiled import compile
from interp.models.compiled.programs import program
from interp.sites import Site
from interp.tasks.compiled import CompiledTask
from saes.architectures import Relu, TopK
from saes.architectures.codebook import CodebookDictionary

SITE = Site(1, "resid_post")
ABLATIONS = ("resample", "mean", "zero")
TASK = Toy()


def sae(seed: int = 0):
    dictionary = TopK(k=4).build(32, 32, 20, seed=seed).double()
    dictionary.b_dec.data = 0.1 * torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return dictionary


def codes():
    dictionary = CodebookDictionary(32, 2, 10, 2).double()
    dictionary.codebook.data = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return dictionary


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def tiny(request: pytest.FixtureRequest) -> Model:
    return double(request.getfixturevalue(request.param))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("make", [sae, codes])
@pytest.mark.parametrize("site", [SITE, Site(1, "mlp_out"), Site(1, "z")])
def test_everything_kept_is_the_clean_run_and_nothing_kept_the_ablated_one(tiny, make, site, ablation):
    pairs, dictionary = TASK.pairs(None, 6, 0, None), make()
    nodes = latents(tiny, dictionary, site, pairs, ablation)
    every = torch.ones(1, nodes.n_units, dtype=torch.bool)
    full, empty = metrics(tiny, TASK, pairs, nodes, torch.cat([every, ~every]))
    assert torch.allclose(full, clean_metric(tiny, TASK, pairs), atol=1e-5)
    if ablation == "zero":
        with (
            torch.no_grad(),
            patched(tiny, {site: lambda x: dictionary.decode(torch.zeros(20).double()).expand_as(x.flatten(2)).view_as(x)}),
        ):
            assert torch.allclose(empty, clean_metric(tiny, TASK, pairs), atol=1e-9)
    elif ablation == "resample" and site.stream == "resid_post":
        assert torch.allclose(empty, corrupt_metric(tiny, TASK, pairs), atol=1e-9)
    assert tiny.hook_count() == 0


@pytest.mark.parametrize("make", [sae, codes])
def test_a_circuit_equals_the_literal_sum_latent_by_latent(tiny, make):
    pairs, dictionary = TASK.pairs(None, 4, 1, None), make()
    nodes = latents(tiny, dictionary, SITE, pairs, "resample")
    kept = torch.rand(3, nodes.n_units, generator=torch.Generator().manual_seed(0)) < 0.5
    found = nodes.changed(kept.double())
    clean, corrupt = (record(tiny, tokens, [SITE])[SITE] for tokens in (pairs.clean, pairs.corrupt))
    directions = dictionary.directions()
    for mask, rows in zip(kept, found, strict=True):
        for i in range(4):
            for p in range(clean.shape[1]):
                z, a = dictionary.encode(clean[i, p]), dictionary.encode(corrupt[i, p])
                x = dictionary.b_dec + sum((z if mask[f] else a)[f] * directions[f] for f in range(20))
                x = x + (clean[i, p] - dictionary.decode(z) if mask[-1] else corrupt[i, p] - dictionary.decode(a))
                assert torch.allclose(rows[i, p], x, atol=1e-10)


def test_scores_are_the_slope_of_the_metric_along_each_unit(tiny):
    pairs = TASK.pairs(None, 4, 2, None)
    nodes = latents(tiny, sae(), SITE, pairs, "resample")
    found = scores(tiny, TASK, pairs, nodes)
    # Norms of transformers compute in float32, so a small step would measure their rounding.
    step = 1e-2
    for unit in [*nodes.active.nonzero()[:5, 0].tolist(), nodes.n_units - 1]:
        values = []
        for sign in (1, -1):
            share = torch.ones(1, nodes.n_units, dtype=torch.float64)
            share[0, unit] -= sign * step
            with torch.no_grad(), patched(tiny, {SITE: lambda x, s=share: nodes.changed(s)[0]}):
                values.append(clean_metric(tiny, TASK, pairs))
        assert torch.allclose(found[:, unit], (values[0] - values[1]) / (2 * step), atol=2e-3)


@pytest.mark.slow
def test_scores_along_a_fine_path_add_up_to_the_effect_of_ablating_everything(tiny):
    pairs = TASK.pairs(None, 4, 3, None)
    nodes = latents(tiny, sae(), SITE, pairs, "resample")
    every = torch.ones(1, nodes.n_units, dtype=torch.bool)
    full, empty = metrics(tiny, TASK, pairs, nodes, torch.cat([every, ~every]))
    total = scores(tiny, TASK, pairs, nodes, steps=200).sum(1)
    assert torch.allclose(total, empty - full, atol=1e-3)


def test_silent_latents_have_no_score_and_no_place_in_a_curve(tiny):
    pairs = TASK.pairs(None, 6, 4, None)
    dictionary = sae()
    dictionary.b_enc.data[:5] = -1e6
    nodes = latents(tiny, dictionary, SITE, pairs, "resample")
    found = scores(tiny, TASK, pairs, nodes)
    assert not bool(found[:, :5].any())
    assert not bool(nodes.active[:5].any())


@pytest.mark.parametrize("keep_error", [False, True])
def test_a_curve_ends_at_the_whole_and_begins_at_nothing(tiny, keep_error):
    pairs = TASK.pairs(None, 24, 5, None)
    with torch.no_grad():
        logits = tiny(pairs.clean)[torch.arange(24), pairs.end]
    # The model's own answers, so that ablation has something to lose.
    pairs = replace(pairs, answer=logits.argmax(1), wrong=logits.argmin(1)[:, None])
    dictionary = sae()
    dictionary.W_dec.data *= 30
    nodes = latents(tiny, dictionary, SITE, pairs, "zero")
    effect = scores(tiny, TASK, pairs, nodes).mean(0)
    points = curve(tiny, TASK, pairs, nodes, "zero", effect, keep_error=keep_error)
    own = [point for point in points if point.series == "method"]
    assert (own[0].faithfulness, own[-1].faithfulness) == (0, 1)
    assert own[-1].complement == pytest.approx(own[0].metric)
    assert {point.series for point in points} == {"method", "random"}


def feature_dictionary(width: int):
    """Latents that are the coordinates of the residual stream of a compiled model: its true features."""
    dictionary = Relu(k=1).build(width, width, width).double()
    with torch.no_grad():
        for side in (dictionary.W_enc, dictionary.W_dec):
            side.copy_(torch.eye(width, dtype=torch.float64))
        dictionary.b_enc.zero_()
        dictionary.b_dec.zero_()
    return dictionary


def exact(model: Model, task: CompiledTask, pairs, nodes: Latents) -> torch.Tensor:
    """Effect of ablating each unit by itself."""
    kept = ~torch.eye(nodes.n_units, dtype=torch.bool)
    return metrics(model, task, pairs, nodes, kept).mean(1) - clean_metric(model, task, pairs).mean()


@pytest.mark.parametrize("name", ["previous", "hist", "reverse"])
def test_the_true_features_of_a_compiled_model_are_found(name):
    compiled = compile(program(name))
    model = compiled.model(torch.float64)
    site = Site(model.n_layers - 1, "resid_post")
    task = CompiledTask(compiled, 3)
    pairs = task.pairs(model.tokenizer, 24, 0, compiled.words.index("BOS"))
    nodes = latents(model, feature_dictionary(model.d_model), site, pairs, "resample")
    # What the unembedding reads, by construction; every other coordinate is left over from the computation.
    read = model.w_u().norm(dim=1) > 1e-9
    true = (read & nodes.active[:-1]).numpy()
    assert 0 < true.sum() < len(true)
    # The metric is best at the clean prompt, so its slope there is 0: the path leaves it.
    found = scores(model, task, pairs, nodes, steps=10).mean(0)[:-1]
    assert roc_auc_score(true, -found.numpy()) == 1
    assert roc_auc_score(true, -exact(model, task, pairs, nodes)[:-1].numpy()) == 1
    points = [p for p in curve(model, task, pairs, nodes, "resample", torch.cat([found, torch.zeros(1)])) if p.series == "method"]
    enough = next(p for p in points if p.n >= true.sum())
    assert enough.faithfulness == pytest.approx(1, abs=1e-6)
    assert np.isfinite([p.low for p in points]).all()


def test_codes_of_a_bottleneck_are_what_the_model_computes_with(tiny):
    book = codes()
    model, pairs = tiny.with_codebooks({SITE: book}), TASK.pairs(None, 6, 0, None)
    nodes = latents(model, book, SITE, pairs, "resample")
    before = record(model, pairs.clean, [SITE], before=True)[SITE]
    assert torch.allclose(nodes.x, book.decode(book.encode(before)))
    assert float(nodes.error_away.abs().max()) < 1e-12
    every = torch.ones(1, nodes.n_units, dtype=torch.bool)
    full, empty = metrics(model, TASK, pairs, nodes, torch.cat([every, ~every]))
    assert torch.allclose(full, clean_metric(model, TASK, pairs), atol=1e-5)
    assert torch.allclose(empty, corrupt_metric(model, TASK, pairs), atol=1e-5)


def test_the_audit_ablates_each_alone(tiny):
    pairs = TASK.pairs(None, 6, 0, None)
    nodes = latents(tiny, sae(), SITE, pairs, "resample")
    effect = scores(tiny, TASK, pairs, nodes).mean(0)
    which, found = audit(tiny, TASK, pairs, nodes, effect, 6, seed=0)
    assert which[-1] == nodes.n_units - 1
    assert len(set(which.tolist())) == 7
    strongest = effect[:-1].abs().argsort(descending=True)[:3].tolist()
    assert which[:3].tolist() == strongest
    for unit, own in zip(which.tolist(), found.T, strict=True):
        kept = torch.ones(2, nodes.n_units, dtype=torch.bool)
        kept[0, unit] = False
        without, whole = metrics(tiny, TASK, pairs, nodes, kept)
        assert torch.allclose(own, without - whole, atol=1e-6)
