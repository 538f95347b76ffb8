"""Recalibration of batch normalisation: statistics of a subnet's own, as a cumulative average (Yu & Huang, 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ofa.backbone import as_call
from ofa.slicing.slices import Change, Owners, Plan, find_modules, installed
from ofa.tracing import evaluating


def cumulative_statistics(
    model: nn.Module, owners: Owners, tensors: Mapping[str, Tensor], plan: Plan, batches: Iterable[Any]
) -> dict[str, Tensor]:
    """Mean over `batches` of each batch norm's batch mean and variance, by buffer name, for the subnet of `plan`.

    Everything but the batch norms runs in evaluation mode; no shared buffer changes.

    >>> from ofa.slicing import find_owners
    >>> network = nn.BatchNorm1d(1)
    >>> batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])]  # of means 1 and 5
    >>> found = cumulative_statistics(network, find_owners(network), {}, Plan({}), batches)
    >>> found["running_mean"].tolist(), network.running_mean.tolist()
    ([3.0], [0.0])

    Raises:
        ValueError: there is no batch.
    """
    norms = [p for p, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return {}
    buffers = dict(model.named_buffers())
    statistics: dict[str, Tensor] = {}
    for path in norms:
        prefix = f"{path}." if path else ""
        for local, start in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
            active = tensors.get(prefix + local, buffers[prefix + local])
            statistics[prefix + local] = torch.full_like(active, start)
    changes = [Change(p, a, v) for p in norms for a, v in (("training", True), ("momentum", None))]
    count, modules = 0, find_modules(model)
    with evaluating(model), torch.no_grad():
        for batch in batches:
            count += 1
            args, kwargs = as_call(batch)
            with installed(modules, owners, {**tensors, **statistics}, [*plan.changes, *changes], plan.skipped):
                model(*args, **kwargs)
    if not count:
        raise ValueError("calibration needs at least one batch, got none")
    return statistics
