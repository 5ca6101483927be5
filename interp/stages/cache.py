"""`interp cache`: activations of sites, in one pass over a text, the model stopped at the deepest site."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor

from interp import text
from interp.hooks import record
from interp.models import DTYPES, Model, faster, load, source
from interp.progress import bar
from interp.runs import Draft, written
from interp.sites import Site
from interp.stages.base import Context, Plan, size
from interp.store import outliers, read_tensor, shard_name
from interp.text.pack import pack
from interp.text.vocab import vocabulary
from saes.errors import InputError

# Sequences that the median norm is measured on where nothing is stored.
_MEDIAN_SEQUENCES = 64
Sites = Annotated[
    tuple[Site, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*", metavar="L.STREAM", instance_from_str=lambda words: Site.parse_list(" ".join(words)),
        is_instance=lambda value: isinstance(value, tuple), str_from_instance=lambda sites: [",".join(map(str, sites))],
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Cache:
    """Cache activations of one or several sites for the trainers."""

    NAME: ClassVar[str] = "cache"
    PARENTS: ClassVar[dict[str, str]] = {}

    sites: Sites
    """Where to record: LAYER.STREAM[.HEAD], several between commas or blanks, for example 10.resid_post,20.z."""
    model: str = "smollm2"
    """smollm2 (packaged), a local folder, or a Hub id."""
    text: str = "docs"
    """docs (prose of installed packages), files:PATH, or hub:NAME."""
    tokens: int = 400_000
    """Tokens to cache."""
    context: int = 128
    """Tokens of a sequence, BOS included."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The model runs and the shards are stored in this type; auto takes bfloat16 where the hardware multiplies it faster, else float32."""
    batch_tokens: int = 2048
    """Tokens of one forward pass."""
    shard_tokens: int = 32_768
    """Tokens of a shard; a killed run loses at most one."""
    stored: bool = True
    """Keep the activations on the disk. With --no-stored only the tokens are kept, and training runs the model alongside."""
    held_out: float = 0.05
    """Share of the sequences, at the end, that training never sees."""

    def __post_init__(self) -> None:
        if self.context < 2 or self.tokens < self.context:
            raise InputError(f"--tokens {self.tokens} --context {self.context}: a cache needs at least one sequence of two tokens")
        if self.batch_tokens < self.context or self.shard_tokens < self.context:
            raise InputError(
                f"--batch-tokens {self.batch_tokens} --shard-tokens {self.shard_tokens}: each must hold a sequence of {self.context} tokens"
            )
        if not 0 < self.held_out < 1:
            raise InputError(f"--held-out {self.held_out} is no share; give a number between 0 and 1, for example 0.05")
        for site in self.sites:
            if site.stream == "pattern":
                raise InputError(f"{site} has no fixed width per token and cannot be cached; `interp heads` stores attention patterns")

    @property
    def n_seq(self) -> int:
        return max(2, self.tokens // self.context)

    def identity(self, ctx: Context) -> dict[str, Any]:
        revisions = {"model_revision": source(self.model).revision(), "text_revision": text.parse(self.text).revision()}
        return {**revisions, "dtype": faster(self.dtype, ctx.device)}

    def plan(self, ctx: Context) -> Plan:
        model = self._load(ctx)
        tokens, dtype = self.n_seq * self.context, faster(self.dtype, ctx.device)
        rate = _probe(model, self.sites, self._batch(), self.context)
        per_token = sum(model.width(site) for site in self.sites) * DTYPES[dtype].itemsize + 4 * len(self.sites)
        parameters = model.n_parameters * DTYPES[dtype].itemsize
        return Plan(
            {
                "model": f"{self.model}, {model.n_parameters / 1e6:.0f} M parameters, {dtype} on {model.device}",
                "text": text.parse(self.text).describe(),
                "sites": f"{', '.join(map(str, self.sites))} ({size(per_token)} a token)",
                "tokens": f"{tokens:,} in {self.n_seq:,} sequences of {self.context}; {rate:,.0f} tokens/s by a probe",
            },
            disk=(per_token if self.stored else 0) * tokens + 12 * tokens,
            memory=parameters + per_token * self.shard_tokens + 40 * model.d_model * self.batch_tokens + 12 * tokens,
            seconds=(tokens if self.stored else _MEDIAN_SEQUENCES * self.context) / rate,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        model = self._load(ctx)
        tokens = self.token_matrix(draft, model)
        if not self.stored:
            sample = _activations(model, tokens[:_MEDIAN_SEQUENCES], self.sites, self._batch())
            norms = {site: _norms(acts) for site, acts in sample.items()}
            draft.write_json("summary.json", _summary(draft.path, norms, tokens.numel(), 0.0, time.monotonic() - started))
            return
        per_shard = self.shard_tokens // self.context
        starts = list(range(0, len(tokens), per_shard))
        todo = [i for i in range(len(starts)) if not all((draft.path / shard_name(s, i)).exists() for s in self.sites)]
        done = sum(len(tokens[starts[i] : starts[i] + per_shard]) for i in range(len(starts)) if i not in set(todo))
        with bar(tokens.numel(), "tok", "cache", initial=done * self.context) as progress:
            for index in todo:
                rows = tokens[starts[index] : starts[index] + per_shard]
                _write_shard(draft.path, index, _activations(model, rows, self.sites, self._batch(), progress))
        seconds = time.monotonic() - started
        fresh = tokens.numel() - done * self.context
        norms = {
            site: torch.cat([read_tensor(draft.path / shard_name(site, index), "norms") for index in range(len(starts))])
            for site in self.sites
        }
        draft.write_json("summary.json", _summary(draft.path, norms, tokens.numel(), fresh / seconds, seconds))

    def _batch(self) -> int:
        return self.batch_tokens // self.context

    def _load(self, ctx: Context) -> Model:
        model = load(self.model, faster(self.dtype, ctx.device), ctx.device)
        for site in self.sites:
            model.check(site)
        if self.context > model.n_ctx:
            raise InputError(f"--context {self.context} is longer than {self.model} was made for: at most {model.n_ctx}")
        return model

    def token_matrix(self, draft: Draft, model: Model) -> Tensor:
        """The token matrix of the run, packed once."""
        path = draft.path / "tokens.safetensors"
        if not path.exists():
            corpus = text.parse(self.text)
            packed = pack(corpus.documents(), model.tokenizer, self.n_seq * self.context, self.context, model.bos)
            with written(draft.path / "documents.parquet") as aside:
                pq.write_table(packed.documents, aside, compression="zstd")
            write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
            write_tokens(draft.path, torch.from_numpy(packed.tokens), torch.from_numpy(packed.doc_of))
        return read_tensor(path, "tokens").long()


def write_tokens(folder: Path, tokens: Tensor, doc_of: Tensor) -> None:
    """The token matrix and the document of each token, both int32 [n_seq, context]."""
    with written(folder / "tokens.safetensors") as aside:
        save_file({"tokens": tokens.int(), "doc_of": doc_of.int()}, aside)


def write_arrow(path: Path, table: pa.Table) -> None:
    """An uncompressed Arrow IPC file, which readers map into memory."""
    with written(path) as aside, pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _activations(model: Model, tokens: Tensor, sites: tuple[Site, ...], batch: int, progress: Any = None) -> dict[Site, Tensor]:
    """Activations of the sequences, [seq, context, width] a site, in the model's dtype on the CPU."""
    out = {site: torch.empty(*tokens.shape, model.width(site), dtype=model.dtype) for site in sites}
    for start in range(0, len(tokens), batch):
        for site, activation in record(model, tokens[start : start + batch], sites, before=True).items():
            out[site][start : start + batch] = activation.flatten(2)
        if progress is not None:
            progress.update(tokens[start : start + batch].numel())
    return out


def _write_shard(folder: Path, index: int, activations: dict[Site, Tensor]) -> None:
    for site, acts in activations.items():
        path = folder / shard_name(site, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as aside:
            save_file({"acts": acts, "norms": _norms(acts)}, aside)


def _norms(acts: Tensor) -> Tensor:
    return torch.linalg.vector_norm(acts, dim=-1, dtype=torch.float32)


def _probe(model: Model, sites: tuple[Site, ...], batch: int, context: int) -> float:
    """Tokens per second of one batch of random tokens, after one to warm up."""
    tokens = torch.randint(model.d_vocab, (batch, context), generator=torch.Generator().manual_seed(0))
    record(model, tokens[:1], sites)
    start = time.perf_counter()
    record(model, tokens, sites)[sites[-1]].cpu()
    return tokens.numel() / (time.perf_counter() - start)


def _summary(folder: Path, norms: dict[Site, Tensor], tokens: int, rate: float, seconds: float) -> dict[str, Any]:
    """Size, speed and, for each site, the median norm and how many outliers training will leave out of these sequences."""
    figures: dict[str, Any] = {"tokens": tokens, "tokens_per_s": round(rate, 1), "seconds": round(seconds, 1)}
    text_tokens = read_tensor(folder / "tokens.safetensors", "doc_of") >= 0
    figures["bos_and_padding"] = int((~text_tokens).sum())
    for site, values in norms.items():
        measured = text_tokens[: len(values)]
        figures[f"median_norm_{site}"] = float(values[measured].median())
        figures[f"outliers_{site}"] = int(outliers(values, measured).sum())
    return figures
