"""Candidates that a user's own function scores: the network itself, switched to a subnet for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ofa import Subnet, Supernet
from ofa.slicing import find_modules, find_owners, installed, take

Function = Callable[..., Any]
Store = dict[str, Any]


@contextmanager
def lent(supernet: Supernet, subnet: Subnet) -> Iterator[nn.Module]:
    """The supernet's own network as `subnet`, of the user's class and free to be called, moved and calibrated.

    Its parameters are slices, its buffers copies; everything is put back afterwards, attributes of modules too.
    """
    model, plan = supernet.model, supernet.plan(subnet)
    modules, attributes = find_modules(model), [(module, dict(module.__dict__)) for module in model.modules()]
    undo: list[tuple[Store, str, Any]] = []
    for name, places in find_owners(model).items():
        for module, local in places:
            store: Store = module._parameters if module._parameters.get(local) is not None else module._buffers
            undo.append((store, local, store[local]))
        part = slice_as(undo[-1][2], plan.indices.get(name, ()))
        for store, local, _ in undo[-len(places) :]:
            store[local] = part
    try:
        with installed(modules, {}, {}, plan.changes, plan.skipped):
            yield model
    finally:
        for store, local, whole in undo:
            store[local] = whole
        for module, own in attributes:
            module.__dict__.clear()
            module.__dict__.update(own)


def slice_as(tensor: Tensor, index: Any) -> Tensor:
    """The kept part, as a parameter if the whole is one; a buffer's is a copy."""
    part = take(tensor.detach(), index)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(part.contiguous(), tensor.requires_grad)
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
            self.keep(subnet, {n: after[n].detach().cpu() for n, b in before.items() if not torch.equal(b, after[n])})


def number(value: Any, function: str) -> float:
    """A score as a number.

    Raises:
        TypeError: it is none.
    """
    try:
        return float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{function} returns a number or a tensor of one element, got {type(value).__name__}") from None
