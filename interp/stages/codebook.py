"""`interp codebook`: codebooks at sites of a model, trained with it or into it as it stands.

codebook-…/model/      the model with its bottlenecks, which every command takes by that name (`interp.models.codebooks`)
cache-…                its tokens, and what the bottlenecks read, computed when asked for
train-…                one a site: the codebook as the dictionary that `describe`, `eval` and the app open like any other
"""

import dataclasses
import shutil
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow.parquet as pq
import torch
import tyro
from torch import Tensor

from interp import runs, text
from interp.codebooks.bottleneck import Attention, Bottlenecked, Kind, batches, inputs_of, kind_at, started
from interp.codebooks.scratch import rerandomised
from interp.codebooks.training import train
from interp.codebooks.usage import usage
from interp.evals.next_token import next_token
from interp.models import Model, codebooks, faster, load_anew, source
from interp.progress import bar
from interp.runs import Draft, Run, read_json, written
from interp.sites import Site
from interp.stages.base import Context, Plan, execute
from interp.stages.cache import Cache, Sites
from interp.stages.health import Log
from saes import checkpoint, files
from saes.architectures import Codebook, CodebookDictionary
from saes.dictionary import Batch
from saes.errors import InputError
from saes.schedule import FitConfig
from saes.train import Row

# Held-out tokens that the unexplained variance of a codebook is measured on.
_FVU_TOKENS = 8192
Initial = Literal["kmeans", "data", "normal"]


@dataclass(frozen=True)
class Bottlenecks:
    """Train codebooks inside a model, and make a dictionary of each (codebook features, arXiv 2310.17230)."""

    NAME: ClassVar[str] = "codebook"
    PARENTS: ClassVar[dict[str, str]] = {}
    FREE: ClassVar[tuple[str, ...]] = ("checkpoint_seconds",)

    model: tyro.conf.Positional[str]
    """smollm2 (packaged), a local folder, or a Hub id."""
    sites: Sites
    """Where: LAYER.STREAM[.HEAD], several between commas or blanks, for example 10.mlp_out,10.z."""
    k: int = 8
    """Codes chosen from each book."""
    codes: int = 1024
    """Codes of each book."""
    attention: Attention = "grouped"
    """Whether each head of an attention site gets a book of its own, or all of them one."""
    combine: Literal["mean", "sum"] = "mean"
    """How chosen codes are put together."""
    metric: Literal["cosine", "euclid"] = "cosine"
    """How near a code is."""
    norm: Literal["none", "layer"] = "none"
    """What comes before the lookup. After a LayerNorm codes have its scale, and the model has to learn to live with that."""
    initial: Initial = "kmeans"
    """What codes start as."""
    base: Literal["frozen", "finetuned", "scratch"] = "frozen"
    """Whether the model's own weights stay, go on learning, or start anew from random ones."""
    coefficient: float = 1.0
    """Weight of the codebooks' squared errors beside the loss of the language model."""
    text: str = "docs"
    """docs (prose of installed packages), files:PATH, or hub:NAME."""
    tokens: int = 200_000
    """Tokens of the text."""
    context: int = 128
    """Tokens of a sequence, BOS included."""
    epochs: float = 1.0
    """Passes over the training tokens."""
    batch_size: int = 8
    """Sequences of a step."""
    lr: float | None = None
    """Learning rate; without one 1e-3, and 1e-4 for a model that is fine-tuned."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the model's products in training; auto takes bfloat16 where the hardware multiplies it faster. Weights, codes and what they
    are chosen by are float32 always, and what is measured before and after is in the model's own type."""
    revive_every: int = 100
    """Steps between two revivals of codes that were not chosen since, until 80 % of the training; 0 for none."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    seed: int = 0
    """Seed of the first codes, of random weights and of the order of the sequences."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints: what a killed run loses at most."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.epochs <= 0:
            raise InputError(f"--batch-size {self.batch_size} --epochs {self.epochs} trains nothing; give more than 0 of both")
        if not self.sites:
            raise InputError("no site was given; write for example --sites 10.mlp_out,10.z")

    def identity(self, ctx: Context) -> dict[str, Any]:
        revisions = {"model_revision": source(self.model).revision(), "text_revision": text.parse(self.text).revision()}
        return {"precision": faster(self.precision, ctx.device), **revisions}

    def cache(self, model: str) -> Cache:
        """The tokens, as a cache run of any model packs them."""
        return Cache(self.sites, model, self.text, self.tokens, self.context, dtype="float32", stored=False)

    @property
    def held_out(self) -> int:
        """Sequences at the end that training never sees, as many as a store holds out."""
        cache = self.cache(self.model)
        return max(1, round(cache.n_seq * cache.held_out))

    def fit(self, ctx: Context) -> FitConfig:
        """How the training goes, on this device."""
        n = self.cache(self.model).n_seq - self.held_out
        lr = (1e-4 if self.base == "finetuned" else 1e-3) if self.lr is None else self.lr
        return FitConfig(
            max(1, round(self.epochs * n / self.batch_size)), self.batch_size, lr=lr, betas=(0.9, 0.999),
            precision=faster(self.precision, ctx.device),  # pyright: ignore[reportArgumentType]
            log_every=self.log_every, revive_every=self.revive_every, seed=self.seed,
            dead_after=max(1, self.revive_every) * self.batch_size,
        )  # fmt: skip

    def kinds(self, model: Model, initial: Initial) -> dict[Site, Kind]:
        """The codebook of each site."""
        options = {name: getattr(self, name) for name in ("k", "codes", "attention", "combine", "metric", "norm")}
        return {site: kind_at(model, site, initial=initial, **options) for site in self.sites}

    def plan(self, ctx: Context) -> Plan:
        model, fit = load_anew(self.model, ctx.device), self.fit(ctx)
        x = torch.randint(model.d_vocab, (self.batch_size, self.context)).float().to(model.device)
        module = self._module(model, x.long(), "normal")
        begun = time.perf_counter()
        dead = torch.zeros(module.d_dict, dtype=torch.bool, device=model.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=fit.precision == "bfloat16"):
            module.loss(module, Batch(x, torch.ones_like(x), dead)).total.backward()
        seconds = time.perf_counter() - begun
        learnt = sum(p.numel() for p in module.parameters() if p.requires_grad)
        logits = 3 * x.numel() * model.d_vocab
        return Plan(
            {
                "model": f"{self.model}, {model.n_parameters / 1e6:.0f} M parameters, {self.base}",
                "codebooks": f"{module.d_dict:,} codes at {', '.join(map(str, self.sites))}, k {self.k} of each book of {self.codes:,}",
                "training": f"{learnt / 1e6:.1f} M weights, {fit.steps:,} steps of {self.batch_size} x {self.context} tokens",
            },
            disk=4 * 5 * learnt,
            memory=4 * (model.n_parameters + 4 * learnt + logits + 20 * model.n_layers * x.numel() * model.d_model),
            seconds=1.5 * fit.steps * seconds,
            shrink="--batch-size, --context, --codes, or the number of sites",
        )

    def _module(self, model: Model, tokens: Tensor, initial: Initial) -> Bottlenecked:
        books = started(model, self.kinds(model, initial), tokens, seed=self.seed)
        return Bottlenecked(model, books, trained=self.base != "frozen", coefficient=self.coefficient)

    def work(self, draft: Draft, ctx: Context) -> None:
        begun, scratch = time.monotonic(), draft.path / "checkpoint"
        scratch.mkdir(exist_ok=True)
        model = load_anew(self.model, ctx.device)
        tokens = self.cache(self.model).token_matrix(draft, model)
        learn, held = tokens[: -self.held_out], tokens[-self.held_out :]
        before = next_token(model, held).table()
        if self.base == "scratch":
            model = rerandomised(model, scratch / "base", self.seed)
        module = self._module(model, learn, self.initial)
        log = self._train(module, learn, draft, self.fit(ctx))
        whole = module.settled()
        own = self.base != "frozen"
        samples = inputs_of(whole, held, self.sites, _FVU_TOKENS)
        codebooks.save(model, dict(zip(self.sites, module.at(), strict=True)), samples, draft.path / "model", own=own)
        with written(draft.path / "metrics.parquet") as aside:
            pq.write_table(log.table(), aside)
        after, used = next_token(whole, held).table(), usage(whole, held)
        figures = {f"{name}_{when}": table[name] for when, table in (("before", before), ("after", after)) for name in table}
        intervals = {f"{name}_{side}": getattr(value, side) for name, value in figures.items() for side in ("low", "high")}
        by_site = {f"{name}_{site}": value for site, one in used.items() for name, value in one.figures().items()}
        by_site |= {f"{name}_{site}": value for site, book in whole.codebooks.items() for name, value in _fit(book, samples[site]).items()}
        values = {name: value.value for name, value in figures.items()}
        last = {name: log.rows[-1][name] for name in ("loss", "reconstruction", "dead_share")}
        draft.write_json("summary.json", {**values, **last, **by_site, "seconds": round(time.monotonic() - begun, 1), **intervals})

    def _train(self, module: Bottlenecked, tokens: Tensor, draft: Draft, fit: FitConfig) -> Log:
        state, begun = draft.path / "checkpoint" / "state", time.monotonic()
        step = checkpoint.read(state).step if state.exists() else 0
        log = Log.open(draft.path / "progress.jsonl", fit.steps, step)
        with bar(fit.steps, "steps", "codebook", step) as progress:

            def seen(row: Row) -> None:
                log.append(row, (row.step - step) * fit.batch_size * self.context / (time.monotonic() - begun))
                progress.set_postfix_str(f"loss {row.metrics['loss_lm']:.3g} dead {row.metrics['dead_share']:.0%}", refresh=False)
                progress.update(row.step - progress.n)

            where = lambda first: batches(tokens, fit.batch_size, self.seed, first)  # noqa: E731
            train(module, where, fit, state, seconds=self.checkpoint_seconds, seen=seen)
        return log

    def then(self, run: Run, ctx: Context) -> list[Run]:
        """The cache run of the codebook model, and a train run for each of its codebooks."""
        quiet = dataclasses.replace(ctx, json=False)
        store = execute(self.cache(str(run.path / "model")), quiet)
        assert store is not None, "a codebook run is only made when more than its plan was asked for"
        made = [execute(Bottleneck(store.id, run.id, str(site)), quiet) for site in self.sites]
        return [store, *(one for one in made if one is not None)]


@torch.no_grad()
def _fit(book: Any, x: Tensor) -> dict[str, float]:
    """How much of its inputs' variance a codebook leaves unexplained, and how many codes it takes."""
    error, spread = x.to(book.b_dec) - book(x.to(book.b_dec)), x - x.mean(0)
    return {"fvu": float(error.square().sum().cpu() / spread.square().sum()), "l0": float(book.books * book.k)}


@dataclass(frozen=True)
class Bottleneck:
    """One codebook of a codebook run, as a dictionary on the cache run of that model: a run that `interp train` might have made."""

    NAME: ClassVar[str] = "train"
    PARENTS: ClassVar[dict[str, str]] = {"store": "cache", "source": "codebook"}

    store: str
    """The cache run of the codebook model."""
    source: str
    """The codebook run."""
    site: str

    def identity(self, ctx: Context) -> dict[str, Any]:
        found, how = self._book(ctx), runs.open_run(ctx.root, self.source).config["config"]
        options = {name: how[name] for name in ("k", "metric", "combine", "norm", "initial")}
        recipe = Codebook(books=found.books, dead_coefficient=0.0, **options)
        same = {name: how[name] for name in ("base", "coefficient", "epochs", "batch_size", "lr", "seed")}
        return {"architecture": recipe, "site": self.site, "write": self.site, "width": found.d_dict, "skip": False, **same}

    def plan(self, ctx: Context) -> Plan:
        book = self._book(ctx)
        weights = sum(p.numel() for p in book.parameters())
        return Plan(
            {"dictionary": f"{book.d_dict:,} codes at {self.site} of {self.source}"}, disk=4 * weights, memory=4 * weights, seconds=1.0
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        run = runs.open_run(ctx.root, self.source)
        for name in (files.JSON, files.WEIGHTS, files.SAMPLE):
            shutil.copyfile(run.file(f"model/{self.site}/{name}"), draft.path / name)
        shutil.copyfile(run.file("metrics.parquet"), draft.path / "metrics.parquet")
        summary = read_json(run.file("summary.json"))
        check = files.verify(draft.path)
        own = {name: summary[f"{name}_{self.site}"] for name in ("perplexity", "dead_share", "fvu", "l0")}
        draft.write_json("summary.json", {**own, "loss": summary["loss"], "self_check": check.max_difference})

    def _book(self, ctx: Context) -> CodebookDictionary:
        book = files.load(runs.open_run(ctx.root, self.source).path / "model" / self.site)
        assert isinstance(book, CodebookDictionary), f"{self.source} holds no codebook at {self.site}"
        return book
