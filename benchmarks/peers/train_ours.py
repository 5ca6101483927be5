"""Our TopK, as `interp train` trains it. The setting is the precision of the encoder's product."""

from collections.abc import Iterator

import torch
from torch import Tensor

from peers.task import Reconstruct, Task
from saes.architectures.topk import TopK
from saes.schedule import FitConfig
from saes.train import fit


def train(task: Task, batches: Iterator[Tensor]) -> Reconstruct:
    architecture = TopK(k=task.k)
    dictionary = architecture.build(task.d, task.d, task.d_dict)
    with torch.no_grad():
        dictionary.b_enc[: task.dead] = -1e4
    dead_after = task.batch if task.dead else None
    cfg = FitConfig(task.steps, task.batch, lr=task.lr, clip=TopK.CLIP, precision=task.setting, dead_after=dead_after)  # pyright: ignore[reportArgumentType]
    for _ in fit(dictionary, ((x, x) for x in batches), architecture.loss, cfg):
        pass

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        code = dictionary.encode(x)
        return dictionary.decode(code), (code > 0).any(0)

    return reconstruct
