"""Codebook models in a folder: bottlenecks, and the weights that were trained with them or the name of the model that they were put into.

codebooks.json   {"schema": 1, "base": name, or "" for the weights beside it, "base_revision": ..., "sites": [...]}
<site>/          a dictionary as `saes.files` writes it
config.json ...  weights and tokenizer as transformers saves them, where they are the model's own
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from interp.models.bridge import Model
from interp.models.hub import Local, load_local, save_weights
from interp.runs import written
from interp.sites import Site
from saes import files
from saes.architectures import CodebookDictionary
from saes.errors import InputError
from saes.normalise import unit

JSON, SCHEMA = "codebooks.json", 1


@dataclass(frozen=True)
class Bottlenecks:
    """A folder that `save` wrote."""

    path: str
    name: str

    def revision(self) -> str:
        """A hash of the codes and of the weights around them."""
        head = self.head
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for site in head["sites"]:
            digest.update((Path(self.path) / site / files.WEIGHTS).read_bytes())
        if not head["base"]:
            digest.update(Local(self.path, self.name).revision().encode())
        return digest.hexdigest()[:12]

    @property
    def head(self) -> dict:
        """What codebooks.json says; raises InputError when it cannot be read."""
        try:
            head = json.loads((Path(self.path) / JSON).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.name} holds no codebooks ({error}); make them with `interp codebook`") from None
        if head.get("schema") != SCHEMA:
            raise InputError(
                f"{self.name} has schema {head.get('schema')}, this version reads {SCHEMA}; make it anew with `interp codebook`"
            )
        return head


def load(source: Bottlenecks, base: Local | None, dtype: torch.dtype, device: torch.device) -> Model:
    """The model with its bottlenecks; `base` is where the weights come from, None for the folder itself. Raises InputError."""
    head = source.head
    inner = load_local(base or Local(source.path, source.name), dtype, device)
    if base is not None and inner.revision != head["base_revision"]:
        raise InputError(
            f"{source.name} was made for {head['base']} at {head['base_revision']}, which is now {inner.revision}: "
            "bring the old model back, or make the codebooks anew with `interp codebook`"
        )
    books = {Site.parse(site): files.load(Path(source.path) / site).to(device) for site in head["sites"]}
    return replace(inner, name=source.name, revision=source.revision()).with_codebooks(books)


def save(model: Model, books: Mapping[Site, CodebookDictionary], samples: Mapping[Site, torch.Tensor], folder: Path, *, own: bool) -> None:
    """Write books, each checked on raw inputs of its site, and, where they are the model's `own`, its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if own:
        save_weights(model, folder)
    for site, book in books.items():
        files.save(book, folder / str(site), normalisation=unit(samples[site]), metadata={"site": str(site), "write": str(site)})
    base = {"base": "" if own else model.name, "base_revision": "" if own else model.revision}
    with written(folder / JSON) as aside:
        aside.write_text(json.dumps({"schema": SCHEMA, **base, "sites": [str(site) for site in books]}, indent=1) + "\n")
