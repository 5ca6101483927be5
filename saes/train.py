"""`fit`: the one training loop, for one module or for many that share their batches. It knows batches and losses, nothing of models.

On the CPU a training resumed from a checkpoint is the same bits as one never stopped, and a member of a group is the same bits as it would
be alone (same number of threads): members share what they read and nothing else. The step never waits for the device: metrics add up there
and are read once a row.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saes.checkpoint import Checkpoint
from saes.dictionary import Batch, Losses
from saes.errors import InputError
from saes.schedule import FitConfig

Loss = Callable[[Any, Batch], Losses]
Batches = Iterable[tuple[Tensor, Tensor]]
# A latent active on more than a tenth of the tokens is called dense.
DENSE = 0.1


@dataclasses.dataclass(frozen=True)
class Row:
    """Metrics of the steps since the last row."""

    step: int
    tokens: int
    metrics: dict[str, float]
    """Means over tokens of loss, fvu, l0, aux_loss and what else the loss reports; over steps of grad_norm; dead_share and lr of this step;
    dense_share of the tokens of the row."""
    _training: "_Training" = dataclasses.field(repr=False, compare=False)

    def checkpoint(self) -> Checkpoint:
        """The whole state at this row; take it before asking for the next one."""
        assert self._training.step == self.step, "the training has moved on: take a row's checkpoint before the next row"
        return self._training.checkpoint()


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One of several trainings that run together."""

    module: nn.Module
    batches: Callable[[int], Batches]
    """Normalised (x, y) from a step on. Members that share what they read keep it between them."""
    loss: Loss
    cfg: FitConfig
    resume: Checkpoint | None = None


def fit(module: nn.Module, batches: Batches, loss: Loss, cfg: FitConfig, *, resume: Checkpoint | None = None) -> Iterator[Row]:
    """Train `module` in place, one row every `log_every` steps and one at the end.

    `batches` gives normalised (x, y), and with `resume` begins where the checkpoint was taken. `loss(module, batch)` is an architecture's.
    Raises InputError when the batches end early, the loss is no longer finite, or the checkpoint is of another training.
    """
    return (row for _, row in fit_together([Member(module, lambda step: batches, loss, cfg, resume)]))


def fit_together(members: Sequence[Member]) -> Iterator[tuple[int, Row]]:
    """Train several modules in place, step by step together; rows come with the number of their member.

    Members that were resumed from different steps wait for those behind, so that all read the same batch. Raises what `fit` raises.
    """
    trainings = [_Training(member) for member in members]
    while pending := [training for training in trainings if training.step < training.cfg.steps]:
        behind = min(training.step for training in pending)
        for number, training in enumerate(trainings):
            if training.step != behind or training.step >= training.cfg.steps:
                continue
            training.advance()
            if training.step % training.cfg.log_every == 0 or training.step == training.cfg.steps:
                yield number, training.row()


class _Training:
    """The state between two steps, and the step."""

    def __init__(self, member: Member) -> None:
        self.module, self.loss, self.cfg = member.module, member.loss, member.cfg
        _check(self.module)
        self.d_dict: int = self.module.d_dict  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
        self.parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.fused = self.device.type in ("cpu", "cuda")
        self.flat = {name: _contiguous(p) for name, p in self.parameters.items()}
        self.adam = torch.optim.Adam(list(self.flat.values()), betas=self.cfg.betas, eps=self.cfg.eps, fused=self.fused)
        self.silent = torch.zeros(self.d_dict, dtype=torch.long, device=self.device)
        self.generator = torch.Generator(self.device).manual_seed(self.cfg.seed)
        self.step = self.tokens = 0
        self._clear()
        if member.resume is not None:
            self.restore(member.resume)
        self.batches = iter(member.batches(self.step))

    def advance(self) -> None:
        """One step of the optimiser."""
        try:
            x, y = next(self.batches)
        except StopIteration:
            raise InputError(f"the batches ended after {self.step} of {self.cfg.steps} steps; give more, or ask for fewer steps") from None
        # A latent is dead when it has been silent so long *after* this batch: the loss takes out those that fire in it.
        dead = self.silent + len(x) >= self.cfg.dead_tokens()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bfloat16"):
            losses = self.loss(self.module, Batch(x, y, dead, self.generator))
            total = losses.total
        self.adam.zero_grad(set_to_none=True)
        self.module.zero_grad(set_to_none=True)
        total.backward()
        norm = self._clip()
        self.lr = self.cfg.lr_at(self.step, self.d_dict)
        for group in self.adam.param_groups:
            group["lr"] = self.lr
        for p, flat in zip(self.parameters.values(), self.flat.values(), strict=True):
            flat.grad = p.grad if flat is p or p.grad is None else p.grad.t()
        self.adam.step()
        self.silent = torch.where(losses.active > 0, 0, self.silent + len(x))
        self.step, self.tokens = self.step + 1, self.tokens + len(x)
        if losses.revive is not None and self.cfg.revives(self.step):
            self._revive(losses.revive)
        self._add(len(x), {**losses.metrics, "loss": total.detach()}, norm, losses.active)

    def _revive(self, revive: Callable[[Tensor, torch.Generator], dict[str, Tensor]]) -> None:
        """Let the loss replace dead latents; their moments belonged to what they were, and their silence begins anew."""
        dead = self.silent >= self.cfg.dead_tokens()
        for name, rows in revive(dead, self.generator).items():
            parameter = self.parameters[name]
            for moment in self._state(name).values():
                if moment.shape == parameter.shape:
                    moment[rows] = 0
        self.silent = torch.where(dead, 0, self.silent)

    def _clip(self) -> Tensor:
        """The norm of all gradients; above the limit the optimiser scales them down as it reads them, which saves a pass over memory."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        if self.fused:
            self.adam.grad_scale = ((norm + 1e-6) / self.cfg.clip).clamp(min=1).float()  # pyright: ignore[reportAttributeAccessIssue]
            self.adam.found_inf = torch.zeros((), device=self.device)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.cfg.clip, norm)
        return norm

    def _add(self, n_tokens: int, metrics: dict[str, Tensor], norm: Tensor, active: Tensor) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value.double() * n_tokens
        self.norms, self.active = self.norms + norm.double(), self.active + active
        self.row_steps, self.row_tokens = self.row_steps + 1, self.row_tokens + n_tokens

    def _clear(self) -> None:
        self.sums: dict[str, Tensor | int] = {}
        self.norms = torch.zeros((), dtype=torch.double, device=self.device)
        self.active = torch.zeros(self.d_dict, device=self.device)
        self.row_steps = self.row_tokens = 0

    def row(self) -> Row:
        """Read the sums and begin new ones: a checkpoint is taken at a row, so it has none to keep."""
        metrics = {name: float(value) / self.row_tokens for name, value in self.sums.items()}
        metrics["grad_norm"] = float(self.norms) / self.row_steps
        metrics["dead_share"] = float((self.silent >= self.cfg.dead_tokens()).double().mean())
        metrics["dense_share"] = float((self.active > DENSE * self.row_tokens).double().mean())
        metrics["lr"] = self.lr
        if not math.isfinite(metrics["loss"]):
            raise InputError(
                f"the loss is {metrics['loss']} by step {self.step}; look for NaN in the activations, or lower lr={self.lr:.2g}"
            )
        self._clear()
        return Row(self.step, self.tokens, metrics, self)

    def checkpoint(self) -> Checkpoint:
        """A copy of the state."""
        tensors = {f"module/{name}": value for name, value in self.module.state_dict().items()}
        for name in self.parameters:
            tensors |= {f"adam/{name}/{key}": value for key, value in self._state(name).items()}
        tensors |= {"silent": self.silent, "generator": self.generator.get_state()}
        copies = {name: value.detach().clone() for name, value in tensors.items()}
        return Checkpoint(self.step, self.tokens, _plain(self.cfg), copies)

    def restore(self, saved: Checkpoint) -> None:
        """Take over a checkpoint's state; raises InputError when it is of another training."""
        _check_same(saved, _plain(self.cfg), {name: value.shape for name, value in self.module.state_dict().items()})
        self.step, self.tokens = saved.step, saved.tokens
        self.module.load_state_dict(_under(saved, "module/"))
        self.silent = saved.tensors["silent"].to(self.device)
        self.generator.set_state(saved.tensors["generator"].cpu())
        for name, flat in self.flat.items():
            if state := _under(saved, f"adam/{name}/"):
                turned = {key: value.t() if self._is_turned(name, value) else value for key, value in state.items()}
                self.adam.state[flat] = {key: _like(value, flat) for key, value in turned.items()}

    def _state(self, name: str) -> dict[str, Tensor]:
        """What the optimiser keeps of a parameter, its moments in the parameter's shape."""
        state = self.adam.state[self.flat[name]]
        return {key: value.t() if self._is_turned(name, value) else value for key, value in state.items()}

    def _is_turned(self, name: str, value: Tensor) -> bool:
        return self.flat[name] is not self.parameters[name] and value.ndim == 2


def _contiguous(parameter: nn.Parameter) -> nn.Parameter:
    """The same memory for the optimiser, row after row: it copies the gradient of a transposed matrix before every step."""
    turned = parameter.ndim == 2 and not parameter.is_contiguous() and parameter.t().is_contiguous()
    return nn.Parameter(parameter.detach().t()) if turned else parameter


def _check(module: nn.Module) -> None:
    if not isinstance(getattr(module, "d_dict", None), int):
        raise TypeError(f"{type(module).__name__} has no d_dict, the number of latents that fit keeps dead counters for")
    low = [name for name, p in module.named_parameters() if p.dtype not in (torch.float32, torch.float64)]
    if low:
        raise InputError(f"{low[0]} is in half precision, where small updates vanish; keep weights in float32 and use precision=bfloat16")


def _check_same(saved: Checkpoint, config: dict[str, Any], shapes: dict[str, torch.Size]) -> None:
    for name, value in config.items():
        if saved.config.get(name) != value:
            raise InputError(f"the checkpoint has {name}={saved.config.get(name)}, not {value}; resume with the same or start anew")
    found = {name: value.shape for name, value in _under(saved, "module/").items()}
    if found != shapes:
        raise InputError(
            f"the checkpoint holds weights {_shapes(found)}, the dictionary has {_shapes(shapes)}; resume with the same sizes or start anew"
        )


def _shapes(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))


def _under(saved: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in saved.tensors.items() if name.startswith(prefix)}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment gets its parameter's memory layout, which the fused optimiser relies on; a step counter stays as it is."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()


def _plain(cfg: FitConfig) -> dict[str, Any]:
    """As JSON reads it back: tuples become lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(cfg).items()}
