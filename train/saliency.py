"""Sorting a supernet by importance on data: measures of first order get their gradients from training pictures."""

from __future__ import annotations

from itertools import islice

import torch.nn.functional as F

from ofa import Supernet
from ofa.slicing import FIRST_ORDER
from ofa.train.data import Splits
from ofa.train.evaluation import device_of


def sort_by(supernet: Supernet, measure: str, splits: Splits, batches: int = 8, batch_size: int = 64) -> None:
    """Order the active subnet's units; Taylor and Fisher see the loss of so many training batches, in evaluation mode.

    Raises:
        ValueError: no such measure.
    """
    gather(supernet, measure, splits, batches, batch_size)
    supernet.sort(measure)


def gather(supernet: Supernet, measure: str, splits: Splits, batches: int = 8, batch_size: int = 64) -> None:
    """Leave in the parameters the gradients that `measure` needs, if any."""
    supernet.zero_grad()
    if measure not in FIRST_ORDER:
        return
    device, size = device_of(supernet), min(batch_size, len(splits.train))
    supernet.eval()
    for images, labels in islice(splits.train.shuffled(size, 0, 0), batches):
        logits = supernet(supernet.resize(images.to(device)))
        (F.cross_entropy(logits, labels.to(device)) / batches).backward()
