"""The backbone: the network that the user brings, unwrapped and checked before anything is traced, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DataParallel` and `DistributedDataParallel`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module, got {type(model).__name__}")
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def check_parameters(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"parameter {name!r} is lazy: run the model once on the example inputs before converting it"
            )
        if parameter.is_meta:
            raise ValueError(f"parameter {name!r} is on the meta device: materialise the model before converting it")


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs (a tensor, a tuple of positional ones, a dict of keyword ones) as arguments of a call."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})
