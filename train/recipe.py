"""A training recipe: optimiser, learning-rate schedule and everything else that `fit` repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SCHEDULES = ("cosine", "constant", "poly", "tanh", "step", "wsd", "rsqrt")


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and with what to train. `optimizer` and `schedule` are timm's names.

    `warmup` is the share of the steps in which the rate rises. `clip_value` bounds each gradient value.
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

    def optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser, with weight decay kept off biases and normalisations.

        Raises:
            ValueError: timm has no such optimiser.
        """
        from train.zoo import timm

        names = timm.optim.list_optimizers()
        if self.optimizer not in names:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; allowed: {', '.join(names)}")
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            model, opt=self.optimizer, lr=self.lr, weight_decay=self.weight_decay
        )
        return optimizer

    def schedule_of(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
        """timm's schedule, a function of the number of steps done alone: there is no state to save."""
        from train.zoo import timm

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
