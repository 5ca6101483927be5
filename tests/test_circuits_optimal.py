from pathlib import Path

import pytest
import torch
from test_circuits_toy import Toy, double, tiny

from interp.circuits import optimal as module
from interp.circuits.ablation import replacement
from interp.circuits.forward import logits_at, metrics
from interp.circuits.graph import graph
from interp.circuits.methods import Exact
from interp.circuits.optimal import optimal
from interp.models.bridge import Model
from interp.tasks.kl import Kl

__all__ = ["tiny"]


@pytest.mark.slow
def test_trained_constants_find_what_a_node_always_writes(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLPs that write a constant beside what they compute: without it the model is lost, and nothing else need be known of the prompt."""
    monkeypatch.setattr(module, "STEPS", 60)
    model = double(tiny_gpt2)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in model.bridge.original_model.transformer.h:
            bias = block.mlp.c_proj.bias
            bias.copy_(torch.randn(bias.shape, generator=rng, dtype=torch.float64))
    whole, train = graph(model), Toy().pairs(None, 24, 0, None)
    test = Kl.targeted(model, Toy().pairs(None, 12, 1, None))
    nothing = replacement(model, whole, test, "zero")
    best = optimal(model, whole, train, nothing)
    assert best.mlp[0].shape == nothing.mlp[0].shape
    assert torch.equal(best.z[0], best.z[0][:1, :1].expand_as(best.z[0]))
    masks = whole.keeping([[n for n in whole.nodes if str(n) != f"{layer}.mlp_out"] for layer in range(3)])
    harm, less = (-metrics(model, Kl(Toy()), test, whole, masks, v).mean() for v in (nothing, best))
    assert less < 0.5 * harm
    assert model.hook_count() == 0


def test_kl_is_the_divergence_from_the_whole_model(tiny: Model) -> None:
    from scipy.stats import entropy

    pairs = Kl.targeted(tiny, Toy().pairs(None, 3, 0, None))
    assert float(Kl(Toy()).metric(logits_at(tiny, lambda: tiny(pairs.clean), pairs.read), pairs).abs().max()) < 1e-6
    other = logits_at(tiny, lambda: tiny(pairs.corrupt), pairs.read)
    found = Kl(Toy()).metric(other, pairs)[0]
    for i in range(3):
        assert pairs.target is not None
        expected = entropy(pairs.target[i, 0].exp().numpy(), other[0, i, 0].softmax(-1).detach().numpy())
        assert -float(found[i]) == pytest.approx(expected, rel=1e-4)


def test_first_order_scores_refuse_a_metric_without_slope(tiny: Model) -> None:
    from interp.circuits.methods import Eap, EapIg
    from saes.errors import InputError

    whole, pairs = graph(tiny), Kl.targeted(tiny, Toy().pairs(None, 3, 0, None))
    values = replacement(tiny, whole, pairs, "resample")
    with pytest.raises(InputError, match="no slope"):
        Eap()(tiny, Kl(Toy()), pairs, whole, values)
    assert EapIg()(tiny, Kl(Toy()), pairs, whole, values).mean.abs().sum() > 0
    assert Exact()(tiny, Kl(Toy()), pairs, whole, values).mean.max() <= 1e-6
