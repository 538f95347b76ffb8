"""The sandwich rule: largest, smallest and random subnets learn together (Yu & Huang, 2019; BigNAS, 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ofa import SearchSpace, Subnet, Supernet
from train.distillation import AdaptiveSoft, SoftTargets, cross_entropy
from train.evaluation import device_of, evaluate, evaluating
from train.splits import Splits


@dataclass(frozen=True)
class SandwichRule:
    """Which subnets learn in a step, and from what.

    The largest learns from labels, and for `teacher_share` of its loss from the teacher, if there is one;
    the others learn from the teacher, or from the largest of the same step.
    """

    randoms: int = 2
    label_smoothing: float = 0.1
    teacher_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.randoms < 0 or not 0 <= self.teacher_share <= 1:
            raise ValueError(
                f"randoms is at least 0 and teacher_share in [0, 1], got {self.randoms}, {self.teacher_share}"
            )

    def draw(self, space: SearchSpace, step: int) -> tuple[Subnet, ...]:
        """The subnets of a step, the largest first; they depend on the seed and the step alone."""
        rng = np.random.default_rng([self.seed, step])
        return (space.largest, space.smallest, *(space.sample(rng) for _ in range(self.randoms)))


@dataclass(frozen=True, eq=False)
class Sandwich:
    """A supernet learns by the sandwich rule; the distance `soft` leads its subnets to the teacher.

    The teacher is another network, frozen and in evaluation mode, or without one the largest subnet itself.
    A step holds the activations of one subnet at a time; its gradient is the average over its subnets.
    """

    supernet: Supernet
    splits: Splits
    rule: SandwichRule = field(default_factory=SandwichRule)
    soft: SoftTargets = field(default_factory=AdaptiveSoft)
    teacher: nn.Module | None = None
    calibration_batch: int = 64
    calibration_batches: int = 8
    validation_batch: int = 256

    def __post_init__(self) -> None:
        if self.teacher is not None and not set(self.supernet.parameters()).isdisjoint(self.teacher.parameters()):
            raise ValueError("the teacher shares its weights with the supernet; give it a copy made before converting")

    @property
    def model(self) -> Supernet:
        return self.supernet

    @cached_property
    def calibration(self) -> list[Tensor]:
        """The training pictures that batch statistics are recalibrated from, always the same."""
        device = device_of(self.supernet)
        batches = self.splits.train.calibration(self.calibration_batch, self.calibration_batches, self.rule.seed)
        return [images.to(device) for images in batches]

    def backward(self, images: Tensor, labels: Tensor, step: int) -> dict[str, float]:
        largest, *others = self.rule.draw(self.supernet.space, step)
        target = self._teach(images)
        self.supernet.activate(largest)
        logits = self.supernet(self.supernet.resize(images))
        loss = cross_entropy(logits, labels, self.rule.label_smoothing)
        if target is not None and self.rule.teacher_share:
            loss = torch.lerp(loss, self.soft(logits, target), self.rule.teacher_share)
        losses = [self._descend(loss, 1 + len(others))]
        target = logits.detach() if target is None else target
        with unregularised(self.supernet):
            for subnet in others:
                self.supernet.activate(subnet)
                logits = self.supernet(self.supernet.resize(images))
                losses.append(self._descend(self.soft(logits, target), 1 + len(others)))
        self.supernet.activate(largest)
        values = torch.stack(losses).tolist()
        return {"loss": sum(values) / len(values), "loss_largest": values[0], "loss_smallest": values[1]}

    def validate(self) -> dict[str, float]:
        """Accuracies of the largest (`accuracy`), a middle and the smallest subnet, each recalibrated."""
        space = self.supernet.space
        figures: dict[str, float] = {}
        for suffix, subnet in ("", space.largest), ("_middle", middle(space)), ("_smallest", space.smallest):
            scores = self.examine(subnet)
            figures |= {f"{name}{suffix}": value for name, value in scores.items()}
        self.supernet.activate(space.largest)
        return figures

    def examine(self, subnet: Subnet) -> dict[str, float]:
        """Activate and recalibrate `subnet`, and evaluate it on the validation split."""
        self.supernet.activate(subnet)
        self.supernet.calibrate(map(self.supernet.resize, self.calibration))
        batches = self.splits.validation.ordered(self.validation_batch)
        return evaluate(self.supernet, ((self.supernet.resize(images), labels) for images, labels in batches))

    def _teach(self, images: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with evaluating(self.teacher):
            logits: Tensor = self.teacher(images)
        return logits

    @staticmethod
    def _descend(loss: Tensor, nets: int) -> Tensor:
        """Go backward at once, so that the activations are free before the next subnet's."""
        (loss / nets).backward()
        return loss.detach()


def middle(space: SearchSpace) -> Subnet:
    """The subnet with the middle option everywhere."""
    return space.canonical(Subnet({c.name: c.options[len(c.options) // 2] for c in space.choices}))


@contextmanager
def unregularised(supernet: nn.Module) -> Iterator[None]:
    """Dropout, drop path and the like are off inside; normalisations keep training.

    Works on the flags of all modules but the supernet, since many call `F.dropout` with their own.
    """
    modules = [m for m in supernet.modules() if m is not supernet and not isinstance(m, _NormBase)]
    flags = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, flags, strict=True):
            module.training = training
