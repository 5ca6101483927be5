"""What is said of activations before a training and of the training itself: known figures, and advice when it should be given."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.cli import main
from interp.evals.diagnostics import MEAN, ROWS, TOP, Diagnosis, diagnose
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.health import DEAD, DENSE, SETTLED, span, thresholds, warnings
from interp.stages.train import Train
from saes.architectures import CrossLayer, JumpRelu, TopK
from saes.train import Row

D = 32


def normal(n: int = ROWS, seed: int = 0) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


# Activations.


def test_isotropic_data_has_all_its_dimensions_and_no_mean():
    found = diagnose(normal())
    assert found.mean_to_spread == pytest.approx(0, abs=0.03)
    assert found.top_component == pytest.approx(1 / D, rel=0.15)
    assert found.effective_dimensions == pytest.approx(D, rel=0.02)
    assert found.advice() == []


def test_the_mean_is_held_against_the_root_of_the_total_variance():
    """Variance 4 in each of 32 dimensions and a mean of length 3 sqrt(4 * 32), in a direction of its own."""
    found = diagnose(2 * normal() + torch.eye(D)[5] * 3.3 * 128**0.5)
    assert found.mean_to_spread == pytest.approx(3.3, rel=0.02)
    assert found.effective_dimensions == pytest.approx(D, rel=0.02), "centring comes first"
    assert found.advice() == ["the mean is 3.3 times the spread: training centres it away, and so must whoever uses raw norms"]


def test_one_dominant_direction_holds_its_share_of_the_variance():
    """Variance 93 along one direction that is no axis, 1 along the 31 others."""
    direction = torch.nn.functional.normalize(torch.arange(1.0, D + 1), dim=0)
    x = normal()
    x = x + (93**0.5 - 1) * (x @ direction)[:, None] * direction
    found = diagnose(x)
    assert found.top_component == pytest.approx(93 / 124, rel=0.02)
    assert found.effective_dimensions == pytest.approx(124**2 / (93**2 + 31), rel=0.03)
    (advice,) = found.advice()
    assert advice.startswith(f"one direction holds {found.top_component:.0%} of the variance: check for outlier tokens")


@pytest.mark.parametrize("directions", [1, 5, 20])
def test_data_in_a_subspace_has_the_dimensions_of_the_subspace(directions: int):
    """Equal variances, exactly: signs that are orthogonal over the rows."""
    signs = torch.tensor([[1.0 if bin(i & j).count("1") % 2 == 0 else -1.0 for j in range(1, directions + 1)] for i in range(64)])
    basis = torch.linalg.qr(normal(D))[0][:directions]
    found = diagnose(signs @ basis + 7)
    assert found.effective_dimensions == pytest.approx(directions, rel=1e-4)
    assert found.top_component == pytest.approx(1 / directions, rel=1e-4)
    assert found.mean_to_spread == pytest.approx((49 * D / directions) ** 0.5, rel=1e-4)


def test_figures_do_not_depend_on_scale_rotation_or_the_stored_type():
    x = normal(2000) * torch.linspace(0.1, 3, D) + 1
    rotation = torch.linalg.qr(normal(D, seed=1))[0]
    first = diagnose(x)
    for other in (x * 1e3, x @ rotation, x.to(torch.bfloat16)):
        found = diagnose(other)
        assert found.mean_to_spread == pytest.approx(first.mean_to_spread, rel=1e-2)
        assert found.top_component == pytest.approx(first.top_component, rel=1e-2)
        assert found.effective_dimensions == pytest.approx(first.effective_dimensions, rel=1e-2)


def test_advice_begins_above_its_bounds():
    assert Diagnosis(MEAN, TOP, 10.0).advice() == []
    assert len(Diagnosis(MEAN + 0.01, TOP + 0.01, 10.0).advice()) == 2


# Trainings.


def row(step: int, dead: float = 0.0, dense: float = 0.0) -> Row:
    return Row(step, 100 * step, {"dead_share": dead, "dense_share": dense}, None)  # pyright: ignore[reportArgumentType]


def said_over(steps: int, dead: float = 0.0, dense: float = 0.0) -> dict[int, list[str]]:
    """The sentences of each step of a training with these shares all along."""
    said: set[str] = set()
    found = {step: warnings(row(step, dead, dense), steps, said) for step in range(1, steps + 1)}
    return {step: sentences for step, sentences in found.items() if sentences}


def test_a_warning_is_given_once_and_not_before_latents_have_settled():
    (step,) = found = said_over(100, dead=DEAD + 0.05)
    assert step == round(SETTLED * 100)
    (sentence,) = found[step]
    assert sentence.startswith("15% of the latents are dead: lower --lr")
    assert "--aux-coefficient" in sentence
    (step,) = found = said_over(100, dense=DENSE + 0.03)
    assert step == round(SETTLED * 100)
    assert found[step][0].startswith("5.0% of the latents fire on over a tenth of the tokens: take a smaller k")
    assert len(said_over(100, DEAD + 0.01, DENSE + 0.01)[30]) == 2


def test_a_training_in_good_health_says_nothing():
    assert said_over(100, DEAD, DENSE) == {}


def test_a_warning_comes_when_its_trouble_comes_and_each_by_itself():
    said: set[str] = set()
    assert warnings(row(40), 100, said) == []
    assert len(warnings(row(50, dense=0.5), 100, said)) == 1
    assert len(warnings(row(60, dead=0.5, dense=0.5), 100, said)) == 1
    assert warnings(row(70, dead=0.9, dense=0.9), 100, said) == []


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    stage = Cache(
        sites=(Site(1, "resid_post"),), model=str(tiny_llama), text=f"files:{corpus_file}", tokens=2048, context=32, dtype="float32"
    )
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


def test_a_grid_with_dead_latents_says_so_once_for_each_member(cached: Run, capsys: pytest.CaptureFixture[str]):
    options = [
        "--width",
        "256",
        "--epochs",
        "6",
        "--batch-size",
        "128",
        "--precision",
        "float32",
        "--aux-coefficient",
        "0",
        "--log-every",
        "2",
    ]
    with pytest.raises(SystemExit) as leave:
        main(["train", cached.id, "--k", "1", "2", *options, "--json", "--root", str(cached.path.parent)])
    assert leave.value.code == 0
    captured = capsys.readouterr()
    names = [line.split('"')[3] for line in captured.out.splitlines()]
    assert len(names) == 2
    for name in names:
        assert len(re.findall(rf"{name}: \d+% of the latents are dead", captured.err)) == 1


def test_the_plan_says_what_the_activations_are_like(cached: Run):
    plan = Train(cached.id, TopK(4), width=64, batch_size=128).plan(Context(cached.path.parent))
    line = plan.lines["at 1.resid_post"]
    assert "|mean| / spread" in line
    assert "first component" in line
    assert "effective dimensions" in line


def test_a_span_is_one_value_or_two():
    assert span([]) == "–"
    assert span([0.25, 0.25]) == "0.25"
    assert span([0.5, 0.125, 0.25]) == "0.125–0.5"


def test_deciles_of_thresholds_are_taken_over_all_latents_and_layers():
    assert thresholds(TopK(4).build(8, 8, 32)) == {}
    dictionary = JumpRelu(4).build(8, 8, 101)
    dictionary.get_parameter("threshold").data.copy_(torch.arange(101.0))
    assert thresholds(dictionary) == pytest.approx({"threshold_p10": 10, "threshold_p50": 50, "threshold_p90": 90})
    layers = CrossLayer(2).build(8, 8, 32, transcoder=True, parts=2)
    CrossLayer(2).finish(layers, torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    assert set(thresholds(layers)) == {"threshold_p10", "threshold_p50", "threshold_p90"}
