"""The Vitis AI Optimizer's profiler: MACs, FLOPs, parameters, latency and memory of any network."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import nn

from ofa.backbone import as_call
from ofa.costs import Complexity, complexity
from ofa.search.objectives import Macs, Params
from ofa.search.vitis.runner import console
from ofa.tracing import evaluating

WARMUP = 5


class Profile(NamedTuple):
    """The median time of a pass in milliseconds, and the bytes of activations alive at once, of the whole batch."""

    latency_ms: float
    peak_bytes: int


def model_complexity(
    model: nn.Module, inputs: Any, return_flops: bool = False, readable: bool = False, verbose: bool = False
) -> tuple[Any, Any]:
    """MACs per sample, or FLOPs, and trainable parameters, as numbers or, `readable`, in words.

    Whatever runs counts, be it a subclass or a function: convolutions and matrix products; 1 MAC is 2 FLOPs. `verbose`
    prints a table by type of module, with all parameters.
    """
    found = complexity(model, inputs)
    if verbose:
        show(found)
    cost = found.flops if return_flops else found.macs
    return (Macs().written(cost), Params().written(found.trainable)) if readable else (cost, found.trainable)


def count_macs(model: nn.Module, inputs: Any) -> int:
    """Multiply–accumulates per sample of whatever runs: convolutions and matrix products.

    >>> count_macs(nn.Linear(4, 2), torch.zeros(1, 4)), count_flops(nn.Linear(4, 2), torch.zeros(1, 4))
    (8, 16)
    >>> count_params(nn.Linear(4, 2))
    10
    """
    return complexity(model, inputs).macs


def count_flops(model: nn.Module, inputs: Any) -> int:
    """Twice the MACs."""
    return complexity(model, inputs).flops


def count_params(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def profile(model: nn.Module, inputs: Any, num_iters: int = 100) -> Profile:
    """Time evaluation passes where the network is, after some that do not count, and count its peak memory.

    Raises:
        ValueError: `num_iters` is below 1, or the network does not run on the inputs.
    """
    if num_iters < 1:
        raise ValueError(f"num_iters is at least 1, got {num_iters}")
    args, kwargs = as_call(inputs)
    found, times = complexity(model, inputs), []
    with evaluating(model), torch.no_grad():
        for _ in range(WARMUP + num_iters):
            start = now()
            model(*args, **kwargs)
            times.append(1e3 * (now() - start))
    return Profile(float(np.median(times[WARMUP:])), found.peak_bytes * found.batch)


def now() -> float:
    """Seconds, once all devices are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def show(found: Complexity) -> None:
    total = f"{Macs().written(found.macs)} MACs, {Macs().written(found.flops)} FLOPs a sample"
    params = f"{Params().written(found.params)} parameters, {Params().written(found.trainable)} trainable"
    table = Table("type", "modules", "MACs", "params", title=f"{total}; {params}")
    for row in found.types:
        if row.macs or row.params:
            table.add_row(row.type, str(row.modules), Macs().written(row.macs), Params().written(row.params))
    console.print(table)
