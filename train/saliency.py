"""Sorting a supernet by importance on data: measures of first order get their gradients from training pictures."""

from __future__ import annotations

from itertools import islice

from ofa import Supernet
from ofa.slicing import Measure, importance_of
from ofa.train.data import Splits
from ofa.train.tasks import Classification, Task, device_of


def sort_by(
    supernet: Supernet, measure: str | Measure, splits: Splits, task: Task | None = None, batches: int = 8
) -> None:
    """Order the active subnet's units; those that need gradients see so many training batches, in evaluation mode.

    Raises:
        ValueError: no such importance.
    """
    gather(supernet, measure, splits, task, batches)
    supernet.sort(measure)


def gather(
    supernet: Supernet,
    measure: str | Measure,
    splits: Splits,
    task: Task | None = None,
    batches: int = 8,
    batch_size: int = 64,
) -> None:
    """Leave in the parameters the gradients of the task's loss, if `measure` needs them."""
    supernet.zero_grad()
    if not getattr(importance_of(measure), "gradients", False):
        return
    learned = task or Classification()
    device, size = device_of(supernet), min(batch_size, len(splits.train))
    supernet.eval()
    for images, labels in islice(splits.train.shuffled(size, 0, 0), batches):
        logits = supernet(supernet.resize(images.to(device)))
        (learned.loss(logits, labels.to(device)) / batches).backward()
