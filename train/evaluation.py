"""Evaluation of one network on labelled pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa.train.distribution import summed


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's own training flag again afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def outputs(teacher: nn.Module, images: Tensor) -> Tensor:
    """What a teacher says of `images`; nothing of it changes, its batch statistics neither."""
    with evaluating(teacher):
        logits: Tensor = teacher(images)
    return logits


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """`accuracy` (top 1, in percent) and `loss` (cross-entropy): means over samples, whatever their order.

    Several processes each bring batches of their own, and get the figures over all.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    device, losses, correct = device_of(model), list[float](), 0.0
    with evaluating(model):
        for images, labels in batches:
            logits, target = model(images.to(device)).float(), labels.to(device)
            losses += F.cross_entropy(logits, target, reduction="none").tolist()
            correct += float((logits.argmax(1) == target).sum())
    # fsum is exact, so the order of the batches does not matter
    seen, correct, loss = summed([len(losses), correct, math.fsum(losses)], device)
    if not seen:
        raise ValueError("nothing to evaluate on: no batches")
    return {"accuracy": 100 * correct / seen, "loss": loss / seen}
