"""Learners: a model, its data and what a batch teaches it; `fit` trains any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ofa.train.data import Splits
from ofa.train.distribution import part
from ofa.train.tasks.distillation import AdaptiveSoft, DistillationLoss
from ofa.train.tasks.evaluation import evaluate, outputs
from ofa.train.tasks.task import Classification, Task


@dataclass(frozen=True)
class Step:
    """Where a training is: update `number` of `total`. Losses are multiplied by `scale` before they go backward.

    The scale is what gradient accumulation and float16 need; a learner that uses `descend` need not know.

    >>> weight = nn.Parameter(torch.tensor(3.0))
    >>> loss = Step(number=5, total=20, scale=0.5).descend(weight**2)
    >>> Step(number=5, total=20).progress, weight.grad.item()  # half of 2 × 3
    (0.25, 3.0)
    """

    number: int
    total: int
    scale: float = 1.0

    @property
    def progress(self) -> float:
        """The share of the training that is done, from 0 up to but not including 1."""
        return self.number / max(self.total, 1)

    def descend(self, loss: Tensor, share: float = 1.0) -> Tensor:
        """Add `share` of the loss's gradient to the parameters at once, so that its activations are free."""
        (loss * (share * self.scale)).backward()
        return loss.detach()


class Learner(Protocol):
    """A model, its data, and two verbs. A new way to train is a new learner.

    >>> from ofa.train.data import Digits
    >>> learner: Learner = Supervised(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Digits(size=8).load())
    >>> sorted(learner.validate())
    ['accuracy', 'balanced_accuracy', 'loss']
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def splits(self) -> Splits: ...

    def backward(self, images: Tensor, labels: Tensor, step: Step) -> dict[str, float]:
        """Add this step's gradients to the parameters; gives the losses, of which `loss` is the one trained.

        `labels` are class indices, (batch,), or probabilities, (batch, classes). What the learner draws depends on
        the step's number and its own seed alone.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Figures on the validation split, of which `accuracy`, in percent, is the one that matters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the learner has learned besides the model's weights: tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Constrained(Protocol):
    """What a learner may do besides: hold its model's weights in a set, such as that of sparse ones.
    `ofa.train.masks.Masked` is one, `Supervised` is not.

    >>> from ofa.train.data import Digits
    >>> isinstance(Supervised(nn.Linear(4, 2), Digits().load()), Constrained)
    False
    """

    @property
    def stage(self) -> int:
        """How many times the set has become smaller: figures of before are no measure for those of later."""

    def attach(self, optimizer: Optimizer) -> None:
        """Follow every step of the optimiser."""

    def project(self) -> None:
        """Bring the weights back into the set, after others (an average of theirs) have been loaded."""


@dataclass(frozen=True, eq=False)
class Supervised:
    """One network learns from labels: how a teacher is trained, and a subnet finetuned.

    For `teacher_share` of its loss it learns from a teacher, if there is one, by the distance `soft`; `task` says what
    the labels teach, and how that is scored. Pictures reach it through `resize`, and the teacher as they are.

    >>> from ofa.train.data import Digits
    >>> splits = Digits(size=8).load()
    >>> learner = Supervised(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), splits)
    >>> images, labels = next(splits.train.shuffled(batch_size=64, seed=0, epoch=0))
    >>> list(learner.backward(images, labels, Step(number=0, total=10))), learner.model[1].weight.grad.shape
    (['loss'], torch.Size([10, 64]))
    """

    model: nn.Module
    splits: Splits
    label_smoothing: float = 0.1
    validation_batch: int = 256
    teacher: nn.Module | None = None
    soft: DistillationLoss = field(default_factory=AdaptiveSoft)
    teacher_share: float = 0.5
    task: Task = field(default_factory=Classification)
    resize: Callable[[Tensor], Tensor] | None = None

    def backward(self, images: Tensor, labels: Tensor, step: Step) -> dict[str, float]:
        logits = self.model(self._resized(images))
        loss = self.task.loss(logits, labels, self.label_smoothing)
        if self.teacher is not None:
            loss = torch.lerp(loss, self.soft(logits, outputs(self.teacher, images)), self.teacher_share)
        return {"loss": step.descend(loss).item()}

    def validate(self) -> dict[str, float]:
        batches = self.splits.validation.ordered(self.validation_batch, part())
        return evaluate(self.model, ((self._resized(images), labels) for images, labels in batches), self.task)

    def _resized(self, images: Tensor) -> Tensor:
        return images if self.resize is None else self.resize(images)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
