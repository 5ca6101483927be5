"""Codebooks inside a model: gradients against literal twins, revival, what hooks see, files, and the stage."""

import copy
import itertools
import json
from pathlib import Path

import pytest
import torch

from interp.codebooks.bottleneck import Bottlenecked, batches, inputs_of, kind_at, started
from interp.codebooks.forcing import forced
from interp.codebooks.training import train
from interp.codebooks.usage import Usage, codes_at, usage
from interp.hooks import patched, record, spliced
from interp.models import Model, codebooks, load, load_anew, source
from interp.sites import Site
from saes import checkpoint
from saes.architectures import Codebook, CodebookDictionary
from saes.architectures.codebook import Passage
from saes.dictionary import Batch
from saes.errors import InputError
from saes.schedule import FitConfig
from saes.train import fit

MLP, Z = Site(1, "mlp_out"), Site(0, "z")


def _model(folder: Path) -> Model:
    return load_anew(str(folder), "cpu")


def _tokens(model: Model, n: int = 16, pos: int = 12, seed: int = 0):
    return torch.randint(model.d_vocab, (n, pos), generator=torch.Generator().manual_seed(seed))


def _module(folder: Path, *, trained: bool, k: int = 2, codes: int = 24, sites=(Z, MLP), norm: bool = False) -> Bottlenecked:
    model = _model(folder)
    kinds = {site: kind_at(model, site, codes=codes, k=k, norm="layer" if norm else "none", initial="data") for site in sites}
    return Bottlenecked(model, started(model, kinds, _tokens(model)), trained=trained)


def _config(**more) -> FitConfig:
    return FitConfig(12, 4, lr=1e-2, warmup=0, precision="float32", log_every=1, dead_after=4, revive_every=2, **more)


@pytest.mark.parametrize("metric", ["cosine", "euclid"])
@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("norm", [False, True])
def test_a_passage_and_its_gradients_equal_the_literal_twin(metric: str, combine: str, norm: bool):
    book = Codebook(k=2, books=2, metric=metric, combine=combine, norm="layer" if norm else "none").build(8, 8, 20, seed=1).double()  # pyright: ignore
    if norm:
        torch.nn.init.normal_(book.gain)
        torch.nn.init.normal_(book.shift)
    x = torch.randn(5, 8, dtype=torch.double, generator=torch.Generator().manual_seed(2), requires_grad=True)
    slope = torch.randn(5, 8, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    passage = book.passage(x)
    (passage.y * slope).sum().backward()

    wanted, codes = torch.zeros(5, 8, dtype=torch.double), torch.zeros_like(book.codebook)
    inward = torch.zeros(5, 8, dtype=torch.double)
    for b in range(5):
        for g in range(2):
            part = slice(4 * g, 4 * g + 4)
            a = x[b, part].detach().clone().requires_grad_(True)
            h = a
            if norm:
                h = (a - a.mean()) / (((a - a.mean()) ** 2).mean() + 1e-5).sqrt() * book.gain[g].detach() + book.shift[g].detach()
            length = book.codebook[g].detach().norm(dim=1)
            score = book.codebook[g].detach() @ h.detach()
            best = (score / length if metric == "cosine" else score - length**2 / 2).topk(2).indices
            share = 0.5 if combine == "mean" else 1.0
            wanted[b, part] = share * book.codebook[g][best].detach().sum(0)
            codes[g, best] += share * slope[b, part]
            inward[b, part] = torch.autograd.grad((h * slope[b, part]).sum(), a)[0]
    torch.testing.assert_close(passage.y.detach(), wanted)
    torch.testing.assert_close(book.codebook.grad, codes)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, inward)


def test_the_reconstruction_moves_codes_and_nothing_else(tiny_llama: Path):
    module = _module(tiny_llama, trained=True)
    x = _tokens(module.model).float()
    losses = module.loss(module, Batch(x, torch.ones_like(x), torch.zeros(module.d_dict, dtype=torch.bool)))
    losses.terms["reconstruction"].backward()
    assert all(book.codebook.grad is not None and book.codebook.grad.any() for book in module.at())
    assert all(p.grad is None for p in module.base.values())


def test_the_loss_is_that_of_the_language_model_and_the_squared_errors(tiny_llama: Path):
    module = _module(tiny_llama, trained=True)
    tokens = _tokens(module.model)
    x = tokens.float()
    losses = module.loss(module, Batch(x, torch.ones_like(x), torch.zeros(module.d_dict, dtype=torch.bool)))
    log_p = module.whole(tokens).double().log_softmax(-1)
    nll = -sum(log_p[i, t, tokens[i, t + 1]] for i in range(16) for t in range(11)) / (16 * 11)
    squares = 0.0
    for site, book in zip(module.sites, module.at(), strict=True):
        a = record(module.whole, tokens, [site], before=True)[site].flatten(2)
        squares += float((a - book(a)).detach().double().square().sum(-1).mean())
    assert float(losses.terms["lm"]) == pytest.approx(float(nll), rel=1e-5)
    assert float(losses.terms["reconstruction"]) == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("trained", [False, True])
def test_bfloat16_rounds_the_model_and_not_the_choice_of_codes(tiny_llama: Path, trained: bool, monkeypatch: pytest.MonkeyPatch):
    """Gradients point where those of float32 do, and each code is the nearest of what its book read, to the last bit of float32."""
    found: dict[bool, dict[str, torch.Tensor]] = {}
    read: list[tuple[CodebookDictionary, Passage]] = []
    passage = CodebookDictionary.passage
    monkeypatch.setattr(CodebookDictionary, "passage", lambda book, x: read.append((book, passage(book, x))) or read[-1][1])
    for rounded in (False, True):
        module = _module(tiny_llama, trained=trained)
        x = _tokens(module.model).float()
        read.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            total = module.loss(module, Batch(x, torch.ones_like(x), torch.zeros(module.d_dict, dtype=torch.bool))).total
        total.backward()
        found[rounded] = {name: p.grad.flatten().double() for name, p in module.named_parameters() if p.grad is not None} | {"loss": total}
    assert float(found[True]["loss"]) == pytest.approx(float(found[False]["loss"]), rel=0.02)
    assert found[True].keys() == found[False].keys()
    for book, way in read:
        assert way.h.dtype == way.y.dtype == torch.float32
        assert torch.equal(way.code.indices, book.choose(way.h.detach().flatten(0, 1)).view_as(way.code.indices))
    for name, exact in found[False].items():
        if name != "loss" and exact.norm() > 1e-6:
            assert torch.cosine_similarity(found[True][name], exact, dim=0) > 0.9, name


@pytest.mark.slow
def test_a_frozen_model_keeps_its_weights_and_a_trained_one_does_not(tiny_llama: Path):
    for trained in (False, True):
        module = _module(tiny_llama, trained=trained)
        before = {name: p.clone() for name, p in module.model.parameters.items()}
        for _ in fit(module, batches(_tokens(module.model), 4, 0), module.loss, _config()):
            pass
        moved = [name for name, p in module.model.parameters.items() if not torch.equal(p, before[name])]
        assert bool(moved) == trained


def test_a_model_that_computes_with_copies_is_not_trained(tiny_gpt2: Path):
    with pytest.raises(InputError, match="--base frozen"):
        _module(tiny_gpt2, trained=True)
    assert _module(tiny_gpt2, trained=False).d_dict


def test_revival_replaces_dead_codes_by_inputs_and_clears_their_moments(tiny_llama: Path):
    module = _module(tiny_llama, trained=False, sites=(MLP,))
    book = module.at()[0]
    with torch.no_grad():
        book.codebook[0, 5:] = -book.codebook[0, :1] * 1e3 + torch.randn(19, 32, generator=torch.Generator().manual_seed(0))
    rows = fit(module, batches(_tokens(module.model), 4, 0), module.loss, _config())
    first = next(rows).checkpoint().tensors
    second = next(rows).checkpoint().tensors
    name = f"books.{next(iter(module.books))}.codebook"
    changed = (second[f"module/{name}"] - first[f"module/{name}"]).norm(dim=-1)[0] > 10
    assert changed.any()
    assert not second[f"adam/{name}/exp_avg"][0, changed].any()
    assert not second[f"adam/{name}/exp_avg_sq"][0, changed].any()
    assert second[f"adam/{name}/exp_avg_sq"][0, ~changed].any()


def test_no_code_is_revived_near_the_end():
    config = _config()
    assert [step for step in range(1, 13) if config.revives(step)] == [2, 4, 6, 8]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.slow
def test_a_training_goes_on_to_the_bit_where_it_stopped(tiny_llama: Path, tmp_path: Path, trained: bool):
    def made() -> Bottlenecked:
        return _module(tiny_llama, trained=trained)

    whole, tokens = made(), _tokens(made().model)
    train(whole, lambda step: batches(tokens, 4, 0, step), _config(), tmp_path / "whole")
    for row in fit(stopped := made(), batches(tokens, 4, 0), stopped.loss, _config()):
        if row.step == 5:
            checkpoint.write(tmp_path / "part", row.checkpoint())
            break
    resumed = made()
    train(resumed, lambda step: batches(tokens, 4, 0, step), _config(), tmp_path / "part")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_hooks_see_what_a_bottleneck_writes_and_dictionaries_what_it_reads(tiny_llama: Path):
    module = _module(tiny_llama, trained=False)
    model, plain, tokens = module.whole, module.model, _tokens(module.model)
    before, after = record(model, tokens, [Z], before=True)[Z], record(model, tokens, [Z])[Z]
    torch.testing.assert_close(before.flatten(2), record(plain, tokens, [Z])[Z].flatten(2))
    torch.testing.assert_close(after.flatten(2), module.at()[0](before.flatten(2)))
    with spliced(plain, model.codebooks):  # pyright: ignore[reportArgumentType]
        through = plain(tokens)
    torch.testing.assert_close(through, model(tokens))
    assert torch.equal(model.without([Z, MLP])(tokens), plain(tokens))
    start = Site(1, "resid_pre")
    torch.testing.assert_close(model.forward_from(1, record(model, tokens, [start])[start]), model(tokens))
    assert model.hook_count() == 0


def test_grouped_books_are_those_of_single_heads(tiny_llama: Path):
    model = _model(tiny_llama)
    tokens, kind = _tokens(model), kind_at(model, Z, codes=24, k=2, initial="data")
    grouped = started(model, {Z: kind}, tokens)[Z]
    assert (grouped.books, kind_at(model, Z, codes=24, attention="whole").recipe.books) == (4, 1)
    heads = {}
    for head in range(4):
        heads[site] = kind_at(model, site := Site(0, "z", head), codes=24, k=2).build(model, site, 0)
        with torch.no_grad():
            heads[site].codebook.copy_(grouped.codebook[head : head + 1])
    torch.testing.assert_close(model.with_codebooks(heads)(tokens), model.with_codebooks({Z: grouped})(tokens))


def test_forced_codes_are_written_at_their_position_alone(tiny_llama: Path):
    module = _module(tiny_llama, trained=False)
    model, tokens = module.whole, _tokens(module.model)
    own = codes_at(model, tokens)
    with forced(model, {site: codes[:, 7] for site, codes in own.items()}, 7):
        same = model(tokens)
    torch.testing.assert_close(same, model(tokens))
    other = torch.tensor([[0, 1]]).expand(len(tokens), 2)
    with forced(model, {MLP: other}, 7):
        found = record(model, tokens, [MLP])[MLP]
    book = module.at()[1]
    torch.testing.assert_close(found[:, 7], book.codebook[0, :2].mean(0).expand(len(tokens), -1))
    torch.testing.assert_close(found[:, :7], record(model, tokens, [MLP])[MLP][:, :7])
    assert model.hook_count() == 0


def test_usage_counts_every_choice(tiny_llama: Path):
    module = _module(tiny_llama, trained=False)
    tokens = _tokens(module.model)
    found = usage(module.whole, tokens)[Z]
    assert found.counts.sum(1).tolist() == [tokens.numel() * 2] * 4
    even = Usage(torch.tensor([[3, 3, 0, 0], [1, 1, 1, 1], [5, 0, 0, 0]]))
    torch.testing.assert_close(even.perplexity, torch.tensor([2.0, 4.0, 1.0]))
    assert even.dead_share.tolist() == [0.5, 0.0, 0.75]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.slow
def test_a_codebook_model_comes_back_from_its_folder(tiny_llama: Path, tmp_path: Path, own: bool, norm: bool):
    module = _module(tiny_llama, trained=own, norm=norm)
    if own:
        for _ in fit(module, batches(_tokens(module.model), 4, 0), module.loss, _config()):
            pass
    whole, tokens = module.settled(), _tokens(module.model, seed=5)
    codebooks.save(
        module.model, dict(zip(module.sites, module.at(), strict=True)), inputs_of(whole, tokens, module.sites), tmp_path, own=own
    )
    back = load(str(tmp_path), device="cpu")
    torch.testing.assert_close(back(tokens), whole(tokens))
    assert back.revision == source(str(tmp_path)).revision()
    assert tuple(back.codebooks) == module.sites
    with pytest.raises(InputError, match="has codebooks already"):
        load_anew(str(tmp_path))


def test_the_slope_of_a_logit_goes_straight_through(tiny_llama: Path):
    module = _module(tiny_llama, trained=False, sites=(MLP,))
    slopes = []
    for model in (module.whole, module.model):
        leaf: list[torch.Tensor] = []

        def keep(x: torch.Tensor, leaf: list[torch.Tensor] = leaf) -> torch.Tensor:
            leaf.append(x.detach().requires_grad_(True))
            return leaf[0]

        with patched(model, {Site(1, "mlp_in"): keep}):
            model(_tokens(module.model))[:, -1, 0].sum().backward()
        slopes.append(leaf[0].grad)
    assert slopes[0] is not None
    assert slopes[0].any()
    assert slopes[0].shape == slopes[1].shape


def test_what_cannot_be_is_said_in_a_sentence(tiny_llama: Path):
    model = _model(tiny_llama)
    with pytest.raises(InputError, match="choose z"):
        kind_at(model, Site(0, "pattern"), codes=8)
    with pytest.raises(InputError, match="cannot start"):
        started(model, {MLP: kind_at(model, MLP, codes=500, k=1)}, _tokens(model))


@pytest.mark.slow
def test_books_that_are_copied_train_alike(tiny_llama: Path):
    """A module's training depends on nothing outside it."""
    a = _module(tiny_llama, trained=False)
    b = Bottlenecked(a.model, copy.deepcopy(dict(zip(a.sites, a.at(), strict=True))), trained=False)
    for module in (a, b):
        for _ in fit(module, batches(_tokens(a.model), 4, 0), module.loss, _config()):
            pass
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


STAGE = ("--sites", "0.z,1.mlp_out", "--k", "2", "--codes", "32", "--tokens", "3000", "--context", "32", "--log-every", "5")


def _interp(capsys: pytest.CaptureFixture, *words: str) -> list[dict]:
    from interp.cli import main

    with pytest.raises(SystemExit) as left:
        main([*words, "--json"])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["frozen", "finetuned", "scratch"])
def test_the_stage_makes_dictionaries_that_others_open(
    tiny_llama: Path, corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, base: str
):
    root = ("--root", str(tmp_path), "--device", "cpu")
    made = _interp(capsys, "codebook", str(tiny_llama), *STAGE, "--base", base, "--text", f"files:{corpus_file}", *root)
    assert [one["run"].split("-")[0] for one in made] == ["codebook", "cache", "train", "train"]
    assert made[0]["loss_after_low"] < made[0]["loss_after"] < made[0]["loss_after_high"]
    again = _interp(capsys, "codebook", str(tiny_llama), *STAGE, "--base", base, "--text", f"files:{corpus_file}", *root)
    assert [one["run"] for one in again] == [one["run"] for one in made]
    for one in made[2:]:
        described = _interp(capsys, "describe", one["run"], *root)[0]
        assert described["l0"] == pytest.approx(8 if one is made[2] else 2, rel=1e-3)
        found = _interp(capsys, "eval", one["run"], "--sequences", "4", *root)[0]
        assert found["kl"] > 0
        assert found["l0"] == described["l0"]
    whole = tmp_path / made[0]["run"] / "model"
    circuit = _interp(capsys, "cache", "--model", str(whole), "--sites", "1.resid_post", "--tokens", "640", "--context", "32",
                      "--text", f"files:{corpus_file}", *root)  # fmt: skip
    assert circuit[0]["run"].startswith("cache-")


@pytest.mark.slow
def test_the_loss_of_the_stage_is_that_of_the_model_with_its_codebooks(
    tiny_llama: Path, corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    from interp.store import read_tensor

    made = _interp(capsys, "codebook", str(tiny_llama), *STAGE, "--text", f"files:{corpus_file}", "--root", str(tmp_path))
    folder = tmp_path / made[0]["run"]
    held = read_tensor(folder / "tokens.safetensors", "tokens").long()[-round(0.05 * 93) :]
    log_p = load(str(folder / "model"), device="cpu")(held)[:, :-1].double().log_softmax(-1)
    assert made[0]["loss_after"] == pytest.approx(float(-log_p.gather(-1, held[:, 1:, None]).mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "eap-ig"])
def test_circuits_run_on_a_model_with_codebooks(
    tiny_llama: Path, corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, method: str
):
    root = ("--root", str(tmp_path), "--device", "cpu")
    made = _interp(capsys, "codebook", str(tiny_llama), *STAGE, "--text", f"files:{corpus_file}", *root)
    model = load(str(tmp_path / made[0]["run"] / "model"), device="cpu")
    # What the model itself says, so that ablation has something to lose.
    words = [word for word in (model.tokenizer.decode([i]) for i in range(2, model.d_vocab)) if word[:1] == " " and word[1:].isalpha()]
    ids = torch.tensor([model.tokenizer.encode(word)[0] for word in words])
    lines = []
    for first, second in itertools.permutations((" ships", " farmers", " hill", " dog", " fox"), 2):
        clean, corrupt = f"The{first} and the{second}", f"The{second} and the{first}"
        with torch.no_grad():
            order = model(torch.tensor([[0, *model.tokenizer.encode(clean)]]))[0, -1, ids].argsort()
        lines.append({"clean": clean, "corrupt": corrupt, "right": words[order[-1]], "wrong": words[order[0]]})
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    options = ("--method", method, "--ablation", "zero", "--pairs", "12", "--tests", "4", "--audit", "40")
    # The run itself asserts that the whole graph is the model and that nothing of it is the ablated one.
    found = _interp(capsys, "circuit", str(path), "--model", str(tmp_path / made[0]["run"] / "model"), *options, *root)[0]
    assert found["unit"] == ("node" if method == "exact" else "edge")
    assert found["accuracy"] == 1
