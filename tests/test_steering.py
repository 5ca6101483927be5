"""Steering: cached generation is generation, a push is its formula, the judge and the choice of latents find what was planted."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from interp import load
from interp.cli import main
from interp.evals.bootstrap import Estimate
from interp.hooks import patched
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.steer import Steer
from interp.stages.train import Train
from interp.steering.arms import Source, arms, distinct, figures, push
from interp.steering.generate import generate, losses
from interp.steering.probe import Probe, verdicts
from interp.steering.pushes import add, edit, equal_norm, force
from interp.steering.topics import Labelled, Topic, Use, use
from saes.architectures import Codebook, TopK
from saes.architectures.codebook import CodebookDictionary
from saes.errors import InputError

SITE = Site(1, "resid_post")
PROMPT = [0, 30, 40, 50]


def codebook(books: int = 1, codes: int = 12, k: int = 3, seed: int = 0) -> CodebookDictionary:
    """A random codebook in float64."""
    dictionary = CodebookDictionary(32, books, codes, k).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in dictionary.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return dictionary


def sae(seed: int = 0):
    dictionary = TopK(k=3).build(32, 32, 24, seed=seed).double()
    dictionary.b_dec.data = torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return dictionary


def rows(n: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_neox"])
def test_steps_with_a_cache_give_the_logits_of_the_whole_text(name, request):
    model = load(str(request.getfixturevalue(name)))
    tokens = torch.randint(2, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, past = model.step(tokens[:, :4])
        second, past = model.step(tokens[:, 4:8], past)
        third, past = model.step(tokens[:, 8:], past)
        assert torch.allclose(torch.cat([first, second, third], 1), model(tokens), atol=1e-4)


def test_generation_under_an_edit_equals_the_literal_loop_without_cache(tiny_llama):
    model = load(str(tiny_llama))
    change = edit(add(sae().float(), [2, 5], torch.ones(24), 2.0))
    found = generate(model, PROMPT, (7, 8), 5, {SITE: change})
    for seed, row in zip((7, 8), found, strict=True):
        text, uniform = list(PROMPT), np.random.default_rng(seed).random(5)
        for u in uniform:
            whole = lambda x: torch.cat([x[:, :1], change(x[:, 1:])], 1)  # noqa: E731
            with torch.no_grad(), patched(model, {SITE: whole}):
                logits = model(torch.tensor([text]))[0, -1].double()
            logits[model.tokenizer.eos_token_id] = -torch.inf
            text.append(int((logits.softmax(0).cumsum(0) <= u).sum()))
        assert row.tolist() == text[len(PROMPT) :]
    assert model.hook_count() == 0


def test_a_generation_does_not_depend_on_the_rows_beside_it(tiny_llama):
    model = load(str(tiny_llama))
    together, alone = generate(model, PROMPT, (3, 4, 5), 6), generate(model, PROMPT, (4,), 6)
    assert together[1].tolist() == alone[0].tolist()
    assert len({tuple(row) for row in together.tolist()}) == 3


def test_losses_are_those_of_the_unsteered_model(tiny_llama):
    model = load(str(tiny_llama))
    tokens = generate(model, PROMPT, (1, 2), 4)
    found = losses(model, PROMPT, tokens)
    for row, loss in zip(tokens, found, strict=True):
        with torch.no_grad():
            log_p = model(torch.tensor([[*PROMPT, *row.tolist()]]))[0].log_softmax(-1)
        expected = [-log_p[len(PROMPT) - 1 + i, token] for i, token in enumerate(row.tolist())]
        assert torch.allclose(loss, torch.stack(expected), atol=1e-5)


def forced_twin(dictionary: CodebookDictionary, x: torch.Tensor, latents: list[int], slots: str) -> torch.Tensor:
    """x' - x of forced codes, slot by slot."""
    codes = dictionary.codebook.shape[1]
    out = torch.zeros_like(x)
    for book in {latent // codes for latent in latents}:
        mine = [latent % codes for latent in latents if latent // codes == book]
        width = 32 // dictionary.books
        h = (x - dictionary.b_dec)[book * width : (book + 1) * width]
        table = dictionary.codebook[book]
        cosine = [float(h @ table[i] / table[i].norm()) for i in range(codes)]
        chosen = sorted(range(codes), key=lambda i: -cosine[i])[: dictionary.k]
        if slots == "all":
            new = [mine[i % len(mine)] for i in range(dictionary.k * len(mine))]
        else:
            new = chosen if mine[0] in chosen else [*chosen[:-1], mine[0]]
        before, after = (torch.stack([table[i] for i in each]).mean(0) for each in (chosen, new))
        out[book * width : (book + 1) * width] = after - before
    return out


@pytest.mark.parametrize("books", [1, 2])
@pytest.mark.parametrize("slots", ["one", "all"])
def test_forced_codes_equal_the_literal_twin(books, slots):
    dictionary, x = codebook(books), rows()
    latents = [4, 7] if books == 1 else [4, 7, 15]
    levels = torch.full((dictionary.d_dict,), dictionary.value, dtype=torch.float64)
    found = force(dictionary, latents, slots, levels)(x)
    expected = torch.stack([forced_twin(dictionary, row, latents, slots) for row in x]).detach()
    assert torch.allclose(found, expected, atol=1e-12)


def test_forcing_a_latent_of_an_sae_sets_it_to_its_level():
    dictionary, x = sae(), rows()
    levels = torch.arange(24, dtype=torch.float64)
    code = dictionary.encode(x)
    for slots in ("one", "all"):
        moved = force(dictionary, [5], slots, levels, 2.0)(x)
        for row, own, before in zip(moved, code, x, strict=True):
            new = torch.zeros_like(own) if slots == "all" else own.clone()
            if slots == "one" and own[5] == 0:
                active = own.nonzero()[:, 0]
                new[active[(own * dictionary.directions().norm(dim=1))[active].argmin()]] = 0
            new[5] = own[5] if slots == "one" and own[5] > 0 else 10.0
            assert torch.allclose(row, (dictionary.decode(new) - dictionary.decode(own)).detach(), atol=1e-12), before


def test_added_directions_are_the_same_everywhere():
    dictionary, levels = sae(), torch.arange(24, dtype=torch.float64)
    moved = add(dictionary, [3, 4], levels, 0.5)(rows())
    expected = 0.5 * (3 * dictionary.directions()[3] + 4 * dictionary.directions()[4])
    assert torch.allclose(moved, expected.detach().expand_as(moved))


def test_a_push_of_equal_norm_goes_as_far_at_every_position():
    like = force(codebook(), [4, 7], "all", torch.full((12,), 1 / 3, dtype=torch.float64))
    x = rows()
    moved = equal_norm(sae(), [3], like)(x)
    assert torch.allclose(moved.norm(dim=1), like(x).norm(dim=1))
    direction = sae().directions()[3].detach()
    assert torch.allclose(torch.nn.functional.cosine_similarity(moved, direction[None]), torch.ones(len(x), dtype=torch.float64))


def test_phi_equals_the_correlation_over_tokens(tiny_llama):
    model, dictionary = load(str(tiny_llama)), sae().float()
    rng = np.random.default_rng(0)
    texts = tuple(rng.integers(2, 300, size=n) for n in (7, 9, 12, 5, 8, 8))
    given = Labelled(("a", "b", "other"), texts, np.array([0, 1, 2, 0, 1, 2]))
    used = use(model, SITE, dictionary, given, model.bos)
    on, label = [], []
    for text, number in zip(texts, given.labels, strict=True):
        with torch.no_grad():
            from interp.hooks import record

            x = record(model, torch.tensor([[model.bos, *text]]), [SITE])[SITE][0, 1:]
            on.append((dictionary.encode(x.float()) > 0).numpy())
        label += [number] * len(text)
    active, is_topic = np.concatenate(on), np.array(label) == 1
    for latent in range(24):
        if 0 < active[:, latent].sum() < len(active):
            assert used.phi(1)[latent] == pytest.approx(np.corrcoef(active[:, latent], is_topic)[0, 1], abs=1e-9)
    assert used.tokens.sum() == len(active)


def test_controls_are_used_as_much_as_what_they_control():
    active = np.stack([np.arange(100.0), np.arange(100.0)])
    found = Use(("a", "other"), active, np.array([500.0, 500.0]), np.ones(100)).alike([50, 51, 3], seed=0)
    assert len({*found, 50, 51, 3}) == 6
    assert all(abs(a - b) <= 21 for a, b in zip(found, [50, 51, 3], strict=True))


def test_the_judge_finds_words_and_says_how_well_on_held_out_texts():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 50, 20) + 50 * (i % 3) for i in range(90)]
    labels = np.arange(90) % 3
    probe = Probe.fit(texts[:60], labels[:60], 150)
    said = probe.probabilities(texts[60:]).argmax(1)
    found = verdicts(("a", "b", "other"), labels[:60], labels[60:], said)
    assert [(v.recall, v.false_rate, v.n_test) for v in found] == [(1.0, 0.0, 10)] * 3


def test_the_weights_of_a_text_equal_the_literal_formula():
    texts = [np.array([1, 1, 2]), np.array([2, 3]), np.array([3, 3, 3, 4])]
    probe = Probe.fit(texts, np.array([0, 1, 1]), 6)
    n_t = np.array([0, 1, 2, 2, 1, 0])
    assert np.allclose(probe.idf, np.log((1 + 3) / (1 + n_t)) + 1)


def test_halves_share_no_text_and_keep_the_classes():
    given = Labelled(("a", "other"), tuple(np.array([i]) for i in range(20)), np.arange(20) % 2)
    train, test = given.half(0), given.half(1)
    assert {int(t[0]) for t in train.texts} | {int(t[0]) for t in test.texts} == set(range(20))
    assert np.bincount(train.labels).tolist() == [5, 5]


def test_figures_of_an_arm_are_means_with_intervals_that_hold_them():
    found = figures([True, False, True, True], np.arange(8.0).reshape(4, 2), [1.0] * 4)
    assert found["rate"].value == 0.75
    assert found["loss"].value == 3.5
    assert all(isinstance(one, Estimate) and one.low <= one.value <= one.high for one in found.values())
    assert distinct(np.array([1, 2, 1, 2, 1])) == 0.5


def test_every_arm_has_a_push_but_the_one_without_steering():
    used = Use(("a", "other"), np.ones((2, 12)), np.ones(2) * 9, np.full(12, 1 / 3))
    own = Source(codebook(), used, (4, 7))
    other = Source(sae(), Use(("a", "other"), np.ones((2, 24)), np.ones(2) * 9, np.ones(24)), (3, 1))
    for arm in arms(second=True):
        found = push(arm, own, other, "auto", 1.0, seed=0)
        if arm == "none":
            assert found is None
            continue
        assert found is not None
        assert len(found[1]) == (1 if arm.endswith("one") else 2)
        assert bool((found[0](rows()).norm(dim=1) > 0).any())


def test_a_topic_is_known_or_says_where_its_documents_come_from():
    assert Topic.parse("sorting=numpy/lib/,heapq").sources == ("numpy/lib/", "heapq")
    with pytest.raises(InputError, match="choose of graphs"):
        Topic.parse("cooking")


@pytest.fixture(scope="module")
def trained(tiny_llama, tmp_path_factory):
    """A codebook and an SAE on text of two files, each a topic by its words."""
    folder, root = tmp_path_factory.mktemp("topics"), tmp_path_factory.mktemp("steer-runs")
    words = {"ships": "The keeper counted ships before the storm and the ships passed the lighthouse", "grain": "farmers carried grain"}
    for name, sentence in words.items():
        lines = [f"{sentence} {i} times, said number {i} of the {name}, as they did in year {i * 7}." for i in range(60)]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(lines))
    (folder / "rest.txt").write_text(
        "\n<|endoftext|>\n".join(f"A small fox saw it, the old dog {i} did not see {i + 1} lakes." for i in range(60))
    )
    ctx = Context(root=root, device="cpu")
    cache = execute(Cache(model=str(tiny_llama), sites=(SITE,), text=f"files:{folder}", tokens=2048, context=32), ctx, say=print)
    runs = [execute(Train(cache.id, architecture=a, width=32, epochs=1.0), ctx, say=print) for a in (Codebook(k=2), TopK(k=2))]
    return root, *(run.id for run in runs)


@pytest.mark.slow
def test_the_stage_writes_every_arm_of_every_topic(trained, capsys):
    root, book, other = trained
    line = f"steer {book} --sae {other} --topics ships=ships grain=grain --generations 4 --length 6 --texts 20 --prompt The --json"
    with pytest.raises(SystemExit) as left:
        main([*line.split(), "--root", str(root), "--device", "cpu"])
    assert left.value.code == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    run = root / summary["run"]
    table = pq.read_table(run / "arms.parquet").to_pylist()
    assert [(row["topic"], row["arm"]) for row in table] == [(t, a) for t in ("ships", "grain") for a in arms(second=True)]
    made = pq.read_table(run / "generations.parquet").to_pylist()
    assert len(made) == 2 * 7 * 4
    for row in table:
        mine = [one for one in made if (one["topic"], one["arm"]) == (row["topic"], row["arm"])]
        assert row["rate"] == pytest.approx(np.mean([one["said"] == row["topic"] for one in mine]))
        assert row["loss"] == pytest.approx(np.mean([one["loss"] for one in mine]), rel=1e-5)
    plain = [[one["tokens"] for one in made if one["arm"] == "none" and one["topic"] == topic] for topic in ("ships", "grain")]
    assert plain[0] == plain[1]
    assert summary["probe_accuracy"] > 0.9
    assert {row["dictionary"] for row in pq.read_table(run / "latents.parquet").to_pylist()} == {book, other}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latents": (99,), "topics": ("ships=ships",)}, "out of range"),
        ({"latents": (1,), "topics": ("ships=ships", "grain=grain")}, "one topic"),
        ({"topics": ("cooking",)}, "is no topic"),
        ({"topics": ("none=nowhere/",)}, "has 0 texts"),
        ({"generations": 0}, "at least 1"),
        ({"temperature": -1.0}, "from 0 on"),
    ],
)
def test_bad_input_is_one_sentence(trained, options, sentence):
    root, book, _ = trained
    with pytest.raises(InputError, match=sentence):
        execute(Steer(book, **{"generations": 2, "length": 4, "texts": 8} | options), Context(root=root, device="cpu"), say=print)
