"""Candidates that a user's own function scores: the network itself, switched to a subnet for a while."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ofa import Subnet, Supernet
from ofa.slicing import find_modules, find_owners, installed, take

Function = Callable[..., Any]
Store = Any  # a dictionary or a set


@contextmanager
def lent(supernet: Supernet, subnet: Subnet) -> Iterator[nn.Module]:
    """The supernet's own network as `subnet`, of the user's class and free to be called, moved and calibrated.

    Its parameters and buffers are copies of slices; whatever is done to it, or to its modules' attributes, children and
    hooks, is undone afterwards.
    """
    model, plan = supernet.model, supernet.plan(subnet)
    modules, before = find_modules(model), [(store, copy.copy(store)) for store in stores(model)]
    for name, places in find_owners(model).items():
        held: list[tuple[Store, str]] = [
            (m._parameters if local in m._parameters else m._buffers, local) for m, local in places
        ]
        store, local = held[0]
        part = copy_of(store[local], plan.indices.get(name, ()))
        for store, local in held:
            store[local] = part
    try:
        with installed(modules, {}, {}, plan.changes, plan.skipped):
            yield model
    finally:
        for store, content in before:
            store.clear()
            store.update(content)


def stores(model: nn.Module) -> list[Store]:
    """The attributes of all modules, and the dictionaries and sets among these: children, tensors, hooks."""
    own = [vars(module) for module in model.modules()]
    return [*own, *(value for store in own for value in store.values() if isinstance(value, (dict, set)))]


def copy_of(tensor: Tensor, index: Any) -> Tensor:
    """The kept part with memory of its own, as a parameter if the whole is one."""
    part = take(tensor.detach(), index)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(part.clone(memory_format=torch.contiguous_format), tensor.requires_grad)
    return part.clone()


@dataclass(frozen=True)
class Scorer:
    """The score of a subnet by a user's function of a network, after his calibration if there is one.

    `keep` is told the subnet and the buffers that the calibration changed. On `device`, if given.
    """

    supernet: Supernet
    metric: str
    eval_fn: Function
    eval_args: tuple[Any, ...] = ()
    calibration_fn: Function | None = None
    calib_args: tuple[Any, ...] = ()
    keep: Callable[[Subnet, Mapping[str, Tensor]], None] | None = None
    device: str | None = None

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        with lent(self.supernet, subnet) as network:
            if self.device is not None:
                network.to(self.device)
            if self.calibration_fn is not None:
                self._calibrate(subnet, network, self.calibration_fn)
            network.eval()
            return {self.metric: number(self.eval_fn(network, *self.eval_args), "eval_fn")}

    def _calibrate(self, subnet: Subnet, network: nn.Module, calibrate: Function) -> None:
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        calibrate(network, *self.calib_args)
        if self.keep is not None:
            after = dict(network.named_buffers())
            changed = {n: b for n, b in after.items() if n in before and not torch.equal(before[n], b)}
            self.keep(subnet, {name: buffer.detach().cpu() for name, buffer in changed.items()})


def number(value: Any, function: str) -> float:
    """A score as a number.

    Raises:
        TypeError: it is none.
    """
    try:
        return float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{function} returns a number or a tensor of one element, got {type(value).__name__}") from None
