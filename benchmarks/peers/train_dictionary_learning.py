"""dictionary_learning: `trainSAE` with its TopKTrainer.

Its loop leaves its bfloat16 autocast out on the CPU; the setting `bfloat16` puts it around the loop. It advises rows of mean square norm 1
and divides them so at every step.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE
from torch import Tensor

from peers.task import Reconstruct, Task


def train(task: Task, batches: Iterator[Tensor]) -> Reconstruct:
    norm = task.d**0.5
    with tempfile.TemporaryDirectory() as folder, torch.autocast("cpu", torch.bfloat16, enabled=task.setting == "bfloat16"):
        # It would measure the norm on a hundred batches first, and those would be lost for training.
        trainSAE((x / norm for x in batches), [config(task)], task.steps, save_dir=folder, device="cpu")
        coder = AutoEncoderTopK.from_pretrained(Path(folder) / "trainer_0" / "ae.pt")

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        code = coder.encode(x / norm)
        return coder.decode(code) * norm, (code > 0).any(0)

    return reconstruct


def config(task: Task) -> dict[str, object]:
    """The decay over the last fifth is that of its demonstration."""
    return {
        "trainer": TopKTrainer,
        "steps": task.steps,
        "activation_dim": task.d,
        "dict_size": task.d_dict,
        "k": task.k,
        "layer": 0,
        "lm_name": "rows",
        "lr": task.lr if task.recipe == "ours" else None,
        "warmup_steps": task.warmup,
        "decay_start": task.steps - task.decay,
        "seed": 0,
        "device": "cpu",
    }
