import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_circuits_toy import Toy, literal_activations, literal_metric, resampled, tiny

from interp.circuits import ablation
from interp.circuits.ablation import replacement
from interp.circuits.faithfulness import Series, curves, faithfulness, mean_intervals, ratio_intervals, require_effect, resamples, sizes
from interp.circuits.forward import clean_metric, corrupt_metric, first_layers, metrics, passes
from interp.circuits.graph import Scores, graph
from interp.circuits.methods import Exact, ExactEdges
from interp.circuits.methods.random import shuffled
from interp.models.bridge import Model
from interp.sites import Site
from interp.tasks import Pairs
from saes.errors import InputError

__all__ = ["tiny"]


def _literal_circuit(model: Model, pairs: Pairs, i: int, kept: set[str], heads_only: bool, values: dict[Site, torch.Tensor]) -> float:
    """One prompt through the whole model; every node outside the circuit is overwritten, stream by stream, head by head."""

    def hook(site: Site, activation: torch.Tensor) -> torch.Tensor:
        changed = activation.clone()
        if site.stream == "mlp_out" and not heads_only and f"{site.layer}.mlp_out" not in kept:
            changed[:] = values[site]
        for head in range(model.n_heads) if site.stream == "z" else ():
            if f"{site.layer}.z.{head}" not in kept:
                changed[:, :, head] = values[site][:, :, head]
        return changed

    return literal_metric(model, pairs, i, pairs.clean, {site: lambda a, site=site: hook(site, a) for site in values})


@pytest.mark.parametrize("heads_only", [True, False])
def test_the_masked_forward_equals_one_prompt_and_one_circuit_at_a_time(tiny: Model, heads_only: bool) -> None:
    pairs, whole = Toy().pairs(None, 3, 0, None), graph(tiny)
    kept = torch.rand(7, len(whole.nodes), generator=torch.Generator().manual_seed(1)) < 0.5
    kept[0], kept[1] = False, True
    kept[2, : len(whole.nodes) // 2] = True
    kept = kept | (heads_only & ~whole.is_head())
    masks = Scores.of(whole, "node", torch.zeros(1, len(whole.nodes))).mask(kept)
    fast = metrics(tiny, Toy(), pairs, whole, masks, resampled(tiny, pairs, whole))
    for i in range(len(pairs)):
        values = literal_activations(tiny, pairs, i, pairs.corrupt)
        for row, circuit in zip(fast, kept, strict=True):
            names = {str(node) for node, keep in zip(whole.nodes, circuit.tolist(), strict=True) if keep}
            assert row[i].item() == pytest.approx(_literal_circuit(tiny, pairs, i, names, heads_only, values), abs=1e-6)


def test_keeping_every_node_is_the_clean_run_and_keeping_none_the_corrupt_one(tiny: Model) -> None:
    pairs, whole = Toy().pairs(None, 6, 1, None), graph(tiny)
    metric = metrics(tiny, Toy(), pairs, whole, whole.keeping([whole.nodes, ()]), resampled(tiny, pairs, whole))
    assert torch.allclose(metric[0], clean_metric(tiny, Toy(), pairs), atol=1e-6)
    # Both prompts end in the same token, and every later addition to its residual stream is the corrupt run's.
    assert torch.allclose(metric[1], corrupt_metric(tiny, Toy(), pairs), atol=1e-6)
    assert not torch.allclose(metric[0], metric[1], atol=1e-3)
    assert tiny.hook_count() == 0


def test_padding_behind_the_end_changes_nothing(tiny: Model) -> None:
    pairs = Toy().pairs(None, 3, 2, None)
    assert (pairs.end < pairs.clean.shape[1] - 1).any()
    literal = [literal_metric(tiny, pairs, i, pairs.clean) for i in range(3)]
    assert clean_metric(tiny, Toy(), pairs).tolist() == pytest.approx(literal, abs=1e-9)


def test_mean_ablation_is_the_literal_mean_over_the_group_at_each_position(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, reference, whole = Toy().pairs(None, 4, 3, None), Toy().pairs(None, 14, 4, None), graph(tiny)
    monkeypatch.setattr(ablation, "MEAN_ROWS", 4)
    means = replacement(tiny, whole, pairs, "mean", reference)
    runs = [literal_activations(tiny, reference, j, reference.corrupt) for j in range(len(reference))]
    for site in runs[0]:
        found = (means.z if site.stream == "z" else means.mlp)[site.layer]
        for i in range(len(pairs)):
            members = [run[site][0] for run, group in zip(runs, reference.group, strict=True) if group == pairs.group[i]]
            literal = sum(members) / len(members)
            assert torch.allclose(found[i, : len(literal)], literal, atol=1e-5)


def test_a_group_without_reference_prompts_raises_a_sentence(tiny: Model) -> None:
    pairs = Toy().pairs(None, 6, 5, None)
    with pytest.raises(InputError, match="--reference 4"):
        replacement(tiny, graph(tiny), pairs, "mean", pairs.rows(slice(1)))


def test_passes_count_from_the_first_ablated_layer(tiny: Model) -> None:
    whole = graph(tiny)
    masks = whole.keeping([[other for other in whole.nodes if other != node] for node in whole.nodes])
    per_layer = tiny.n_heads + 1
    assert passes(whole, masks) == pytest.approx(per_layer * (3 + 2 + 1) / 3)
    edges = whole.valid.repeat(2, 1, 1)
    edges[0, 0, whole.destinations.index("1.2.q")] = edges[1, 0, -1] = False
    assert first_layers(whole, edges).tolist() == [1, 3]


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_curves_go_from_zero_to_one_and_random_orders_stand_beside_them(tiny: Model, unit: str) -> None:
    train, test, whole = Toy().pairs(None, 6, 6, None), Toy().pairs(None, 8, 12, None), graph(tiny)
    exact = (Exact() if unit == "node" else ExactEdges())(tiny, Toy(), train, whole, resampled(tiny, train, whole))
    series = [Series("method", exact), Series("random", shuffled(whole, unit, 1), seed=1)]
    test = Pairs(test.clean, test.corrupt, *_by_sign(tiny, test), test.read, test.group, test.spans)
    found = curves(tiny, Toy(), test, series, "resample", resampled(tiny, test, whole))
    n = len(exact.mean)
    assert [p.n for p in found.points if p.series == "method"] == list(sizes(n, unit))
    assert {(p.series, p.seed) for p in found.points} == {("method", 0), ("random", 1)}
    assert found.metric.shape == (len(found.points), len(test))
    for point, metric in zip(found.points, found.metric, strict=True):
        assert (point.nodes, point.unit, point.share) == ("all", unit, pytest.approx(point.n / n))
        assert point.metric == pytest.approx(float(metric.mean()), abs=1e-6)
        assert (point.complement is None) == (point.series == "random" and 0 < point.n < n)
        assert point.low <= point.high
        if point.n in (0, n):
            assert (point.faithfulness, point.low, point.high) == pytest.approx((point.share,) * 3, abs=1e-5)
            assert point.complement == pytest.approx(float((found.full if point.n == 0 else found.empty).mean()), abs=1e-5)


def _by_sign(model: Model, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer and wrong answer exchanged where ablation would raise the metric: the toy then has an effect to explain."""
    turn = clean_metric(model, Toy(), pairs) < corrupt_metric(model, Toy(), pairs)
    wrong = pairs.wrong[:, 0]
    return torch.where(turn, wrong, pairs.answer), torch.where(turn, pairs.answer, wrong)[:, None]


@given(st.integers(1, 1000))
def test_sizes_rise_from_none_to_all(n: int) -> None:
    assert list(sizes(n)) == sorted(set(sizes(n)))
    assert (sizes(n)[0], sizes(n)[-1]) == (0, n)


def test_ratio_intervals_equal_the_literal_bootstrap() -> None:
    rng = torch.Generator().manual_seed(0)
    full, empty = torch.randn(9, generator=rng) + 4, torch.randn(9, generator=rng)
    metric = torch.stack((empty, full, (full + empty) / 2, torch.randn(9, generator=rng)))
    low, high = ratio_intervals(metric, full, empty, seed=3)
    for m, lo, hi in zip(metric.tolist(), low.tolist(), high.tolist(), strict=True):
        ratios = []
        for draw in resamples(9, 3).tolist():
            top = sum(m[i] for i in draw) - sum(empty[i].item() for i in draw)
            ratios.append(top / (sum(full[i].item() for i in draw) - sum(empty[i].item() for i in draw)))
        literal = torch.tensor(ratios, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
        assert (lo, hi) == pytest.approx(literal.tolist(), abs=1e-5)
    assert (low[0], high[1]) == pytest.approx((0, 1), abs=1e-6)
    assert low[2].item() == pytest.approx(0.5, abs=1e-5)


def test_faithfulness_is_a_ratio_of_means() -> None:
    assert faithfulness(torch.tensor([3.0, -1.0, 6.0]), torch.tensor(5.0), torch.tensor(1.0)).tolist() == [0.5, -0.5, 1.25]


def test_intervals_of_means_equal_the_literal_bootstrap_and_cover_the_mean() -> None:
    values = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)) + torch.arange(5)
    low, high = mean_intervals(values, seed=2)
    literal = torch.stack([values[draw].mean(0) for draw in resamples(12, 2)])
    assert torch.allclose(low, literal.quantile(0.025, 0), atol=1e-5)
    assert torch.allclose(high, literal.quantile(0.975, 0), atol=1e-5)
    assert bool(((low < values.mean(0)) & (values.mean(0) < high)).all())


def test_an_ablation_without_effect_raises_a_sentence() -> None:
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0])
    with pytest.raises(InputError, match="standard error"):
        require_effect(noise, torch.zeros(4))
    require_effect(noise + 5, torch.zeros(4))
