"""Lessons: what a model learns from a batch, and how it is examined; `fit` repeats any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from train.distillation import cross_entropy
from train.evaluation import evaluate
from train.splits import Splits


class Lesson(Protocol):
    """A model, its data, and two verbs. A new way to train is a new lesson."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def splits(self) -> Splits: ...

    def backward(self, images: Tensor, labels: Tensor, step: int) -> dict[str, float]:
        """Add this step's gradients to the parameters; gives the losses, of which `loss` is the one trained.

        What it draws depends on `step` and its own seed alone.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Figures on the validation split, of which `accuracy`, in percent, is the one that matters."""
        ...


@dataclass(frozen=True, eq=False)
class Supervised:
    """One network learns from labels: how a teacher is trained, and a subnet finetuned."""

    model: nn.Module
    splits: Splits
    label_smoothing: float = 0.1
    validation_batch: int = 256

    def backward(self, images: Tensor, labels: Tensor, step: int) -> dict[str, float]:
        loss = cross_entropy(self.model(images), labels, self.label_smoothing)
        loss.backward()
        return {"loss": loss.item()}

    def validate(self) -> dict[str, float]:
        return evaluate(self.model, self.splits.validation.ordered(self.validation_batch))
