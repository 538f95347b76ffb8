"""The Vitis AI Optimizer's profiler: MACs, FLOPs, parameters, latency and memory of any network."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import nn

from ofa.backbone import as_call, unwrapped
from ofa.costs import Complexity, complexity
from ofa.search.objectives import Macs, Params
from ofa.search.vitis.arguments import check_whole
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


def count_macs(model: nn.Module, inputs: Any) -> dict[nn.Module, int]:
    """MACs per sample of each module, without the modules inside it; in total those of `model_complexity`.

    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> list(count_macs(network, torch.zeros(1, 4)).values()), sum(count_flops(network, torch.zeros(1, 4)).values())
    ([0, 12, 0, 6], 36)
    """
    found = complexity(model, inputs).modules
    return {module: found.get(name, 0) for name, module in unwrapped(model).named_modules()}


def count_flops(model: nn.Module, inputs: Any) -> dict[nn.Module, int]:
    """FLOPs per sample of each module, without the modules inside it: twice its MACs."""
    return {module: 2 * macs for module, macs in count_macs(model, inputs).items()}


def count_params(model: nn.Module) -> dict[str, dict[str, int]]:
    """Parameters of each module, without the modules inside it, by name and by whether they learn; shared ones once.

    >>> count_params(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    {'0': {'trainable': 15}, '1': {}}
    """
    counted: set[nn.Parameter] = set()
    params: dict[str, dict[str, int]] = {}
    for name, module in unwrapped(model).named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter not in counted]
        if own or not list(module.children()):
            params[name] = {}
        for parameter in own:
            kind = "trainable" if parameter.requires_grad else "non-trainable"
            params[name][kind] = params[name].get(kind, 0) + parameter.numel()
        counted.update(own)
    return params


def profile(model: nn.Module, inputs: Any, num_iters: int = 100) -> Profile:
    """Time evaluation passes where the network is, after some that do not count, and count its peak memory.

    Raises:
        ValueError: `num_iters` is no whole number of at least 1, or the network does not run on the inputs.
    """
    check_whole("num_iters", num_iters, 1)
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
