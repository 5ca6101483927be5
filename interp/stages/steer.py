"""`interp steer RUN`: generation with chosen codes of a dictionary forced, or latents added; how often on the topic, and how fluently.

Labelled texts of the dictionary's own corpus train a judge of topics and choose the latents of each topic; other texts test both. Every arm
generates with the same seeds. Fluency is the loss of the unsteered model on what was generated.
"""

import functools
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from interp.dictionaries import Trained
from interp.evals.bootstrap import Estimate, estimate
from interp.models import Model, load
from interp.progress import bar
from interp.runs import Draft, written
from interp.sites import Site
from interp.stages.base import Context, Plan
from interp.stages.cache import write_arrow
from interp.steering.arms import Arm, Mode, Source, arms, distinct, figures, push
from interp.steering.generate import generate, losses
from interp.steering.probe import Probe, Verdict, verdicts
from interp.steering.pushes import edit, n_slots
from interp.steering.topics import Labelled, Topic, Use, labelled, use
from interp.text import Corpus, parse
from interp.text.vocab import vocabulary
from saes.errors import InputError

_LIST, _LOSSES = pa.list_(pa.int32()), pa.list_(pa.float32())
_FIGURES = [(f"{name}{side}", pa.float32()) for name in ("rate", "loss", "distinct") for side in ("", "_low", "_high")]
SCHEMAS = {
    "generations": pa.schema([
        ("topic", pa.utf8()), ("arm", pa.utf8()), ("row", pa.int32()), ("tokens", _LIST), ("loss", _LOSSES),
        ("said", pa.utf8()), ("probability", pa.float32()), ("distinct", pa.float32()),
    ]),
    "arms": pa.schema([("topic", pa.utf8()), ("arm", pa.utf8()), ("n", pa.int32()), ("latents", _LIST), *_FIGURES]),
    "latents": pa.schema([
        ("topic", pa.utf8()), ("dictionary", pa.utf8()), ("rank", pa.int32()), ("latent", pa.int32()), ("phi", pa.float32()),
        ("share_topic", pa.float32()), ("share_other", pa.float32()), ("level", pa.float32()),
    ]),
    "probe": pa.schema([
        ("topic", pa.utf8()), ("n_train", pa.int32()), ("n_test", pa.int32()), ("recall", pa.float32()), ("false_rate", pa.float32()),
    ]),
}  # fmt: skip


@dataclass(frozen=True)
class Steer:
    """Steer generation by codes or latents: topic rate by a held-out judge, fluency by the unsteered model's loss, arm by arm."""

    NAME: ClassVar[str] = "steer"
    PARENTS: ClassVar[dict[str, str]] = {"dictionary": "train", "sae": "train"}

    dictionary: tyro.conf.Positional[str]
    """The train run whose codes or latents steer."""
    sae: str | None = None
    """Another train run of the same site; its latents are added with the norm of the codes' push."""
    topics: tuple[str, ...] = ("graphs", "tables", "algebra", "statistics", "distributed", "apps")
    """Topics by name, or as NAME=BEGINNING,BEGINNING of the sources of their documents."""
    latents: tuple[int, ...] = ()
    """Latents to steer with, for a single topic, in place of those that fit the topic best."""
    codes: int | None = None
    """Latents of a topic in the arm `all`; the slots of a book, or 8, where none is given."""
    mode: Mode = "auto"
    """force: write into the code. add: add the directions. auto: force codes of a codebook, add other latents."""
    strength: float = 1.0
    """A latent is set to, or added with, this many times its mean where it is active."""
    prompt: str = "This function"
    """What every generation goes on from, behind BOS."""
    generations: int = 40
    """Generations of an arm."""
    length: int = 40
    """Tokens of a generation, and most tokens of a labelled text."""
    temperature: float = 1.0
    """Temperature of sampling; 0 takes the likeliest token."""
    texts: int = 200
    """Labelled texts of each topic at most; one half trains, the other tests."""
    seed: int = 0
    """Generation i has the seed `seed` + i in every arm."""

    def __post_init__(self) -> None:
        if self.generations < 1 or self.length < 2 or self.texts < 8:
            raise InputError(
                f"--generations {self.generations} --length {self.length} --texts {self.texts}: give at least 1, 2 and 8 of them"
            )
        if self.temperature < 0 or (self.codes is not None and self.codes < 1):
            raise InputError(f"--temperature {self.temperature} --codes {self.codes}: give a temperature from 0 on and 1 code or more")
        if not self.topics or len({Topic.parse(text).name for text in self.topics}) < len(self.topics):
            raise InputError(f"--topics {' '.join(self.topics)}: name one topic or more, each once")
        if self.latents and len(self.topics) > 1:
            raise InputError("--latents are those of one topic; name the topic that they should bring, for example --topics graphs")

    def identity(self, ctx: Context) -> dict[str, Any]:
        return {}

    def plan(self, ctx: Context) -> Plan:
        found = _Opened.of(self, ctx)
        model, names = found.model, arms(self.sae is not None)
        found.prompt(self.prompt)  # refused here where it cannot be used
        n_arms = 1 + len(self.topics) * (len(names) - 1)
        seconds = _seconds_per_step(model, self.generations)
        texts = self.texts * (len(self.topics) + 2)
        steps = n_arms * self.length * 1.5  # scoring what was generated costs about half of generating it
        return Plan(
            {
                "model": f"{model.name}, {model.n_parameters / 1e6:.0f} M parameters, on {model.device}",
                "dictionary": f"{found.own.run.id} at {found.site}" + (f"; {found.sae.run.id}" if found.sae else ""),
                "arms": f"{n_arms} of {self.generations} generations of {self.length} tokens: {', '.join(names)}",
                "topics": f"{', '.join(Topic.parse(text).name for text in self.topics)}; {texts} labelled texts at most",
            },
            disk=n_arms * self.generations * self.length * 10 + 40 * model.d_vocab,
            memory=model.n_parameters * model.dtype.itemsize + self.generations * model.d_vocab * 40,
            seconds=steps * seconds + 2 * texts * self.length * seconds / self.generations + 20,
        )

    def work(self, draft: Draft, ctx: Context) -> None:
        started = time.monotonic()
        found = _Opened.of(self, ctx)
        model, prompt = found.model, found.prompt(self.prompt)
        topics = [Topic.parse(text) for text in self.topics]
        texts = labelled(found.corpus, model.tokenizer, topics, self.texts, self.length)
        train, test = texts.half(0), texts.half(1)
        probe, judged, accuracy = _judge(train, test, model.d_vocab)
        own, other = (found.sources(trained, train, self.latents, self._count(trained)) for trained in (found.own, found.sae))
        rows: list[dict[str, Any]] = []
        table: list[dict[str, Any]] = []
        with bar(self.length * (1 + len(topics) * (len(arms(other is not None)) - 1)), "steps", "steer") as progress:
            for number, topic in enumerate(topics):
                for arm in arms(other is not None):
                    assert own is not None
                    pushed = push(arm, own[number], None if other is None else other[number], self.mode, self.strength, self.seed)
                    made = self._generated(draft, found, "any" if arm == "none" else topic.name, arm, prompt, pushed)
                    mine = _rows(probe, texts.names, number, arm, **made)
                    rows += mine
                    table.append(_arm_row(topic.name, arm, () if pushed is None else pushed[1], mine))
                    progress.update(self.length if arm != "none" or not number else 0)
        tables = {"generations": rows, "arms": table, "probe": [vars(one) for one in judged]}
        tables["latents"] = found.latent_rows(own, other, test)
        for name, content in tables.items():
            with written(draft.path / f"{name}.parquet") as aside:
                pq.write_table(pa.Table.from_pylist(content, schema=SCHEMAS[name]), aside, compression="zstd")
        write_arrow(draft.path / "vocab.arrow", vocabulary(model.tokenizer, model.d_vocab))
        head = {"model": model.name, "site": str(found.site), "topics": len(topics), "generations": self.generations}
        accuracies = {"probe_accuracy": accuracy.value, "probe_accuracy_low": accuracy.low, "probe_accuracy_high": accuracy.high}
        summary = head | accuracies | _over_topics(rows, arms(other is not None))
        draft.write_json("summary.json", summary | {"prompt": list(prompt), "seconds": round(time.monotonic() - started, 1)})

    def _count(self, trained: Trained | None) -> int:
        if self.codes is not None or trained is None:
            return self.codes or 8
        return n_slots(trained.dictionary) or 8

    def _generated(self, draft: Draft, found: "_Opened", topic: str, arm: Arm, prompt: list[int], pushed: Any) -> dict[str, np.ndarray]:
        """Tokens and losses of an arm, kept in the folder as they come: a resumed run goes on behind them."""
        path = draft.path / "checkpoint" / f"{topic}.{arm}.parquet"
        if not path.exists():
            edits = {} if pushed is None else {found.site: edit(pushed[0])}
            seeds = range(self.seed, self.seed + self.generations)
            tokens = generate(found.model, prompt, seeds, self.length, edits, self.temperature)
            loss = losses(found.model, prompt, tokens)
            path.parent.mkdir(exist_ok=True)
            with written(path) as aside:
                pq.write_table(pa.table({"tokens": pa.array(tokens.tolist(), _LIST), "loss": pa.array(loss.tolist(), _LOSSES)}), aside)
        return {name: np.array(column.to_pylist()) for name, column in zip(("tokens", "loss"), pq.read_table(path).columns, strict=True)}


@dataclass(frozen=True, eq=False)
class _Opened:
    """The dictionaries of a command, their site and their model."""

    own: Trained
    sae: Trained | None
    site: Site
    model: Model

    @staticmethod
    def of(stage: Steer, ctx: Context) -> "_Opened":
        """Open them; raises InputError for dictionaries that cannot steer one site of one model."""
        own = Trained.open(ctx.root, stage.dictionary, ctx.device)
        sae = None if stage.sae is None else Trained.open(ctx.root, stage.sae, ctx.device)
        for trained in (own, *([] if sae is None else [sae])):
            trained.site_for("steering")
        config = own.store.config
        if sae is not None and (sae.reads != own.reads or sae.store.config["model"] != config["model"]):
            raise InputError(f"{sae.run.id} is of another site or model than {own.run.id}; give a second dictionary of {own.reads[0]}")
        if bad := [latent for latent in stage.latents if not 0 <= latent < own.dictionary.d_dict]:
            raise InputError(f"latent {bad[0]} is out of range: {own.run.id} has latents 0 to {own.dictionary.d_dict - 1}")
        return _Opened(own, sae, own.reads[0], load(str(config["model"]), str(config["dtype"]), ctx.device))

    @functools.cached_property
    def corpus(self) -> Corpus:
        return parse(str(self.own.store.config["text"]))

    def prompt(self, text: str) -> list[int]:
        """BOS, where the model has one, and the tokens of the prompt."""
        ids = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt = [*([] if self.model.bos is None else [self.model.bos]), *ids]
        if not prompt:
            raise InputError("--prompt is empty and the model has no BOS token; give at least a word")
        return prompt

    def sources(self, trained: Trained | None, train: Labelled, latents: tuple[int, ...], n: int) -> list[Source] | None:
        """The latents of every topic, from training texts."""
        if trained is None:
            return None
        used = self.used(trained, train)
        given = latents if trained is self.own else ()
        return [Source(trained.dictionary, used, given or tuple(used.best(i, n))) for i in range(len(train.names) - 1)]

    def used(self, trained: Trained, texts: Labelled) -> Use:
        return use(self.model, self.site, trained.dictionary, texts, self.model.bos)

    def latent_rows(self, own: list[Source] | None, other: list[Source] | None, test: Labelled) -> list[dict[str, Any]]:
        """The chosen latents, with the shares of held-out tokens on which they are active."""
        rows = []
        for trained, sources in ((self.own, own), (self.sae, other)):
            if trained is None or sources is None:
                continue
            held_out = self.used(trained, test)
            for number, source in enumerate(sources):
                phi, (inside, outside) = source.use.phi(number), held_out.share(number)
                rows += [
                    {
                        "topic": test.names[number], "dictionary": trained.run.id, "rank": rank, "latent": latent,
                        "phi": float(phi[latent]), "share_topic": float(inside[latent]), "share_other": float(outside[latent]),
                        "level": float(source.use.level[latent]),
                    }
                    for rank, latent in enumerate(source.latents)
                ]  # fmt: skip
        return rows


def _rows(probe: Probe, names: tuple[str, ...], number: int, arm: Arm, tokens: np.ndarray, loss: np.ndarray) -> list[dict[str, Any]]:
    """Generations of an arm, each with what the judge says of it."""
    said = probe.probabilities(list(tokens))
    return [
        {
            "topic": names[number], "arm": arm, "row": i, "tokens": tokens[i].tolist(), "loss": loss[i].tolist(),
            "said": names[int(said[i].argmax())], "probability": float(said[i, number]), "distinct": distinct(tokens[i]),
        }
        for i in range(len(tokens))
    ]  # fmt: skip


def _judge(train: Labelled, test: Labelled, d_vocab: int) -> tuple[Probe, list[Verdict], Estimate]:
    """The judge, what it gets right of each class on held-out texts, and its accuracy there."""
    probe = Probe.fit(train.texts, train.labels, d_vocab)
    said = probe.probabilities(test.texts).argmax(1)
    sums = {"right": (said == test.labels).astype(float), "n": np.ones(len(said))}
    return probe, verdicts(test.names, train.labels, test.labels, said), estimate(sums, lambda s: s["right"] / s["n"])


def _arm_row(topic: str, arm: Arm, latents: tuple[int, ...], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"topic": topic, "arm": arm, "n": len(rows), "latents": list(latents), **_figures(rows)}


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    on_topic = [row["said"] == row["topic"] for row in rows]
    found = figures(on_topic, np.array([row["loss"] for row in rows]), [row["distinct"] for row in rows])
    return {
        f"{name}{suffix}": getattr(one, side)
        for name, one in found.items()
        for suffix, side in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _over_topics(rows: list[dict[str, Any]], names: tuple[Arm, ...]) -> dict[str, float]:
    """Rate and loss of each arm over the generations of all topics."""
    found: dict[str, float] = {}
    for arm in names:
        of_arm = _figures([row for row in rows if row["arm"] == arm])
        found |= {f"{name.partition('_')[0]}_{arm}{name[len(name.partition('_')[0]) :]}": value for name, value in of_arm.items()}
    return found


def _seconds_per_step(model: Model, rows: int) -> float:
    """The faster of two steps of generation, after one that warms up."""
    tokens = torch.zeros(rows, 1, dtype=torch.long)
    times, past = [], None
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            _, past = model.step(tokens, past)
            times.append(time.perf_counter() - start)
    return min(times[1:])
