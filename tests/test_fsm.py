"""The state machine, the measures that it makes possible, and the whole experiment on a small one."""

import itertools
import math

import pytest
import torch

from benchmarks.fsm import settings, spread
from interp.evals import machine as measures
from interp.text.machine import BOS, Machine
from saes.errors import InputError


def test_walks_follow_the_edges_and_are_written_in_digits():
    machine = Machine(30, 3, 8, seed=1)
    walks = machine.walks(50, 0)
    assert all(int(b) in machine.edges[a].tolist() for walk in walks for a, b in itertools.pairwise(walk))
    tokens = machine.tokens(walks)
    assert tokens.shape == (50, machine.n_tokens)
    assert (tokens[:, 0] == BOS).all()
    assert torch.equal(tokens[:, 1::2] * 10 + tokens[:, 2::2], walks)
    assert torch.equal(walks, machine.walks(50, 0))
    assert all(len(set(row)) == 3 for row in machine.edges.tolist())


def test_the_floor_counts_transitions_and_is_what_the_machine_itself_reaches():
    """Pitfall 44: 15 transitions for 16 states."""
    assert Machine().floor == pytest.approx((math.log(100) + 15 * math.log(10)) / 32)
    assert Machine().floor == pytest.approx(1.2233, abs=1e-4)
    machine = Machine(20, 4, 6)
    total = 0.0
    walks = machine.walks(4000, 0)
    first = machine.first_digit()
    tens = torch.arange(20) // 10
    for t in range(6):
        ten = walks[:, t] // 10
        if t == 0:
            p_ten, p_unit = torch.full((4000,), 0.5), torch.full((4000,), 0.1)
        else:
            p_ten = first[walks[:, t - 1], ten]
            inside = (machine.allowed[walks[:, t - 1]] & (tens == ten[:, None])).sum(1)
            p_unit = 1 / inside
        total -= float(p_ten.double().log().sum() + p_unit.double().log().sum())
    assert total / (4000 * 12) == pytest.approx(machine.floor, rel=1e-3)


def test_first_digits_are_the_share_of_neighbours():
    machine = Machine(30, 3, 8)
    for state in range(30):
        for digit in range(10):
            share = sum(int(n) // 10 == digit for n in machine.edges[state]) / 3
            assert float(machine.first_digit()[state, digit]) == pytest.approx(share)


def test_divergence_equals_the_literal_sum():
    p, q = (torch.rand(4, 7, dtype=torch.double).softmax(-1) for _ in range(2))
    p[0] = q[0]
    found = measures.divergence(p, q)
    for row in range(4):
        total = 0.0
        for a, b in zip(p[row].tolist(), q[row].tolist(), strict=True):
            m = (a + b) / 2
            total += a * math.log(a / m) / 2 + b * math.log(b / m) / 2
        assert float(found[row]) == pytest.approx(total, abs=1e-12)
    apart = measures.divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert float(apart) == pytest.approx(math.log(2))


def test_codes_are_chosen_on_one_half_and_measured_on_the_other():
    """Pitfall 39: a code that is perfect where it was chosen may be worth nothing elsewhere, and one that fires once says nothing."""
    states = torch.tensor([0, 0, -1, -1] * 50)
    active = torch.zeros(200, 3, dtype=torch.bool)
    active[:, 0] = states == 0
    active[100:, 0] = True
    active[0, 1] = True
    active[:, 2] = torch.arange(200) % 4 != 3
    found = measures.best_codes(active, states, 1)[0]
    assert (found.unit, found.precision, found.recall) == (0, 0.5, 1.0)


def test_values_get_the_recall_that_codes_have():
    rng = torch.Generator().manual_seed(0)
    states = torch.randint(-1, 2, (40_000,), generator=rng)
    values = torch.rand(40_000, 5, generator=rng)
    values[:, 3] += (states == 0) * 2.0
    found = measures.best_values(values, states, torch.tensor([0.4, 0.4]))
    assert (found[0].unit, found[0].precision) == (3, 1.0)
    assert found[0].recall == pytest.approx(0.4, abs=0.05)
    assert found[1].precision < 0.6


def test_a_machine_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="2 to 100 states"):
        Machine(200)


@pytest.mark.slow
def test_codebooks_find_the_states_of_a_small_machine(tmp_path):
    """The paper's experiment on 30 states: everything measured by the machine."""
    fsm = settings(quick=True, seed=0)
    found = fsm.run(tmp_path)
    assert found["floor"] < found["base_loss"] < found["floor"] + 0.05
    assert found["codebook_loss"] < found["floor"] + 0.08
    assert found["base_state_accuracy"] > 0.95
    assert found["codebook_state_accuracy"] > 0.93
    assert found["code_precision"] > 0.75
    assert found["code_precision"] > found["neuron_precision"] + 0.15
    assert found["code_precision"] > found["latent_precision"] + 0.1
    assert found["causal_normalised"] < 0.12
    assert found["causal_normalised"] < found["causal_normalised_mlps"] < 1
    assert fsm.run(tmp_path) == found
    assert spread([found])["code_precision"]["spread"] == 0
