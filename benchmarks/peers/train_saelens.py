"""SAELens: `SAETrainer.fit` with its TopK.

`bfloat16` is its option autocast, `compiled` its compile_sae, `sparse` its use_sparse_activations, which has no gradient on a CPU unless
rescale_acts_by_decoder_norm is off.
"""

from collections.abc import Iterator

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from torch import Tensor

from peers.task import Reconstruct, Task


def train(task: Task, batches: Iterator[Tensor]) -> Reconstruct:
    torch.manual_seed(0)
    sparse = "sparse" in task.setting
    options = {"use_sparse_activations": sparse, "rescale_acts_by_decoder_norm": not sparse}
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=task.d, d_sae=task.d_dict, k=task.k, **options))
    if "compiled" in task.setting:
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)
    SAETrainer(config(task), sae, batches).fit()

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        code = sae.encode(x)
        return sae.decode(code), (code.to_dense() > 0).any(0)

    return reconstruct


def config(task: Task) -> SAETrainerConfig:
    """Its default rate, and the decay over the last fifth that its tutorial advises."""
    rate = SAETrainerConfig.lr if task.recipe == "defaults" else task.lr
    ours = {"lr_warm_up_steps": task.warmup, "dead_feature_window": task.dead_steps}
    return SAETrainerConfig(
        total_training_samples=task.steps * task.batch,
        train_batch_size_samples=task.batch,
        lr=rate,
        lr_end=rate / 10,
        lr_decay_steps=task.decay,
        autocast="bfloat16" in task.setting,
        **(ours if task.recipe == "ours" else {}),
    )
