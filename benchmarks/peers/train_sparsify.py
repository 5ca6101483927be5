"""EleutherAI's sparsify: `Trainer.fit`, fed by a language model whose only layer plays our rows back.

Its `bfloat16` is the autocast that it switches on by itself on a GPU.
"""

import os
import tempfile
from collections.abc import Iterator

# Where Triton is installed it is tried on the CPU too, and fails there.
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

import torch
from sparsify import SaeConfig, TrainConfig, Trainer
from torch import Tensor, nn

from peers.task import Reconstruct, Task

# Sequences of a batch, sparsify's default.
SEQUENCES = 32


class Playback(nn.Module):
    """As much of a transformers model as the trainer asks for."""

    def __init__(self, d: int, batches: Iterator[Tensor]) -> None:
        super().__init__()
        self.layer, self.d, self.batches = nn.Identity(), d, batches
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = next(self.batches) if len(input_ids) == SEQUENCES else torch.zeros(1, self.d)
        return self.layer(rows.view(*input_ids.shape, self.d))


def train(task: Task, batches: Iterator[Tensor]) -> Reconstruct:
    with tempfile.TemporaryDirectory() as folder, torch.autocast("cpu", torch.bfloat16, enabled=task.setting == "bfloat16"):
        trainer = Trainer(config(task, folder), tokens(task), Playback(task.d, batches))  # pyright: ignore[reportArgumentType]
        trainer.fit()
    for optimizer in trainer.optimizers:
        # The schedule-free optimiser's result is its average.
        if hasattr(optimizer, "eval"):
            optimizer.eval()
    coder = trainer.saes["layer"]

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices, _ = coder.encode(x)
        fired = torch.zeros(task.d_dict, dtype=torch.bool)
        fired[indices[values > 0]] = True
        return coder.decode(values, indices), fired

    return reconstruct


def config(task: Task, folder: str) -> TrainConfig:
    ours = {
        "optimizer": "adam",
        "lr": task.lr,
        "lr_warmup_steps": task.warmup,
        "auxk_alpha": 1 / 32,
        "dead_feature_threshold": task.dead_steps * task.batch,
    }
    return TrainConfig(
        SaeConfig(num_latents=task.d_dict, k=task.k),
        batch_size=SEQUENCES,
        hookpoints=["layer"],
        save_every=task.steps + 1,
        save_dir=folder,
        log_to_wandb=False,
        **(ours if task.recipe == "ours" else {}),
    )


def tokens(task: Task) -> list[dict[str, Tensor]]:
    """As many sequences as there are steps for; what they say does not matter."""
    return [{"input_ids": torch.ones(task.batch // SEQUENCES, dtype=torch.long)}] * (SEQUENCES * task.steps)
