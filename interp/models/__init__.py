"""Language models by name. `Source` lists where they come from; `load` gives a `Model` with named sites."""

import functools
from pathlib import Path

import torch

from interp.models import codebooks
from interp.models.bridge import Model
from interp.models.codebooks import Bottlenecks
from interp.models.hub import WAYS, Hub, Local, load_local
from interp.models.packaged import Packaged
from saes.errors import InputError

Source = Packaged | Local | Hub | Bottlenecks
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

__all__ = ["DTYPES", "Model", "Source", "device_of", "faster", "load", "load_anew", "source"]


def source(name: str) -> Source:
    """The source of that name: `smollm2`, an existing folder, else a Hub id. Raises InputError for a folder that holds no model."""
    if name == "smollm2":
        return Packaged()
    folder = Path(name).expanduser()
    if (folder / codebooks.JSON).exists():
        return Bottlenecks(str(folder), name)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise InputError(f"the folder {name} holds no model: config.json is missing; give a folder as save_pretrained writes it")
        return Local(str(folder), name=name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"there is no folder {name}; {WAYS}")
    return Hub(name)


def load(name: str, dtype: str = "float32", device: str = "auto") -> Model:
    """Load a model by name; raises InputError, which says which ways exist, when it cannot be had."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    return _load(_located(name), dtype, str(device_of(device)))


def load_anew(name: str, device: str = "auto") -> Model:
    """The model in float32 with weights that nobody else holds, to be trained; raises InputError like `load`, and for a codebook model."""
    located = _located(name)
    if not isinstance(located, Local):
        raise InputError(f"{name} has codebooks already; name the model that they were put into")
    return load_local(located, torch.float32, device_of(device))


def _located(name: str) -> "Local | tuple[Bottlenecks, Local | None]":
    """Where weights lie, and codebooks if there are some."""
    found = source(name)
    if not isinstance(found, Bottlenecks):
        return found.local()
    base = found.head["base"]
    return found, source(base).local() if base else None  # pyright: ignore[reportAttributeAccessIssue]


def device_of(device: str) -> torch.device:
    """`auto` is a GPU when there is one; raises InputError for a device that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is unknown; choose auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r} is not here: {torch.cuda.device_count()} GPUs were found; use --device cpu")
    return chosen


def faster(wanted: str, device: str) -> str:
    """The type that is meant by `auto`: bfloat16 where the device multiplies it faster than float32 (Ampere and later, some CPUs)."""
    if wanted != "auto":
        return wanted
    if device_of(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if _fast_bfloat16() else "float32"


def _fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster: with AMX, or with AVX-512 BF16 by AMD.

    The same instructions by Intel do not do: torch's bfloat16 has .5 to .6 of the speed of float32 there, on AMD's Zen 2.0 to 3.2 times it
    (widths 576 to 49,152).
    """
    amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    cpu = Path("/proc/cpuinfo")
    return amx or (avx512 and cpu.exists() and "AuthenticAMD" in cpu.read_text())


# One model stays in memory, so that the stages of one process share it; it is never changed: every hook is a context.
@functools.lru_cache(maxsize=1)
def _load(located: Local | tuple[Bottlenecks, Local | None], dtype: str, device: str) -> Model:
    if isinstance(located, Local):
        return load_local(located, DTYPES[dtype], torch.device(device))
    return codebooks.load(*located, DTYPES[dtype], torch.device(device))
