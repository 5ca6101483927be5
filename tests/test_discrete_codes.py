"""Discrete codes on planted heads and on a tiny real model; training and pooling against literal twins."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from test_circuits_toy import Toy, double, literal_activations

from interp.circuits.ablation import outputs
from interp.circuits.coding import autoencoder, encoder, n_codes, winners
from interp.circuits.graph import Graph, graph
from interp.circuits.methods import DiscreteCodeEdges, DiscreteCodes, Scorer
from interp.circuits.methods.discrete_codes import Vectors
from interp.circuits.node_truth import found
from interp.circuits.pooling import pooled
from interp.models.bridge import Model
from interp.sites import Site
from saes.errors import InputError

HEADS = Graph(4, 6, 6, mlps=False)
PLANTED = [0, 5, 10, 15, 20]


@pytest.fixture
def llama(tiny_llama: Path) -> Model:
    return double(tiny_llama)


def planted(seed: int = 0, prompts: int = 40, d: int = 24, factor: torch.Tensor | None = None) -> Vectors:
    """24 heads with a vector of their own and noise; five write one of two other vectors on positives. Norms differ by up to 16 times."""
    rng = torch.Generator().manual_seed(seed)
    base = F.normalize(torch.randn(24, d, generator=rng), dim=1)
    new = F.normalize(torch.randn(2, 24, d, generator=rng), dim=2)
    x = base.expand(2, prompts, -1, -1).clone()
    which = torch.randint(0, 2, (prompts,), generator=rng)
    x[0, :, PLANTED] = new[which][:, PLANTED]
    x = x + 0.1 / d**0.5 * torch.randn(x.shape, generator=rng)
    x = x * 2.0 ** torch.randint(-2, 3, (24,), generator=rng)[:, None]
    x = x if factor is None else x * factor[:, None]
    return Vectors(x[0], x[1:])


def scored(method: DiscreteCodes, given: Vectors) -> torch.Tensor:
    scores = method.scores(method.codes(given, method.fitted(given)), HEADS)
    return scores.mean


SMALL = DiscreteCodes(latents=64, epochs=150, penalty=0.02)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["trained", "kmeans", "pca", "random"])
@pytest.mark.parametrize("score", ["node", "cooccurrence"])
def test_planted_heads_are_found(kind: str, score: str, seed: int) -> None:
    method = replace(SMALL, encoder=kind, score=score, code_seed=seed, latents=32 if kind == "kmeans" else 64)
    given = planted(seed)
    scores = method.scores(method.codes(given, method.fitted(given)), HEADS)
    truth = torch.zeros(24, dtype=torch.bool)
    truth[PLANTED] = True
    assert found([scores], truth).auc.mean > (0.98 if kind in ("trained", "kmeans") else 0.7)


def test_scaling_of_the_other_heads_changes_nothing_with_scale_and_something_without() -> None:
    factor = torch.where(torch.isin(torch.arange(24), torch.tensor(PLANTED)), 1.0, 8.0)
    for on in (SMALL, replace(SMALL, centre=True)):
        assert torch.equal(scored(on, planted()), scored(on, planted(factor=factor)))
    off = replace(SMALL, scale=None)
    assert not torch.equal(scored(off, planted()), scored(off, planted(factor=factor)))


def test_centred_codes_are_those_of_outputs_less_their_mean_over_the_training_prompts() -> None:
    given, centred = planted(), replace(SMALL, centre=True, scale=None, epochs=5)
    fitted = centred.fitted(given)
    mean = torch.cat((given.positive[None], given.negative))[fitted.drawn].mean(0)
    less, plain = Vectors(given.positive - mean, given.negative - mean), replace(centred, centre=False)
    assert torch.equal(centred.codes(given, fitted).positive, plain.codes(less, plain.fitted(less)).positive)
    assert not torch.equal(centred.codes(given, fitted).positive, plain.codes(given, plain.fitted(given)).positive)


def test_held_out_counts_pairs_that_the_encoder_never_saw_with_the_same_codes() -> None:
    given, inside = planted(), replace(SMALL, held_out=False, epochs=5)
    fitted = inside.fitted(given)
    assert int(fitted.drawn.sum()) == 10
    kept = ~fitted.drawn.any(0)
    every, some = inside.codes(given, fitted), replace(inside, held_out=True).codes(given, fitted)
    assert len(every.positive) == 40 > len(some.positive) == int(kept.sum()) == some.negative.shape[1] >= 30
    assert torch.equal(every.positive[kept], some.positive)
    assert torch.equal(every.negative[:, kept], some.negative)
    with pytest.raises(InputError, match="leave none"):
        replace(SMALL, examples=80, epochs=1).codes(given, replace(SMALL, examples=80, epochs=1).fitted(given))
    with pytest.raises(InputError, match="cannot be drawn"):
        replace(SMALL, examples=81).fitted(given)


def test_training_is_adam_on_the_published_loss() -> None:
    rows = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    n, epochs, penalty = 12, 40, 0.02
    start = autoencoder(rows, n, penalty, 0, 3)
    # `finish` moves lengths between the two sides; winners and directions stay, and b_dec is 0 at the start.
    first = autoencoder_start(n, 8, 3)
    assert torch.allclose(F.normalize(start.W_dec[:-1], dim=1), first["dec"].float(), atol=1e-6)
    p = {name: value.clone().requires_grad_() for name, value in first.items()}
    adam = torch.optim.Adam(p.values(), lr=1e-3)
    for _ in range(epochs):
        a = ((rows.double() - p["b"]) @ p["enc"].T + p["b_enc"]).relu()
        x_hat = a @ F.normalize(p["dec"], dim=1) + p["b"]
        loss = (rows - x_hat).square().mean() + penalty * a.abs().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    trained = autoencoder(rows, n, penalty, epochs, 3)
    assert torch.allclose(trained.b_dec, p["b"].float(), atol=1e-4)
    assert torch.allclose(F.normalize(trained.W_dec[:-1], dim=1), F.normalize(p["dec"], dim=1).float(), atol=1e-3)
    pre = (rows.double() - p["b"]) @ p["enc"].T + p["b_enc"]
    assert torch.equal(winners(trained, rows), torch.where(pre.amax(1) > 0, pre.argmax(1), -1))


def autoencoder_start(n: int, d: int, seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    enc, dec = (F.normalize(torch.randn(n, d, generator=rng), dim=1) for _ in range(2))
    b_enc = (2 * torch.rand(n, generator=rng) - 1) / d**0.5
    return {name: value.double() for name, value in {"enc": enc, "dec": dec, "b_enc": b_enc, "b": torch.zeros(d)}.items()}


def test_controls_code_by_nearest_centre_and_by_signs() -> None:
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    near = encoder("kmeans", rows, 7, 0.02, 1, 0)(rows)
    centres = torch.stack([rows[near == c].mean(0) for c in range(7)])
    assert torch.equal(torch.cdist(rows, centres).argmin(1), near)
    code = encoder("pca", rows, 5, 0.02, 1, 0)(rows)
    assert n_codes("pca", 5) == 8 > int(code.max())
    _, vectors = torch.linalg.eigh((rows - rows.mean(0)).double().T @ (rows - rows.mean(0)).double())
    for bit in range(3):
        agree = ((rows - rows.mean(0)).double() @ vectors[:, -1 - bit] > 0) == (code // 2**bit % 2).bool()
        assert float(agree.double().mean()) in (0.0, 1.0)
    with pytest.raises(InputError, match="centres"):
        encoder("kmeans", rows, 61, 0.02, 1, 0)


def test_pooled_outputs_equal_one_prompt_without_padding_at_a_time(llama: Model) -> None:
    pairs, nodes = Toy().pairs(None, 4, 0, None), graph(llama)
    pairs = replace(pairs, spans={"S2": pairs.end - 2})
    written = outputs(llama, nodes, pairs.clean)
    fast = pooled(llama, nodes, written, pairs, ("mean", "after-first", "end", "S2"), mlps=True).unflatten(2, (4, -1))
    heads = pooled(llama, nodes, written, pairs, ("mean",))
    assert torch.equal(heads, fast[:, nodes.index(nodes.heads()), 0])
    for i in range(len(pairs)):
        found, end = literal_activations(llama, pairs, i, pairs.clean), int(pairs.end[i])
        for j, node in enumerate(nodes.nodes):
            head = node.site.head
            a = found[Site(node.site.layer, node.site.stream)][0]
            a = a if head is None else a[:, head] @ llama.w_o(node.site.layer)[head]
            twin = torch.stack((a.mean(0), a[1:].mean(0), a[end], a[end - 2]))
            assert torch.allclose(fast[i, j], twin, atol=1e-5), f"{node} on pair {i}"
    with pytest.raises(InputError, match="after-first"):
        pooled(llama, nodes, written, pairs, ("IO",))


QUICK = DiscreteCodes(latents=16, epochs=20, examples=6)


@pytest.mark.parametrize("method", [QUICK, DiscreteCodeEdges(QUICK)], ids=lambda m: m.NAME)
def test_methods_score_their_unit_and_leave_no_hook(method: DiscreteCodes | DiscreteCodeEdges, llama: Model) -> None:
    assert isinstance(method, Scorer)
    pairs, nodes = Toy().pairs(None, 12, 0, None), graph(llama)
    before = llama(pairs.clean)
    scores = method(llama, Toy(), pairs, nodes, outputs(llama, nodes, pairs.corrupt))
    again = method(llama, Toy(), pairs, nodes, outputs(llama, nodes, pairs.corrupt))
    assert torch.equal(scores.mean, again.mean)
    assert (scores.mean <= 0).all()
    assert (scores.mean < 0).any()
    assert llama.hook_count() == 0
    assert torch.equal(llama(pairs.clean), before)
    for name, value in zip(scores.names(), scores.mean.tolist(), strict=True):
        if "m" in name or "embed" in name or "logits" in name:
            assert value == 0, name


def test_mlps_are_scored_when_asked_for(llama: Model) -> None:
    pairs, nodes = Toy().pairs(None, 12, 0, None), graph(llama)
    method = DiscreteCodes(encoder="kmeans", latents=8, mlps=True)
    scores = method(llama, Toy(), pairs, nodes, outputs(llama, nodes, pairs.corrupt))
    assert scores.mean[[i for i, node in enumerate(nodes.nodes) if node.site.head is None]].min() < 0


@dataclass(frozen=True)
class TwoWays(Toy):
    """Prompts that another corruption changes elsewhere."""

    NAME: ClassVar[str] = "two-ways"
    corruption: str = "s2"

    def pairs(self, tokenizer: object, n: int, seed: int, bos: int | None):
        return super().pairs(tokenizer, n, seed + (self.corruption == "abc"), bos)


def test_more_corruptions_are_more_kinds_of_negatives(llama: Model) -> None:
    pairs, nodes = TwoWays().pairs(None, 12, 0, None), graph(llama)
    method = DiscreteCodes(encoder="kmeans", latents=8, corruptions=("abc",), code_seed=4)
    given = method.vectors(llama, TwoWays(), pairs, nodes)
    other = TwoWays("abc").pairs(None, 12, 4, None)
    assert given.negative.shape[:2] == (2, 12)
    assert torch.equal(given.negative[1], pooled(llama, nodes, outputs(llama, nodes, other.corrupt), other, ("mean",)).float())
    with pytest.raises(InputError, match="one corruption"):
        method.vectors(llama, Toy(), pairs, nodes)
