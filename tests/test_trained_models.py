"""Models trained to be a program: programs under interchange, cut edges, loss terms, certificates; and a training end to end."""

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import torch

from interp.circuits.ablation import replacement
from interp.circuits.certified import certified
from interp.circuits.forward import metrics
from interp.circuits.graph import Scores, graph
from interp.circuits.methods import Acdc, EapIg, ExactEdges
from interp.circuits.names import Shape
from interp.circuits.verdicts import edge_verdicts
from interp.models.trained import (
    PROGRAMS,
    Network,
    Program,
    Recipe,
    Siit,
    Sizes,
    Trained,
    Weights,
    cached,
    certify,
    load,
    program,
    save,
    train,
    trained,
    training,
)
from interp.models.trained.losses import TERMS
from interp.models.trained.model import CERTIFICATE, revision
from interp.tasks import TrainedTask
from saes.dictionary import Batch
from saes.errors import InputError

TINY = Recipe("majority", d_model=16, d_mlp=16, batch_size=32, steps=40, check_every=10, spare=0)


def untrained(of: Program, seed: int = 0) -> Network:
    return Network(Sizes(of.n_layers, len(of.words), of.n_pos, d_model=16, d_mlp=16), seed)


def prompts(of: Program, n: int, seed: int = 0) -> torch.Tensor:
    return of.draw(n, torch.Generator().manual_seed(seed))


def finished(of: Program) -> Trained:
    """An untrained network in the place of a trained one."""
    network = untrained(of)
    return Trained(Recipe(of.name, d_model=16, d_mlp=16), network, certify(network, of, revision(network), n=32))


# ---- programs


def literal(name: str, prompt: list[str]) -> str:
    """The answer, by a few lines of Python that share nothing with the programs."""
    _, *x = prompt
    if name == "duplicate":
        return "seen" if x[-1] in x[:-1] else "new"
    if name == "majority":
        return "many" if x.count("1") > x.count("0") else "few"
    if name == "sum":
        return str((int(x[0]) + int(x[1])) % 4)
    if name == "induction":
        return dict(zip(x[:-1:2], x[1:-1:2], strict=True))[x[-1]]
    return x[0] if x[2] == x[1] else x[1]


@pytest.mark.parametrize("of", PROGRAMS, ids=lambda p: p.name)
def test_programs_answer_as_plain_python_does(of: Program):
    tokens = prompts(of, 100)
    right = [literal(of.name, [of.words[t] for t in row]) for row in tokens.tolist()]
    assert [of.words[a] for a in of.answers(tokens).tolist()] == right
    assert len(set(right)) > 1


@pytest.mark.parametrize("of", PROGRAMS, ids=lambda p: p.name)
def test_a_program_with_every_edge_from_its_inputs_cut_answers_the_other_prompt(of: Program):
    clean, other = prompts(of, 50), prompts(of, 50, seed=1)
    cut = {edge: torch.ones(50, dtype=torch.bool) for edge in of.edges if edge[0] == "embed"}
    assert torch.equal(of.answers(clean, other, cut), of.answers(other))
    assert torch.equal(of.answers(clean, other), of.answers(clean))


@pytest.mark.parametrize("of", PROGRAMS, ids=lambda p: p.name)
def test_every_edge_of_a_program_can_change_its_answer(of: Program):
    clean, other = prompts(of, 200), prompts(of, 200, seed=1)
    for edge in of.edges:
        found = of.answers(clean, other, {edge: torch.ones(200, dtype=torch.bool)})
        assert float((found != of.answers(clean)).double().mean()) > 0.2


def test_interchanges_of_the_names_program_by_hand():
    of = program("names")
    ids = {word: i for i, word in enumerate(of.words)}
    clean, other = (torch.tensor([[ids[w] for w in f"BOS {text} to".split()]]) for text in ("Ann Bob Ann", "Cid Dan Dan"))
    yes = torch.tensor([True])

    def answer(*edges: tuple[str, str]) -> str | None:
        token = int(of.answers(clean, other, dict.fromkeys(edges, yes)))
        return None if token == -1 else of.words[token]

    assert answer() == "Bob"
    assert answer(("1.3", "2.0.q")) == answer(("0.1", "1.3.v")) == "Ann"
    assert answer(("embed", "2.0.v")) == "Dan"
    assert answer(("2.0", "logits")) == "Cid"
    assert answer(("embed", "0.1.q")) is None


# ---- the network


@pytest.mark.parametrize("of", PROGRAMS, ids=lambda p: p.name)
def test_sizes_have_the_edges_of_the_graph_and_the_circuit_is_among_them(of: Program):
    sizes = untrained(of).sizes
    assert set(sizes.edges) == set(Shape(of.n_layers, 4, 4).edges())
    assert len(sizes.edges) == len(set(sizes.edges))
    assert set(of.edges) < set(sizes.edges)


@pytest.mark.parametrize("name", ["sum", "names"])
def test_cut_edges_give_the_metrics_of_the_workbench(name: str):
    of = program(name)
    network, made = untrained(of, seed=3).double(), finished(of)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    model = dataclasses.replace(made, network=network).model(torch.float64)
    whole, task = graph(model), TrainedTask(of)
    pairs = task.pairs(model.tokenizer, 6, 0, model.bos)
    assert whole.sources == network.sizes.sources
    assert whole.destinations == network.sizes.destinations
    kept = torch.rand(8, *whole.valid.shape, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 8)[:, None, None]
    found = metrics(model, task, pairs, whole, kept, replacement(model, whole, pairs, "resample"))
    away = network(pairs.corrupt)[1]
    for mask, own in zip(kept, found, strict=True):
        cut = (~mask & whole.valid).double().expand(6, -1, -1)
        logits = network(pairs.clean, cut, away)[0]
        assert torch.allclose(task.metric(logits[:, None], pairs), own, atol=1e-9)
    assert torch.allclose(model(pairs.clean)[:, -1], network(pairs.clean)[0], atol=1e-10)


def test_gradients_through_cut_edges_reach_every_weight():
    of = program("names")
    network = untrained(of)
    tokens = prompts(of, 8)
    cut = torch.rand(8, len(network.sizes.sources), len(network.sizes.destinations), generator=torch.Generator().manual_seed(0))
    network(tokens, cut, network(tokens.roll(1, 0))[1].detach())[0].square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())


# ---- losses


def loss(of: Program, weights: Weights, seed: int = 0) -> dict[str, float]:
    network, tokens = untrained(of), prompts(of, 16).float()
    batch = Batch(tokens, tokens, torch.zeros(1, dtype=torch.bool), torch.Generator().manual_seed(seed))
    losses = Siit(of, network.sizes, weights)(network, batch)
    return {name: float(term) for name, term in losses.terms.items()} | {"total": float(losses.total)}


@pytest.mark.parametrize("term", TERMS)
def test_loss_terms_scale_linearly_with_their_weight(term: str):
    """In the code of InterpBench the strict weight acts squared: .4 as .16."""
    of = program("induction")
    one = loss(of, Weights(1.0, 1.0, 1.0, 1.0))
    for factor in (0.4, 3.0):
        scaled = loss(of, dataclasses.replace(Weights(1.0, 1.0, 1.0, 1.0), **{term: factor}))
        assert math.isclose(scaled[term], factor * one[term], rel_tol=1e-5)
        assert math.isclose(scaled["total"] - one["total"], (factor - 1) * one[term], rel_tol=1e-3)
        assert all(scaled[other] == one[other] for other in TERMS if other != term)


@pytest.mark.parametrize("of", PROGRAMS, ids=lambda p: p.name)
def test_strict_cuts_leave_the_circuit_alone_and_interchanges_touch_it(of: Program):
    sizes, rng = untrained(of).sizes, torch.Generator().manual_seed(0)
    siit = Siit(of, sizes, Weights())
    inside = torch.zeros(siit.shape, dtype=torch.bool)
    inside[tuple(torch.tensor([sizes.place(edge) for edge in of.edges]).T)] = True
    edges, nodes, changed = siit.stray_edges(300, rng), siit.stray_nodes(300, rng), siit.interchanges(300, rng)
    assert not bool((edges & inside).any())
    assert not bool((nodes & inside).any())
    assert bool((changed & inside).any(2).any(1).all())
    assert bool((changed & inside).any(0)[inside].all())
    counts = edges.sum((1, 2))
    assert int(counts.max()) == len(sizes.edges) - len(of.edges)
    assert int((counts == 1).sum()) > 60
    # a node is cut with all that leaves it
    assert torch.equal(nodes.any(2), nodes.all(2))


@pytest.mark.slow
def test_losses_fall_and_the_same_seed_gives_the_same_bits():
    first, again = TINY.network(), TINY.network()
    rows = list(training(TINY, first))
    assert [row.step for row in rows] == [10, 20, 30, 40] * 2
    for stage in (rows[:4], rows[4:]):
        assert stage[-1].metrics["loss"] < 0.95 * stage[0].metrics["loss"]
    for _ in training(TINY, again):
        pass
    assert revision(first) == revision(again) != revision(dataclasses.replace(TINY, seed=1).network())


# ---- certificates


@pytest.mark.parametrize("of", PROGRAMS, ids=lambda p: p.name)
def test_an_untrained_model_is_refused(of: Program):
    made = finished(of)
    assert made.certificate.failures()
    with pytest.raises(InputError, match=r"not certified.*train it longer"):
        certified(made)


def test_a_certificate_refuses_each_shortfall_by_name():
    made = finished(program("sum"))
    good = dataclasses.replace(
        made.certificate,
        whole=1.0,
        joint=1.0,
        outside=dict.fromkeys(made.certificate.outside, 1.0),
        damage=dict.fromkeys(made.certificate.damage, 0.7),
    )
    assert not good.failures()
    for change, words in (
        ({"joint": 0.9}, "all other edges"),
        ({"outside": good.outside | {"embed->m0": 0.98}}, "embed->m0 resampled, which is no part"),
        ({"damage": good.damage | {"0.3->m1": 0.02}}, "0.3->m1 resampled, which is part"),
        ({"whole": 0.5}, "accuracy 0.500"),
    ):
        with pytest.raises(InputError, match=words):
            dataclasses.replace(good, **change).require()
    assert len(certified(dataclasses.replace(made, certificate=good)).edges) == 5


def test_a_model_comes_back_from_its_folder_and_not_with_the_certificate_of_another(tmp_path: Path):
    made = finished(program("induction"))
    save(made, tmp_path / "model")
    back = load(tmp_path / "model")
    assert (back.recipe, back.certificate) == (made.recipe, made.certificate)
    assert revision(back.network) == revision(made.network)
    page = json.loads((tmp_path / "model" / CERTIFICATE).read_text())
    (tmp_path / "model" / CERTIFICATE).write_text(json.dumps(page | {"revision": "0" * 12}))
    with pytest.raises(InputError, match="of other weights"):
        load(tmp_path / "model")
    with pytest.raises(InputError, match="holds no trained model"):
        load(tmp_path / "nothing")


@pytest.mark.slow
def test_the_cache_gives_what_training_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    first = cached(TINY)
    assert [path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir()] == ["trained-majority"]
    monkeypatch.setattr("interp.models.trained.model.train", lambda recipe: pytest.fail("trained again"))
    assert cached(TINY).certificate == first.certificate


def test_unknown_programs_and_foreign_tokenizers_are_refused():
    with pytest.raises(InputError, match="choose one of duplicate"):
        trained("nothing")
    model = finished(program("sum")).model()
    with pytest.raises(InputError, match="own tokenizer"):
        TrainedTask(program("majority")).pairs(model.tokenizer, 4, 0, model.bos)


@pytest.mark.slow
def test_a_model_is_trained_in_two_minutes_and_methods_find_its_circuit():
    start = time.perf_counter()
    made = train(Recipe("sum"))
    assert time.perf_counter() - start < 240
    truth = certified(made)
    model, task = made.model(), TrainedTask(made.program)
    pairs, whole = task.pairs(model.tokenizer, 32, 0, model.bos), graph(model)
    values = replacement(model, whole, pairs, "resample")

    def area(scores: Scores) -> float:
        named = dict(zip((tuple(name.split("->")) for name in scores.names()), scores.mean.tolist(), strict=True))
        return next(row.auroc for row in edge_verdicts(truth, named, "resample") if (row.ranking, row.among) == ("helping", "all"))

    assert area(ExactEdges()(model, task, pairs, whole, values)) > 0.99
    assert area(EapIg()(model, task, pairs, whole, values)) > 0.9
    assert area(Acdc()(model, task, pairs, whole, values)) > 0.9
