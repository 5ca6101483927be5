"""A dictionary on disk: `dictionary.json` + `weights.safetensors`, for raw activations, with the proof that it is what was trained.

`save` folds the normalisation, reads the files back and compares them with the trained dictionary on a sample of raw activations, which
stays beside them as `sample.safetensors`: `verify` repeats the comparison wherever the folder goes.
"""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from saes.architectures import MODULES, Module
from saes.checkpoint import aside
from saes.errors import InputError
from saes.normalise import Normalisation

SCHEMA = 2
JSON, WEIGHTS, SAMPLE = "dictionary.json", "weights.safetensors", "sample.safetensors"
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Check:
    """How far a saved dictionary is from the trained one, on the sample."""

    max_difference: float
    """Largest |y_trained - y_saved|, relative to the largest |y_trained|, over tokens with the same winners."""
    tokens: int
    tokens_with_other_winners: int
    """Tokens where rounding to float32 decided a tie the other way."""

    @property
    def passed(self) -> bool:
        return self.max_difference <= TOLERANCE and self.tokens_with_other_winners <= 0.05 * self.tokens


def save(dictionary: Module, folder: Path, *, normalisation: Normalisation, metadata: dict[str, Any]) -> Check:
    """Write the dictionary for raw activations; raises InputError when what was written is not what was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    folded = dictionary.folded(normalisation)
    _write_tensors(folder / WEIGHTS, {name: value.float() for name, value in folded.state_dict().items()})
    x = normalisation.sample
    code, y = _exactly(dictionary, normalisation.x(x.double()))
    _write_tensors(folder / SAMPLE, {"x": x, "code": code.float(), "y": normalisation.raw_y(y).float()})
    _write_json(folder / JSON, {**_describe(folded, normalisation), "metadata": metadata})
    check = verify(folder)
    if not check.passed:
        raise InputError(f"{folder} does not hold the dictionary that was trained: {check}; its weights may be too large for float32")
    _write_json(folder / JSON, {**_describe(folded, normalisation), "check": dataclasses.asdict(check), "metadata": metadata})
    return check


def load(folder: Path, device: str = "cpu") -> Module:
    """The dictionary of a folder, in float32, for raw activations; raises InputError when the folder is not whole."""
    description = describe(folder)
    if description["module"] not in MODULES:
        raise InputError(f"{folder} holds a {description['module']!r}; this version knows {', '.join(MODULES)}")
    dictionary = MODULES[description["module"]].of_settings(description["settings"])
    try:
        dictionary.load_state_dict(_read_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS} does not fit {folder / JSON}: {' '.join(str(error).split())}") from None
    return dictionary.to(device).requires_grad_(False)


def describe(folder: Path) -> dict[str, Any]:
    """What `dictionary.json` says: sizes, activation, normalisation, check, metadata. Raises InputError when there is none to read."""
    try:
        description = json.loads((folder / JSON).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} holds no dictionary ({error}); give a folder with {JSON} and {WEIGHTS}") from None
    if description.get("schema") != SCHEMA:
        raise InputError(f"{folder / JSON} has schema {description.get('schema')}, this version reads {SCHEMA}; train or import it anew")
    return description


def verify(folder: Path) -> Check:
    """Compare the saved dictionary with what the trained one gave on the stored sample."""
    sample = _read_tensors(folder / SAMPLE)
    code, y = _exactly(load(folder), sample["x"].double())
    same = ((code > 0) == (sample["code"] > 0)).all(1)
    difference = (y - sample["y"])[same].abs().max() / sample["y"].abs().max() if same.any() else torch.tensor(torch.inf)
    return Check(float(difference), len(same), int((~same).sum()))


@torch.no_grad()
def _exactly(dictionary: Module, x: Float[Tensor, "rows d_in"]) -> tuple[Tensor, Tensor]:
    """Dense code and output in float64 on the CPU."""
    exact, x = copy.deepcopy(dictionary).cpu().double(), x.cpu()
    return exact.encode(x), exact(x)


def _describe(dictionary: Module, normalisation: Normalisation) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "module": type(dictionary).__name__,
        "settings": dictionary.settings(),
        # Already folded into the weights: kept to tell how raw and trained units relate, one scale for each stretch of equal ones.
        "folded": {"scale_x": _stretches(normalisation.scale_x), "scale_y": _stretches(normalisation.scale_y)},
    }


def _stretches(scale: Tensor) -> list[float]:
    return [float(value) for value in scale.unique_consecutive()]


def _write_json(path: Path, data: dict[str, Any]) -> None:
    with aside(path) as new:
        new.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    with aside(path) as new:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, new)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); save or import the dictionary anew") from None
