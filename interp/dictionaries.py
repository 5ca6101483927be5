"""A trained dictionary with the sites it reads and writes and the text it was trained on: what evaluation and description open."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp import runs
from interp.models import device_of, source
from interp.runs import Run
from interp.sites import Site
from interp.store import Store
from saes import files
from saes.architectures import Module
from saes.errors import InputError


@dataclass(frozen=True, eq=False)
class Trained:
    """The dictionary of a train run."""

    run: Run
    store: Store
    reads: tuple[Site, ...]
    """Sites that it reads, side by side."""
    writes: tuple[Site, ...]
    """Sites that it writes: those it reads, unless it is a transcoder."""
    dictionary: Module

    @staticmethod
    def open(root: Path, name: str, device: str) -> "Trained":
        """Open a train run and the activations that it needs, files checked; raises InputError."""
        run = runs.open_run(root, name, "train")
        reads, writes = sites_of(run)
        store = Store.open(run.parent("store"), *dict.fromkeys(reads + writes), device=device)
        return Trained(run, store, reads, writes, files.load(run.path).to(device_of(device)))

    @property
    def autoencoder(self) -> bool:
        """Whether it writes what it reads."""
        return self.reads == self.writes

    def site_for(self, what: str) -> Site:
        """The one site that it reads and writes; raises InputError where it does not, saying what needs that."""
        if not self.autoencoder or len(self.reads) != 1:
            raise InputError(f"{self.run.id} does not write the one site that it reads, and {what} needs that; give an SAE or a codebook")
        return self.reads[0]

    def inputs(self, start: int, stop: int) -> Float[Tensor, "seq context d_in"]:
        """What it reads in sequences start to stop."""
        return self.store.sequences(self.reads, start, stop)

    def both(self, start: int, stop: int) -> tuple[Float[Tensor, "seq context d_in"], Float[Tensor, "seq context d_out"]]:
        """What it reads in sequences start to stop, and what it should write."""
        if self.autoencoder:
            x = self.inputs(start, stop)
            return x, x
        both = self.store.sequences(self.reads + self.writes, start, stop)
        return torch.split(both, [self.dictionary.d_in, self.dictionary.d_out], -1)  # pyright: ignore[reportReturnType]


def model_revision(train: Run) -> str:
    """The revision of the model that a train run's dictionary is of; raises InputError when the model is another one by now."""
    cache = train.parent("store").config["config"]
    revision = source(cache["model"]).revision()
    if revision != cache["model_revision"]:
        raise InputError(
            f"{train.id} was trained on {cache['model']} at {cache['model_revision']}, but that model is now {revision}: "
            f"bring the old model back, or run `interp cache` and `interp train` again"
        )
    return revision


def sites_of(train: Run) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    """The sites that the dictionary of a train run reads and writes."""
    config = train.config["config"]
    return Site.parse_joined(config["site"]), Site.parse_joined(config["write"])
