"""A training recipe: optimiser, learning-rate schedule and everything else that `fit` repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ofa.train.data import Mixing

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SCHEDULES = ("cosine", "constant", "poly", "tanh", "step", "wsd", "rsqrt")


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and with what to train.

    `epochs` are passes over the training pictures. `optimizer` and `schedule` are timm's names. `lr` is the highest
    rate, from which it falls to `min_lr`; `warmup` is the share of the steps in which it rises before.
    `weight_decay` pulls weights to zero, biases and normalisations excepted. `channels_last` is a layout of
    pictures in memory that GPUs are often faster with; on a CPU torch's backward pass of some convolutions is not safe
    in it. `seed` decides the order of pictures and how they are
    changed. `clip_value` bounds each gradient value. `precision` is that of the forward pass (autocast). A batch is
    `batch_size` pictures an update, over all processes; `accumulate` cuts it in parts that go through the network
    one after the other. `average` is the decay of a moving average of the weights, which is then what is validated
    and kept. `mixing` mixes pictures and labels. A collapse, or an epoch without a finite step, goes back to the
    last good epoch with half the rate, `rollbacks` times at most.

    >>> recipe = Recipe(epochs=2, optimizer="sgd", lr=0.1, schedule="cosine")
    >>> type(recipe.optimizer_of(nn.Linear(4, 2))).__name__
    'SGD'

    Raises:
        ValueError: a setting out of range, an unknown schedule or precision; says what is allowed.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup: float = 0.1
    min_lr: float = 0.0
    clip_value: float | None = 1.0
    precision: Precision = "float32"
    channels_last: bool = False
    accumulate: int = 1
    average: float | None = None
    mixing: Mixing | None = None
    rollbacks: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"at least 1 epoch and 1 picture a batch, got {self.epochs} and {self.batch_size}")
        if self.lr <= 0 or self.weight_decay < 0 or self.min_lr < 0:
            raise ValueError(
                f"lr is above 0, weight_decay and min_lr are not below it,"
                f" got {self.lr}, {self.weight_decay} and {self.min_lr}"
            )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the steps between 0 and 1, got {self.warmup}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if self.clip_value is not None and self.clip_value <= 0:
            raise ValueError(f"clip_value is above 0 or null, got {self.clip_value}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError(f"accumulate divides batch_size {self.batch_size}, got {self.accumulate}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is a decay between 0 and 1 or null, got {self.average}")
        if self.rollbacks < 0:
            raise ValueError(f"rollbacks is at least 0, got {self.rollbacks}")

    def optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser, with weight decay kept off biases and normalisations.

        Raises:
            ValueError: timm has no such optimiser.
        """
        from ofa.train.timm_import import timm

        names = timm.optim.list_optimizers()
        if self.optimizer not in names:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; allowed: {', '.join(names)}")
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            model, opt=self.optimizer, lr=self.lr, weight_decay=self.weight_decay
        )
        return optimizer

    def schedule_of(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
        """timm's schedule, a function of the number of steps done alone: there is no state to save."""
        from ofa.train.timm_import import timm

        schedule, _ = timm.scheduler.create_scheduler_v2(
            optimizer,
            sched=self.schedule,
            num_epochs=self.epochs,
            warmup_epochs=self.warmup * self.epochs,
            warmup_lr=self.lr / 100,
            min_lr=self.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
        return schedule

    def average_of(self, model: nn.Module) -> Any:
        """timm's moving average of the weights and statistics, or None; it warms up, so that early weights fade."""
        from ofa.train.timm_import import timm

        if self.average is None:
            return None
        return timm.utils.ModelEmaV3(model, decay=self.average, use_warmup=True)
