import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.circuits.areas import SHARES, areas
from saes.errors import InputError


def _curve(f: Tensor, n: int, seed: int = 0, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Metrics of examples whose mean faithfulness is about f: full 3, empty 1, each example with its own noise."""
    rng = torch.Generator().manual_seed(seed)

    def noisy(mean: Tensor) -> Tensor:
        return mean[:, None] + noise * torch.randn(len(mean), n, generator=rng, dtype=torch.float64)

    ends = noisy(torch.tensor([3.0, 1.0], dtype=torch.float64))
    metric = noisy(1 + 2 * f.double())
    metric[-1] = ends[0]
    return metric, ends[0], ends[1]


@given(st.lists(st.floats(-0.5, 3), min_size=10, max_size=10))
def test_areas_equal_the_literal_sum_over_neighbouring_shares(f: list[float]) -> None:
    metric, full, empty = _curve(torch.tensor(f), 12)
    found = areas(metric, full, empty)
    curve = [float((m.mean() - empty.mean()) / (full.mean() - empty.mean())) for m in metric]
    cpr = cmd = 0.0
    for i in range(len(SHARES) - 1):
        width = SHARES[i + 1] - SHARES[i]
        cpr += width * (curve[i] + curve[i + 1]) / 2
        cmd += width * (abs(1 - curve[i]) + abs(1 - curve[i + 1])) / 2
    assert found.cpr.value == pytest.approx(cpr)
    assert found.cmd.value == pytest.approx(cmd)
    assert [point.value for point in found.faithfulness] == pytest.approx(curve)


def test_a_perfect_and_an_empty_method() -> None:
    metric, full, empty = _curve(torch.ones(10), 20)
    perfect = areas(full.repeat(10, 1), full, empty)
    assert perfect.cpr.value == pytest.approx(1 - SHARES[0])
    assert (perfect.cpr_log.value, perfect.cmd.value, perfect.cmd_log.value) == pytest.approx((1, 0, 0))
    assert perfect.cpr.low == pytest.approx(perfect.cpr.high)
    # Only the full circuit does anything: MIB's areas still give it a quarter, the log areas a sixteenth.
    late = areas(torch.cat((empty.repeat(9, 1), full[None])), full, empty)
    assert late.cpr.value == pytest.approx(0.25)
    assert late.cpr_log.value == pytest.approx(0.05017, abs=1e-4)
    assert len(metric) == len(late.faithfulness) == 10


def test_the_log_area_is_the_mean_over_log_shares() -> None:
    # f = log10(k) / 3 + 1 rises evenly from 0 at .001 to 1 at 1.
    x = torch.tensor(SHARES, dtype=torch.float64)
    metric, full, empty = _curve(x.log10() / 3 + 1, 5, noise=0.0)
    found = areas(metric, full, empty + 1e-9)
    assert (found.cpr_log.value, found.cmd_log.value) == pytest.approx((0.5, 0.5), abs=1e-6)


def test_intervals_are_of_the_ratio() -> None:
    """Every example doubles the metric of all circuits alike: numerator and denominator move together, so the ratio has no spread."""
    scale = torch.linspace(1, 3, 30, dtype=torch.float64)
    f = torch.tensor(SHARES, dtype=torch.float64).sqrt()
    found = areas(f[:, None] * scale, scale, torch.zeros(30, dtype=torch.float64))
    for figure in (found.cpr, found.cmd, found.cpr_log, *found.faithfulness):
        assert figure.low == pytest.approx(figure.value)
        assert figure.high == pytest.approx(figure.value)


def test_intervals_cover_the_true_area_about_as_often_as_they_say() -> None:
    f, x = torch.tensor(SHARES).sqrt(), torch.tensor(SHARES)
    truth = float(torch.trapezoid(f, x))
    covered = 0
    for seed in range(60):
        cpr = areas(*_curve(f, 40, seed, noise=1.0)).cpr
        covered += cpr.low <= truth <= cpr.high
    # 95 % of 60 is 57; 50 or fewer would happen once in 3,000 runs.
    assert covered > 50


def test_an_effect_below_its_standard_error_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    full, empty = torch.randn(2, 40, generator=rng, dtype=torch.float64) * 5
    with pytest.raises(InputError, match="standard error"):
        areas(full.repeat(10, 1), full, full - empty + empty.mean())
    with pytest.raises(InputError, match="standard error"):
        areas(torch.ones(10, 1), torch.ones(1), torch.zeros(1))


@pytest.mark.parametrize("shares", [(0.1, 0.5), (0.1, 0.5, 0.5), (0.0, 0.5, 1.0), (0.1, 0.5, 1.5), (1.0, 0.5, 0.1)])
def test_shares_that_do_not_rise_to_one_are_refused(shares: tuple[float, ...]) -> None:
    metric, full, empty = _curve(torch.ones(3), 5)
    with pytest.raises(InputError, match="3 circuits came with shares"):
        areas(metric, full, empty, shares)
