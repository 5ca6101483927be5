"""TokFSM whole: a model trained from scratch on a state machine, codebooks trained into it, and all that the machine can measure of both.

Settings of the reference: two layers of width 64, one code of each book, 500 codes a head and 1,000 an MLP, LayerNorm before the lookup,
codes that start as inputs, dead codes revived fifteen times until 80 % of the steps; batches of 128 fresh walks, Adam at 1e-3.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.codebooks.bottleneck import Bottlenecked, kind_at, started
from interp.codebooks.forcing import forced
from interp.codebooks.scratch import Sizes, random_model
from interp.codebooks.training import train
from interp.codebooks.usage import codes_at, usage
from interp.evals import machine as measures
from interp.evals.next_token import next_token
from interp.hooks import record
from interp.models import Model
from interp.sites import Site
from interp.text.machine import Machine
from saes.architectures import CodebookDictionary, SparseDictionary, TopK
from saes.normalise import measure
from saes.schedule import FitConfig
from saes.train import Row, fit

# Walks that measures are taken on, walks of the causal test, and states before the one that is forced.
WALKS, FORCED, BEFORE = 2048, 500, 10


@dataclass(frozen=True)
class Fsm:
    """Everything that decides the figures."""

    machine: Machine = field(default_factory=Machine)
    sizes: Sizes = field(default_factory=Sizes)
    head_codes: int = 500
    mlp_codes: int = 1000
    steps: int = 3000
    """Steps of the base model, and as many of the codebooks."""
    batch_size: int = 128
    lr: float = 1e-3
    sae_steps: int = 1000
    """Steps of the TopK SAE on what the first MLP of the base model writes, as many latents as it has codes."""
    seed: int = 0

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site(layer, stream) for layer in range(self.sizes.n_layers) for stream in ("z", "mlp_out"))

    def base(self, folder: Path, seen: Callable[[Row], object] = lambda row: None) -> Model:
        """The model without codebooks."""
        model = random_model(folder / "base", self.sizes, self.machine.tokenizer(), self.machine.n_tokens, self.seed)
        module = Bottlenecked(model, {}, trained=True)
        train(module, lambda step: self._batches(0, step), self._config(), folder / "base.checkpoint", seen=seen)
        return module.settled()

    def codebooks(self, model: Model, folder: Path, seen: Callable[[Row], object] = lambda row: None) -> Model:
        """The model with codebooks, all its weights trained on; they are changed in place."""
        options = {"k": 1, "norm": "layer", "initial": "data"}
        kinds = {s: kind_at(model, s, codes=self.mlp_codes if s.stream == "mlp_out" else self.head_codes, **options) for s in self.sites}
        books = started(model, kinds, self.machine.tokens(self.machine.walks(512, self._draw(2))), seed=self.seed)
        module = Bottlenecked(model, books, trained=True)
        every = max(1, self.steps // 15)
        config = self._config(revive_every=every, dead_after=every * self.batch_size)
        train(module, lambda step: self._batches(1, step), config, folder / "codebooks.checkpoint", seen=seen)
        return module.settled()

    def _config(self, **more: Any) -> FitConfig:
        return FitConfig(
            self.steps,
            self.batch_size,
            lr=self.lr,
            warmup=0,
            betas=(0.9, 0.999),
            precision="float32",
            log_every=max(1, self.steps // 30),
            seed=self.seed,
            **more,
        )

    def _draw(self, use: int) -> int:
        """A seed for walks, apart for every use."""
        return (self.seed * 8 + use) << 24

    def _batches(self, use: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in itertools.count(start):
            tokens = self.machine.tokens(self.machine.walks(self.batch_size, self._draw(use) + step)).float()
            yield tokens, torch.ones_like(tokens)

    def run(self, folder: Path, seen: Callable[[Row], object] = lambda row: None) -> dict[str, float]:
        """Train both models in the folder, or go on with it, and measure. Keys are those of `benchmarks/fsm.py`."""
        folder.mkdir(parents=True, exist_ok=True)
        walks = self.machine.walks(WALKS, self._draw(3))
        tokens = self.machine.tokens(walks)
        base = self.base(folder, seen)
        figures = {"floor": self.machine.floor, **self._of("base", base, tokens)}
        # The base model's weights change when codebooks come in: what is measured of it comes first.
        values = {"neuron": neurons(base, tokens), "latent": self._latents(base, tokens)}
        model = self.codebooks(base, folder, seen)
        figures |= self._of("codebook", model, tokens)
        return (
            figures
            | self._detectors(model, tokens, walks, values)
            | causal(model, self.machine, walks, self._draw(5))
            | _used(model, tokens)
        )

    def _of(self, name: str, model: Model, tokens: Tensor) -> dict[str, float]:
        accuracy = measures.state_accuracy(model, self.machine, WALKS, self._draw(4))
        return {f"{name}_loss": next_token(model, tokens).table()["loss"].value, f"{name}_state_accuracy": accuracy}

    def _detectors(self, model: Model, tokens: Tensor, walks: Tensor, values: dict[str, list[Tensor]]) -> dict[str, float]:
        """Held-out precision for states, mean over them: of codes, layer by layer, and of what the base model offers in their place."""
        states, codes = measures.state_of(self.machine, walks), codes_at(model, tokens)
        figures: dict[str, float] = {}
        for layer in range(self.sizes.n_layers):
            chosen = codes[Site(layer, "mlp_out")].flatten(0, 1)
            active = torch.zeros(len(chosen), self.mlp_codes, dtype=torch.bool).scatter_(1, chosen, True)
            best = measures.best_codes(active, states, self.machine.n_states)
            recalls = torch.tensor([found.recall for found in best])
            suffix = "" if layer == 0 else f"_{layer}"
            figures |= {f"code_precision{suffix}": _mean(best, "precision"), f"code_recall{suffix}": _mean(best, "recall")}
            for name, by_layer in values.items():
                found = measures.best_values(by_layer[layer].flatten(0, 1), states, recalls) if layer < len(by_layer) else []
                figures |= {f"{name}_precision{suffix}": _mean(found, "precision")} if found else {}
        return figures

    def _latents(self, model: Model, tokens: Tensor) -> list[Float[Tensor, "seq pos latent"]]:
        """What a TopK SAE finds at the first MLP, trained on walks of its own."""
        site = Site(0, "mlp_out")
        rows = _at(model, self.machine.tokens(self.machine.walks(WALKS, self._draw(6))), site).flatten(0, 1)
        norm, recipe = measure(rows, rows), TopK(k=8)
        sae = recipe.build(rows.shape[1], rows.shape[1], self.mlp_codes, seed=self.seed)
        config = FitConfig(self.sae_steps, 2048, lr=1e-3, precision="float32", log_every=self.sae_steps, seed=self.seed)
        for _ in fit(sae, _shuffled(norm.x(rows), 2048, self.seed), recipe.loss, config):
            pass
        return [_encoded(sae, norm.x(_at(model, tokens, site)))]


def neurons(model: Model, tokens: Int[Tensor, "seq pos"]) -> list[Float[Tensor, "seq pos neuron"]]:
    """What the neurons of each MLP hold, after the activation function."""
    seen: list[Tensor] = []

    def rule(activation: Callable[[Tensor], Tensor], pre: Tensor, factor: Tensor | None) -> Tensor:
        seen.append(activation(pre) if factor is None else activation(pre) * factor)
        return seen[-1]

    with torch.no_grad(), model.with_activations(rule):
        for part in tokens.split(256):
            model(part)
    return [torch.cat(seen[layer :: model.n_layers]) for layer in range(model.n_layers)]


@torch.no_grad()
def causal(model: Model, machine: Machine, walks: Int[Tensor, "walk length"], seed: int) -> dict[str, float]:
    """Distance of the next first digit to the machine's after a target state, as it is and with the target's codes forced.

    The codes of a state are those that each book chooses most often where the state ends, over these walks. Normalised distances are shares
    of the distance without any force; `causal_normalised` forces all sites.
    """
    common, frequent = codes_at(model, machine.tokens(walks)), {}
    states = measures.state_of(machine, walks)
    for site, codes in common.items():
        book = model.codebooks[site]
        assert isinstance(book, CodebookDictionary)
        chosen = codes.flatten(0, 1)
        counts = torch.zeros(machine.n_states, book.d_dict)
        for slot in chosen[states >= 0].unbind(1):
            counts.index_put_((states[states >= 0], slot), torch.ones(len(slot)), accumulate=True)
        per_book = counts.unflatten(1, (book.books, -1)).topk(book.k, dim=2).indices
        frequent[site] = (per_book + torch.arange(book.books)[:, None] * (book.d_dict // book.books)).flatten(1)
    tokens = machine.tokens(machine.walks(FORCED, seed))[:, : 1 + 2 * min(BEFORE, machine.length - 1)]
    targets = torch.randint(machine.n_states, (FORCED,), generator=torch.Generator().manual_seed(seed + 1))
    wanted = machine.first_digit()[targets]

    def distance(sites: tuple[Site, ...]) -> float:
        with forced(model, {site: frequent[site][targets] for site in sites}, tokens.shape[1] - 1):
            return measures.distance_to(lambda: model(tokens)[:, -1], wanted)

    groups = {
        "": tuple(frequent),
        "_mlps": tuple(s for s in frequent if s.stream == "mlp_out"),
        "_heads": tuple(s for s in frequent if s.stream == "z"),
        **{f"_{s}": (s,) for s in frequent if s.stream == "mlp_out"},
    }
    none = distance(())
    return {"causal_none": none, **{f"causal_normalised{name}": distance(sites) / none for name, sites in groups.items()}}


def _used(model: Model, tokens: Tensor) -> dict[str, float]:
    return {f"{name}_{site}": value for site, used in usage(model, tokens).items() for name, value in used.figures().items()}


def _mean(found: list[measures.Detector], name: str) -> float:
    return sum(getattr(detector, name) for detector in found) / max(1, len(found))


def _at(model: Model, tokens: Tensor, site: Site) -> Float[Tensor, "seq pos width"]:
    return torch.cat([record(model, part, [site])[site].flatten(2) for part in tokens.split(256)])


def _shuffled(rows: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    while True:
        part = rows[torch.randint(len(rows), (size,), generator=rng)]
        yield part, part


@torch.no_grad()
def _encoded(sae: SparseDictionary, x: Tensor) -> Tensor:
    return torch.cat([sae.encode(part) for part in x.split(256)])
