"""Batch statistics of a pruned network's own, for who has batches and no calibration function (Li et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ofa.backbone import unwrapped
from ofa.slicing import Plan, cumulative_statistics, find_owners


def calibrate_bn(model: nn.Module, batches: Iterable[Any]) -> None:
    """Give the batch norms the cumulative mean of their statistics over `batches`, from nothing, in place.

    It is a `calibration_fn` of which `calib_args=(batches,)` are the rest. A batch is what the model takes: a tensor, a
    tuple of positional inputs or a dict of keyword ones; it is brought to the model's device.

    Raises:
        ValueError: there is no batch.
    """
    model = unwrapped(model)
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    moved = (tree_map_only(Tensor, lambda tensor: tensor.to(device), batch) for batch in batches)
    buffers = dict(model.named_buffers())
    for name, value in cumulative_statistics(model, find_owners(model), {}, Plan({}), moved).items():
        buffers[name].copy_(value)
