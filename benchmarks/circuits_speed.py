"""Edge attribution patching on SmolLM2 against its own plain passes, and against split inputs. One process, taking turns."""

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import circuits_slow_twin as slow_twin
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import replacement
from interp.circuits.graph import KeyValue, Scores, graph
from interp.circuits.methods import Eap
from interp.models import Model, load
from interp.models.bridge import boot
from interp.models.packaged import Packaged
from interp.tasks import Pairs, Task
from interp.tasks.base import logit_difference
from interp.tasks.ioi import Ioi

PAIRS = 32


def ours(model: Model, task: Task, pairs: Pairs, kv: KeyValue) -> Scores:
    """Everything from two lists of prompts to scores: replacements, differences, gradients, all edges, identities checked."""
    whole = graph(model, kv)
    return Eap()(model, task, pairs, whole, replacement(model, whole, pairs, "resample"))


def plain(model: Any, task: Task, pairs: Pairs) -> Tensor:
    """Two forwards and one backward of the transformers model: corrupt prompts, clean prompts, the metric back to the embeddings. Nothing
    is kept, and only the positions that are read are unembedded."""
    with torch.no_grad():
        model.model(pairs.corrupt, use_cache=False)
    embedded = model.get_input_embeddings()(pairs.clean).requires_grad_()
    hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(pairs))[:, None], pairs.read])
    return torch.autograd.grad(task.metric(logits[None], pairs).sum(), embedded)[0]


def taking_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in every round, after one call that does not count; the order turns round each time."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in sorted(calls, reverse=turn % 2 == 1):
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds."""
    return round(statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True)), 3)


def over_plain(rounds: int) -> list[dict[str, Any]]:
    """Eap over plain passes, with and without BOS, keys and values grouped and for each query head."""
    from transformers import AutoModelForCausalLM

    model, task = load("smollm2", "float32"), Ioi()
    bare = AutoModelForCausalLM.from_pretrained(Packaged().folder(), dtype=torch.float32).eval().requires_grad_(False)
    rows = []
    for bos in (model.bos, None):
        pairs = task.pairs(model.tokenizer, PAIRS, 0, bos)
        calls: dict[str, Callable[[], object]] = {
            "plain": lambda pairs=pairs: plain(bare, task, pairs),
            "grouped": lambda pairs=pairs: ours(model, task, pairs, "grouped"),
            "per_query_head": lambda pairs=pairs: ours(model, task, pairs, "per_query_head"),
        }
        seconds = taking_turns(calls, rounds)
        for kv in ("grouped", "per_query_head"):
            rows.append(
                {
                    "kv": kv,
                    "edges": graph(model, kv).n_edges,
                    "bos": bos is not None,
                    "positions": pairs.clean.shape[1],
                    "eap_over_plain": ratio(seconds, kv, "plain"),
                    "seconds": round(statistics.median(seconds[kv]), 3),
                    "plain_seconds": round(statistics.median(seconds["plain"]), 3),
                    "peak_gb": round(_in_a_process(kv, bos is not None), 2),
                }
            )
    return rows


def _in_a_process(kv: KeyValue, bos: bool) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, kv, bos, torch.get_num_threads()).result()


def peak_memory(kv: KeyValue, bos: bool, threads: int) -> float:
    """Gigabytes of resident memory that the first call of Eap adds to a process with the model in it; Linux."""
    torch.set_num_threads(threads)
    model, task = load("smollm2", "float32"), Ioi()
    pairs = task.pairs(model.tokenizer, PAIRS, 0, model.bos if bos else None)
    with torch.no_grad():
        model(pairs.clean[:1])
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], _resident())

    before = _resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    ours(model, task, pairs, kv)
    done.set()
    watcher.join()
    return (most[0] - before) / 1e9


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Difference:
    """Logit of the answer less that of one wrong answer, on random tokens."""

    NAME: ClassVar[str] = "difference"

    def pairs(self, tokenizer: Any, n: int, seed: int, bos: int | None, length: int = 16, vocab: int = 1000) -> Pairs:
        rng = torch.Generator().manual_seed(seed)
        clean = torch.randint(vocab, (n, length), generator=rng)
        corrupt = torch.randint(vocab, (n, length), generator=rng)
        answer = torch.randint(vocab, (n,), generator=rng)
        read = torch.full((n, 1), length - 1)
        return Pairs(clean, corrupt, answer, (answer[:, None] + 1) % vocab, read, torch.zeros(n, dtype=torch.long), {})

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        return logit_difference(logits, pairs)


def over_split_qkv(rounds: int, smollm2: bool) -> list[dict[str, Any]]:
    """The same scores from split inputs: how far off, and how much longer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(Packaged().folder())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
        max_position_embeddings=64, initializer_range=0.05, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    random = LlamaForCausalLM(config).eval()
    rows = [_against_split("random, 6 layers, d 384", random, tokenizer, Difference(), rounds)]
    if smollm2:
        trained = AutoModelForCausalLM.from_pretrained(Packaged().folder(), dtype=torch.float32).eval()
        rows.append(_against_split("smollm2", trained, tokenizer, Ioi(), max(1, rounds // 2)))
    return rows


def _against_split(name: str, bare: Any, tokenizer: Any, task: Task, rounds: int) -> dict[str, Any]:
    weights = slow_twin.Weights.of(bare)
    model = boot(name, "0", bare, tokenizer)
    pairs = task.pairs(tokenizer, PAIRS, 0, model.bos)
    theirs = slow_twin.scores(weights, pairs.clean, pairs.corrupt, pairs.read, lambda logits: task.metric(logits[None], pairs)[0])
    mine = ours(model, task, pairs, "per_query_head").matrix()
    calls: dict[str, Callable[[], object]] = {
        "split": lambda: slow_twin.scores(
            weights, pairs.clean, pairs.corrupt, pairs.read, lambda logits: task.metric(logits[None], pairs)[0]
        ),
        "ours": lambda: ours(model, task, pairs, "per_query_head"),
    }
    seconds = taking_turns(calls, rounds)
    return {
        "model": name,
        "edges": graph(model, "per_query_head").n_edges,
        "largest_difference": float((mine - theirs).abs().max() / theirs.abs().max()),
        "eap_over_split_qkv": ratio(seconds, "split", "ours"),
        **{f"{call}_seconds": round(statistics.median(values), 3) for call, values in seconds.items()},
    }
