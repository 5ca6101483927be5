"""The table of codebook features (arXiv 2310.17230, tables 1 and 2), re-made: loss and accuracy by site and k, before and after.

    python -m benchmarks.codebooks --json               # SmolLM2, codebooks in one layer, weights frozen: about an hour on two cores
    python -m benchmarks.codebooks --model scratch      # a model of four layers trained here on the docstrings of installed packages
    python -m benchmarks.codebooks --quick --json       # the model from scratch, made tiny: a minute or two

Beside each codebook stand the model as it was, the fair baseline (trained on for as many steps without codebooks, where the arm trains the
model's weights) and a TopK SAE at no more bits a token, spliced into the model as it was. Bits: G log2 binom(N, k) for G books of N codes,
log2 binom(N, k) + 8 k for an SAE, whose k values are counted as bytes.
"""

import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import tyro
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp import text
from interp.codebooks.bottleneck import Bottlenecked, batches, inputs_of, kind_at, started
from interp.codebooks.scratch import Sizes, write_random
from interp.codebooks.training import train
from interp.codebooks.usage import usage
from interp.evals.next_token import next_token
from interp.hooks import spliced
from interp.models import Model, faster, load_anew
from interp.sites import Site
from interp.text.pack import pack
from saes.architectures import TopK
from saes.normalise import measure
from saes.schedule import FitConfig, clip_of
from saes.train import fit

# The paper's rows (loss / accuracy): TinyStories 21M with one layer, and WikiText-103 with 410M.
PAPER = {
    "TinyStories": {"pretrained": (1.82, 56.22), "finetuned": (1.57, 59.27), "z k8": (1.66, 57.91), "mlp_out k100": (1.57, 59.47)},
    "WikiText-103": {"finetuned": (2.41, 50.52), "z k8": (2.74, 46.68), "z k64": (2.55, 48.44), "mlp_out k100": (3.03, 42.47)},
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """What to train and how long."""

    model: Literal["smollm2", "scratch"] = "smollm2"
    layers: tuple[int, ...] = (10,)
    """Layers that get codebooks; with --model scratch all of them."""
    ks: tuple[int, ...] = (1, 8, 64)
    codes: int = 2048
    tokens: int = 400_000
    context: int = 128
    steps: int = 400
    batch_size: int = 8
    base_steps: int = 4000
    """Steps of the model from scratch."""
    vocab: int = 4096
    sizes: Sizes = dataclasses.field(default_factory=lambda: Sizes(4, 4, 128, 512))
    sae_steps: int = 1000
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of products in training; auto takes bfloat16 where the CPU multiplies it faster."""
    trained: bool = False
    """Train the model's weights with the codebooks, at 1e-4; they stay as they are without it. The model from scratch always trains."""
    seed: int = 0
    folder: Path | None = None
    """Where checkpoints are kept; a temporary folder without it."""
    quick: bool = False
    """The model from scratch, with two layers, two values of k and a few steps."""
    json: bool = False
    """Print one JSON object on the last line."""

    def small(self) -> "Bench":
        """What --quick stands for."""
        return dataclasses.replace(
            self, model="scratch", ks=(1, 8), codes=128, tokens=60_000, context=64, steps=60, base_steps=200, vocab=1024,
            sizes=Sizes(2, 4, 64, 256), sae_steps=100,
        )  # fmt: skip


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Byte pairs of the docstrings."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|bos|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )  # pyright: ignore[reportCallIssue]
    made.train_from_iterator((document.text for document in text.parse("docs").documents()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|bos|>", eos_token="<|bos|>")


class Arms:
    """The rows of the table, each trained from the same model."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        folder.mkdir(parents=True, exist_ok=True)
        if bench.model == "scratch":
            write_random(folder / "random", bench.sizes, tokenizer(bench.vocab), bench.context, bench.seed)
        model = self.fresh()
        n = bench.tokens // bench.context * bench.context
        packed = pack(text.parse("docs").documents(), model.tokenizer, n, bench.context, model.bos)
        tokens = torch.from_numpy(packed.tokens).long()
        held = max(8, len(tokens) // 20)
        self.learn, self.held = tokens[:-held], tokens[-held:]
        if bench.model == "scratch":
            module = Bottlenecked(model, {}, trained=True)
            self._train(module, "base", bench.base_steps, 1e-3)
            module.settled()
        self.start = {name: p.detach().clone() for name, p in model.parameters.items()}

    @property
    def trained(self) -> bool:
        return self.bench.trained or self.bench.model == "scratch"

    def fresh(self) -> Model:
        """The model as the arms begin with it, with weights of its own."""
        model = load_anew("smollm2" if self.bench.model == "smollm2" else str(self.folder / "random"))
        for name, value in getattr(self, "start", {}).items():
            model.parameters[name].data.copy_(value)
        return model

    def rows(self) -> Iterator[dict[str, object]]:
        """As it was, trained on without codebooks, and each site and k with its SAE."""
        bench = self.bench
        before = self._row("pretrained", self.fresh())
        yield before
        if self.trained:
            module = Bottlenecked(self.fresh(), {}, trained=True)
            self._train(module, "finetuned", bench.steps, 1e-4)
            yield self._row("finetuned", module.settled())
        layers = range(bench.sizes.n_layers) if bench.model == "scratch" else bench.layers
        for stream in ("z", "mlp_out"):
            for k in bench.ks:
                yield from self._codebook(tuple(Site(layer, stream) for layer in layers), k)

    def _codebook(self, sites: tuple[Site, ...], k: int) -> Iterator[dict[str, object]]:
        bench, name = self.bench, f"{sites[0].stream} k{k}"
        model = self.fresh()
        kinds = {site: kind_at(model, site, codes=bench.codes, k=k) for site in sites}
        module = Bottlenecked(model, started(model, kinds, self.learn, seed=bench.seed), trained=self.trained)
        self._train(module, name.replace(" ", "-"), bench.steps, 1e-4 if self.trained else 1e-3)
        whole = module.settled()
        used = [one.figures() for one in usage(whole, self.held).values()]
        bits = module.at()[0].books * _log2_choose(bench.codes, k)
        more = {measured: sum(one[measured] for one in used) / len(used) for measured in ("perplexity", "dead_share")}
        yield self._row(name, whole, bits=bits, **more)
        yield self._sae(sites, bits)

    def _sae(self, sites: tuple[Site, ...], bits: float) -> dict[str, object]:
        """TopK SAEs of as many latents as a book has codes, eight for each input at least, at no more bits a token."""
        bench, model = self.bench, self.fresh()
        saes, k, wide = {}, 1, 0
        inputs = inputs_of(model, self.learn, sites, 65_536)
        for site in sites:
            x = inputs[site]
            norm, wide = measure(x, x), max(bench.codes, 8 * x.shape[1])
            k = max(n for n in range(1, 257) if n == 1 or _log2_choose(wide, n) + 8 * n <= bits)
            recipe = TopK(k=k)
            sae = recipe.build(x.shape[1], x.shape[1], wide, seed=bench.seed)
            config = FitConfig(bench.sae_steps, 2048, clip=clip_of(recipe), precision=faster(bench.precision, "cpu"), seed=bench.seed)
            for _ in fit(sae, _shuffled(norm.x(x), bench.seed), recipe.loss, config):
                pass
            saes[site] = sae.folded(norm).float().requires_grad_(False)
        with spliced(model, saes):
            return self._row(f"{sites[0].stream} TopK SAE k{k}", model, bits=_log2_choose(wide, k) + 8 * k)

    def _train(self, module: Bottlenecked, name: str, steps: int, lr: float) -> None:
        bench, every = self.bench, max(1, steps // 15)
        config = FitConfig(
            steps, bench.batch_size, lr=lr, betas=(0.9, 0.999), precision=faster(bench.precision, "cpu"), log_every=max(1, steps // 20),
            revive_every=every, dead_after=every * bench.batch_size, seed=bench.seed,
        )  # fmt: skip
        path = self.folder / f"{bench.model}-{name}.checkpoint"
        train(module, lambda step: batches(self.learn, bench.batch_size, bench.seed, step), config, path)

    def _row(self, name: str, model: Model, **more: object) -> dict[str, object]:
        table = next_token(model, self.held).table()
        figures = {
            f"{key}{end}": getattr(one, at) for key, one in table.items() for end, at in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        return {"arm": name, **figures, **more}


def _log2_choose(n: int, k: int) -> float:
    """log2 of the number of sets of k among n."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def _shuffled(rows: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    while True:
        part = rows[torch.randint(len(rows), (2048,), generator=rng)]
        yield part, part


def main(bench: Bench) -> None:
    """Print the table row by row."""
    torch.set_num_threads(2)
    bench, rows = bench.small() if bench.quick else bench, []
    print(f"{'arm':24s} {'loss':>7s} {'accuracy':>9s} {'bits':>7s} {'dead':>6s} {'seconds':>8s}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.monotonic()
        for row in Arms(bench, bench.folder or Path(scratch)).rows():
            row["seconds"] = time.monotonic() - begun
            rows.append(row)
            tail = f"{row.get('bits', math.nan):7.0f} {row.get('dead_share', math.nan):6.1%} {row['seconds']:8.0f}"
            print(f"{row['arm']:24s} {row['loss']:7.3f} {row['accuracy']:9.2%} {tail}", file=sys.stderr, flush=True)
    if bench.json:
        print(json.dumps({"settings": {**dataclasses.asdict(bench), "folder": str(bench.folder)}, "rows": rows, "paper": PAPER}))


if __name__ == "__main__":
    main(tyro.cli(Bench))
