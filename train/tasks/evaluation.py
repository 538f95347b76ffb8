"""Evaluation of one network by a task's metrics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ofa.tracing import evaluating
from ofa.train.distribution import summed
from ofa.train.tasks.task import Classification, Task

WANTED = ("accuracy", "loss")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU if it has none.

    >>> device_of(nn.Linear(4, 2)), device_of(nn.ReLU())
    (device(type='cpu'), device(type='cpu'))
    """
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def outputs(teacher: nn.Module, images: Tensor) -> Tensor:
    """What a teacher says of `images`; nothing of it changes, its batch statistics neither.

    >>> outputs(nn.Linear(4, 2), torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """
    with evaluating(teacher), torch.no_grad():
        logits: Tensor = teacher(images)
    return logits


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], task: Task | None = None) -> dict[str, float]:
    """The metrics of a task, by default those of classification: `accuracy`, also balanced, in per cent, and `loss`.

    Several processes each bring batches of their own, and get the figures over all.

    >>> logits, labels = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])
    >>> {name: round(value, 3) for name, value in evaluate(nn.Identity(), [(logits, labels)]).items()}
    {'accuracy': 50.0, 'loss': 2.018, 'balanced_accuracy': 50.0}

    Raises:
        ValueError: there is nothing to evaluate on, or the task lacks one of the two.
    """
    task, device, seen = task or Classification(), device_of(model), 0
    metrics = task.metrics(device)
    missing = [name for name in WANTED if name not in metrics]
    if missing:
        raise ValueError(f"{type(task).__name__} has the metrics {', '.join(metrics)}; it lacks {missing[0]}")
    with evaluating(model), torch.no_grad():
        for images, targets in batches:
            found = model(images.to(device))
            seen += len(images)
            for metric in metrics.values():
                metric.update(found, targets.to(device))
    if not summed([seen], device)[0]:
        raise ValueError("nothing to evaluate on: no batches")
    return {name: float(metric.compute()) for name, metric in metrics.items()}
