"""`interp demo`: the whole way on a real model that needs no network, narrated. Run again, it finds its runs and only reports."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interp import serve
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, Stage, execute
from interp.stages.cache import Cache
from interp.stages.circuit import Circuit
from interp.stages.describe import Describe
from interp.stages.evaluate import Evaluate
from interp.stages.heads import Heads
from interp.stages.train import Train
from saes.architectures import TopK
from saes.errors import InputError

STORY = {
    "cache": "Run the model over prose and keep what its residual stream holds after layer {layer}.",
    "train": "Train a TopK sparse autoencoder on it: {width:,} latents, {k} of them active on each token.",
    "evaluate": "Put the reconstruction back into the model: how much of its prediction survives, on text it was not trained on?",
    "describe": "Read the corpus once for all latents: where does each fire, and what does it write?",
    "heads": "Score every attention head: previous token, duplicate token, induction, copying.",
    "circuit": "Which heads and MLPs carry indirect object identification ('John gave a drink to' → Mary)?",
}


@dataclass(frozen=True)
class Demo:
    """The whole way on the packaged model: about a quarter of an hour on two cores, seconds the second time."""

    model: str = "smollm2"
    """smollm2 (packaged), a local folder, or a Hub id."""
    text: str = "docs"
    """docs, files:PATH, or hub:NAME."""
    layer: int = 10
    """The dictionary reads the residual stream after this layer."""
    tokens: int = 400_000
    """Tokens to cache."""
    width: int = 4608
    """Latents."""
    k: int = 32
    """Active latents a token."""
    app: bool = True
    """Open the browser app at the end."""
    port: int = 8501
    """Port of the app."""

    def __call__(self, ctx: Context) -> dict[str, Any]:
        if ctx.plan:
            raise InputError(
                "the demo plans each stage when the one before it is done: about a quarter of an hour, 0.6 GB; leave --plan out"
            )
        # What later stages would refuse is refused before the first.
        if self.app and not ctx.json:
            serve.check_port("127.0.0.1", self.port)
        TopK(k=self.k).build(1, 1, self.width)
        started = time.monotonic()
        found = self._walk(ctx)
        result = {**_figures(found), "seconds": round(time.monotonic() - started, 1), "runs": {k: run.id for k, run in found.items()}}
        _farewell(result, self.port)
        if self.app and not ctx.json:
            subprocess.run(serve.command(ctx.root, self.port, browser=True), check=False)
        return result

    def _walk(self, ctx: Context) -> dict[str, Run]:
        """Each stage in turn, the later ones on the runs of the earlier."""
        found: dict[str, Run] = {}
        for name, stage in self._stages().items():
            _say(f"\n● {STORY[name].format(layer=self.layer, width=self.width, k=self.k)}")
            run = execute(stage(found), Context(ctx.root, ctx.device), _say)
            assert run is not None, "a stage without --plan ends in a run"
            found[name] = run
        return found

    def _stages(self) -> dict[str, Callable[[dict[str, Run]], Stage]]:
        site = Site(self.layer, "resid_post")
        return {
            "cache": lambda _: Cache(sites=(site,), model=self.model, text=self.text, tokens=self.tokens),
            "train": lambda found: Train(found["cache"].id, architecture=TopK(k=self.k), width=self.width),
            "evaluate": lambda found: Evaluate(found["train"].id),
            "describe": lambda found: Describe(found["train"].id),
            "heads": lambda _: Heads(model=self.model),
            "circuit": lambda _: Circuit(model=self.model, tests=0),
        }


def _figures(found: dict[str, Run]) -> dict[str, Any]:
    summary = json.loads(found["evaluate"].file("summary.json").read_text())
    names = ("fvu", "l0", "dead_share", "ce_recovered_zero", "ce_recovered_mean")
    return {name: summary[name] for name in names}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _farewell(result: dict[str, Any], port: int) -> None:
    fidelity = f"{result['fvu']:.1%} of the variance unexplained with {result['l0']:.0f} latents a token"
    _say(
        f"\nOn held-out text the dictionary leaves {fidelity},\n"
        f"and the model keeps {result['ce_recovered_zero']:.1%} of its prediction (zero ablation = 0 %).\nLook at it: `interp app`, then\n"
        f"  latents   {serve.url(port, 'explorer', run=result['runs']['describe'])}\n"
        f"  heads     {serve.url(port, 'heads', run=result['runs']['heads'])}\n"
        f"  circuit   {serve.url(port, 'circuit', run=result['runs']['circuit'])}"
    )
