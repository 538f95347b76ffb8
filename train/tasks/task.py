"""Tasks: the loss from labels, the metrics, and the example picture that a network is traced with."""

from __future__ import annotations

import math
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ofa.tracing import evaluating
from ofa.train.data import Splits
from ofa.train.distribution import summed
from ofa.train.tasks.distillation import cross_entropy


class Metric(Protocol):
    """A figure that grows batch by batch and is then read, over all processes; torchmetrics' are such ones.

    >>> right: Metric = Mean(lambda outputs, targets: 1.0 * (outputs == targets))
    >>> right.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    >>> right.compute()
    0.5
    """

    def update(self, outputs: Tensor, targets: Tensor, /) -> None: ...

    def compute(self) -> Tensor | float: ...


@dataclass(eq=False)
class Mean:
    """The mean over samples of what `per_sample` gives for outputs and targets, (batch,), whatever their order.

    >>> distance = Mean(lambda outputs, targets: (outputs - targets).abs())
    >>> distance.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    >>> distance.compute()
    1.0
    """

    per_sample: Callable[[Tensor, Tensor], Tensor]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    values: list[float] = field(default_factory=list)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.values += self.per_sample(outputs, targets).tolist()

    def compute(self) -> float:
        # fsum is exact, so the order of the batches does not matter
        total, number = summed([math.fsum(self.values), len(self.values)], self.device)
        return total / number


@dataclass(eq=False)
class Balanced:
    """The mean over classes of the share of right ones, in per cent; classes without a sample do not count.

    >>> accuracy = Balanced()
    >>> accuracy.update(torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 1]))
    >>> accuracy.compute()
    50.0
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    right: Counter[int] = field(default_factory=Counter)
    there: Counter[int] = field(default_factory=Counter)
    classes: int = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.classes = outputs.shape[1]
        self.there.update(targets.tolist())
        self.right.update(targets[outputs.argmax(1) == targets].tolist())

    def compute(self) -> float:
        known, processes = summed([self.classes, self.classes > 0], self.device)  # one may have seen no batch
        classes = range(round(known / processes))
        figures = summed([float(c[k]) for c in (self.right, self.there) for k in classes], self.device)
        shares = [r / n for r, n in zip(figures[: len(classes)], figures[len(classes) :], strict=True) if n]
        return 100.0 * math.fsum(shares) / len(shares)


class Task(ABC):
    """What is learned from labels, and how that is scored: one class, named in `conf/task/NAME.yaml`.

    Images are (batch, channels, height, width). Targets are what the data set gives for them, outputs what the network
    does; both begin with the batch.
    docs/extending.md shows one of one's own.

    >>> class Regression(Task):
    ...     def loss(self, outputs, targets, smoothing=0.0):
    ...         return (outputs - targets).square().mean()
    ...     def metrics(self, device):
    ...         near = Mean(lambda outputs, targets: 100.0 * ((outputs - targets).abs() < 0.5), device)
    ...         return {"accuracy": near, "loss": Mean(lambda outputs, targets: (outputs - targets).square(), device)}
    >>> Regression().loss(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])).item()
    2.0
    """

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch, a scalar with a gradient; `smoothing` is a recipe's softening of the labels."""

    @abstractmethod
    def metrics(self, device: torch.device) -> dict[str, Metric]:
        """Fresh metrics by name, for tensors on `device`.

        `loss` and `accuracy` are among them: the accuracy is the score that training is guarded by and that choices go
        by, from 0 to 100, larger is better. Others may be objectives of a search.
        """

    def example(self, splits: Splits) -> Tensor:
        """An input of the right shape, with a batch of one, to trace and time networks with."""
        return splits.example

    def check(self, model: nn.Module, splits: Splits, example: Tensor) -> None:
        """Raise a ValueError if the model does not run on the example, or if its outputs are not the task's."""
        outputs_for(model, example)


@dataclass(frozen=True)
class Classification(Task):
    """One of several classes for a picture: outputs are logits, (batch, classes), targets class indices, (batch,).

    The loss is cross-entropy, also for targets that are probabilities, (batch, classes), as mixup makes them; the
    accuracy is top 1, in per cent; for its balanced twin each class counts the same.

    >>> logits, labels = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])
    >>> round(Classification().loss(logits, labels).item(), 3)
    2.018
    >>> accuracy = Classification().metrics(logits.device)["accuracy"]
    >>> accuracy.update(logits, labels)
    >>> accuracy.compute()
    50.0
    """

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return cross_entropy(outputs, targets, smoothing)

    def metrics(self, device: torch.device) -> dict[str, Metric]:
        return {"accuracy": Mean(hits, device), "loss": Mean(losses, device), "balanced_accuracy": Balanced(device)}

    def check(self, model: nn.Module, splits: Splits, example: Tensor) -> None:
        output = outputs_for(model, example)
        if not isinstance(output, Tensor) or output.shape != (len(example), splits.num_classes):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"the backbone gives {got} for {len(example)} pictures; {splits.num_classes} classes are wanted"
            )


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """100 for each sample whose class is the most probable, else 0, (batch,)."""
    return 100.0 * (logits.argmax(1) == labels)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each sample, (batch,), in float32."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def outputs_for(model: nn.Module, example: Tensor) -> object:
    """What a model gives for an example, in evaluation mode.

    Raises:
        ValueError: it does not run on it.
    """
    try:
        with evaluating(model), torch.no_grad():
            return model(example)
    except Exception as error:  # the user's own code may raise anything
        _, *frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "site-packages" not in frame.filename]
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        told = f"{error}{place}" if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}{place}"
        raise ValueError(f"the backbone does not run on pictures {tuple(example.shape[1:])}: {told}") from None
