"""Models by local folder or Hub id, through transformers."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from interp.models.bridge import Model, boot
from saes.errors import InputError

WAYS = (
    "the ways are: --model smollm2 (packaged, no network), --model FOLDER (as save_pretrained writes it), "
    "--model OWNER/NAME from the Hugging Face Hub (needs a network or its local cache)"
)


@dataclass(frozen=True)
class Local:
    """A folder with config.json, safetensors weights and a tokenizer."""

    path: str
    name: str
    known_revision: str | None = None

    def revision(self) -> str:
        """sha256 over config and weights, the latter by their safetensors headers, sizes and first and last megabyte."""
        if self.known_revision is not None:
            return self.known_revision
        digest = hashlib.sha256()
        for file in sorted(Path(self.path).glob("*")):
            if file.suffix in (".json", ".safetensors"):
                digest.update(f"{file.name}:{file.stat().st_size}".encode() + _ends(file))
        return digest.hexdigest()[:12]

    def local(self) -> "Local":
        return self


@dataclass(frozen=True)
class Hub:
    """A model id on the Hugging Face Hub, or in its local cache."""

    name: str

    def revision(self) -> str:
        """The commit."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.name)._commit_hash or "unknown"
        except (OSError, ValueError) as error:
            raise InputError(f"model {self.name!r} cannot be had ({_first_line(error)}); {WAYS}") from error

    def local(self) -> Local:
        return Local(self.name, name=self.name, known_revision=self.revision())


def load_local(source: Local, dtype: torch.dtype, device: torch.device) -> Model:
    """Load weights and tokenizer and boot; raises InputError when either cannot be read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(source.path, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(source.path)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"model {source.name!r} cannot be loaded ({_first_line(error)}); {WAYS}") from error
    return boot(source.name, source.revision(), cast(Any, model).to(device), tokenizer)


def save_weights(model: Model, folder: Path) -> None:
    """Weights and tokenizer as transformers saves them, under their own names whatever TransformerLens made of them."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_config(model.bridge.original_model.config)
    plain.load_state_dict({name: value.detach().cpu() for name, value in model.parameters.items()}, strict=False)
    plain.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _ends(file: Path, n_bytes: int = 1 << 20) -> bytes:
    with file.open("rb") as handle:
        head = handle.read(n_bytes)
        handle.seek(max(0, file.stat().st_size - n_bytes))
        return head + handle.read(n_bytes)
