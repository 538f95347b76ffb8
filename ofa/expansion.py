"""Expansion: channels filled up with zeros to a multiple that hardware likes, without changing the function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ofa.arrays import IntArray
from ofa.backbone import as_call
from ofa.conversion import Binding, SpaceConfig
from ofa.groups import FIXED, Groups
from ofa.selection import Selector
from ofa.slicing import Change, Plan, full_size, reduced
from ofa.supernet import Supernet

TOLERANCE = 1e-5
HINT = "exclude the modules whose code holds a size"


def expanded(model: nn.Module, example_inputs: Any, multiple: int = 16, exclude: Sequence[Selector] = ()) -> nn.Module:
    """A copy of `model`, the user's own class, whose layers have multiples of `multiple` channels; new ones are zero.

    Channels stay as they are where they enter or leave the network, where a statistic runs over them, and where an
    operator holds them. The copy is in evaluation mode, on the device of `model`.

    >>> network = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> expanded(network, torch.zeros(1, 4), multiple=16)
    Sequential(
      (0): Linear(in_features=4, out_features=16, bias=True)
      (1): ReLU()
      (2): Linear(in_features=16, out_features=2, bias=True)
    )

    Raises:
        ValueError: `multiple` is below 1, or the expanded network does not run or computes another function, since its
            code holds a size that nothing tells: exclude such modules.
    """
    if multiple < 1:
        raise ValueError(f"channels are filled up to a multiple of at least 1, got {multiple}")
    space = SpaceConfig(width="multiples", kernel=False, depth=False, divisor=1, exclude=tuple(exclude), proof="quick")
    narrow = Supernet(model, example_inputs, space)
    found = narrow.conversion
    groups, units = found.groups, filled_up(found.groups, multiple)
    generator = torch.Generator().manual_seed(0)
    changes = (following(binding, groups, units) for binding in found.bindings)

    def enlarged(name: str, tensor: Tensor) -> Tensor:
        vectors = found.trace.parameters[name]
        sizes = [n if v is None else length(v, groups, units) for n, v in zip(tensor.shape, vectors, strict=True)]
        if sizes == list(tensor.shape):
            return tensor
        # Any numbers above zero: only the shape counts, until the weights are put in.
        return torch.rand(sizes, generator=generator).to(tensor)

    result = reduced(narrow.model, Plan({}, tuple(c for c in changes if c)), enlarged).eval()
    try:
        wide = Supernet(result, example_inputs, replace(space, exclude=()))
    except ValueError as error:
        raise ValueError(f"the expanded network does not run, {HINT}: {error}") from None
    result.load_state_dict(full_size(narrow.model.state_dict(), narrowing(wide, groups), result))
    check_equal(narrow.model.eval(), result, example_inputs)
    return result


def filled_up(groups: Groups, multiple: int) -> IntArray:
    """Units of every group, shape (groups,), when its channels are a multiple.

    >>> narrow = Supernet(nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 2)), torch.zeros(1, 4))
    >>> filled_up(narrow.conversion.groups, 16).tolist()
    [16]
    """
    units = groups.full
    for g, group in enumerate(groups.groups):
        if group.kind == "width" and group.exact:
            step = multiple // math.gcd(multiple, group.unit_size)
            units[g] = math.ceil(group.units / step) * step
    return units


def length(vector: IntArray, groups: Groups, units: IntArray) -> int:
    """The size of a dimension when every group has so many units.

    >>> narrow = Supernet(nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 2)), torch.zeros(1, 4)).conversion
    >>> outputs, inputs = narrow.trace.parameters["0.weight"]
    >>> length(outputs, narrow.groups, np.array([16])), length(inputs, narrow.groups, np.array([16]))
    (16, 4)
    """
    touched, counts = np.unique(groups.group_of[vector], return_counts=True)
    rows = zip(touched.tolist(), counts.tolist(), strict=True)
    return sum(n if g == FIXED else n // groups.groups[g].units * int(units[g]) for g, n in rows)


def following(binding: Binding, groups: Groups, units: IntArray) -> Change | None:
    """The value of an attribute that repeats a size; None where it stays.

    >>> narrow = Supernet(nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 2)), torch.zeros(1, 4)).conversion
    >>> following(narrow.bindings[0], narrow.groups, np.array([16]))
    Change(module='0', attribute='out_features', value=16)
    """
    return binding.valued([length(v, groups, units) for v in binding.use.vectors])


def narrowing(wide: Supernet, groups: Groups) -> Plan:
    """What makes the expanded network narrow again: the first units of every group.

    >>> narrow, wide = (
    ...     Supernet(nn.Sequential(nn.Linear(4, n), nn.Linear(n, 2)), torch.zeros(1, 4)) for n in (10, 16)
    ... )
    >>> narrowing(wide, narrow.conversion.groups).indices["0.bias"]
    (slice(0, 10, None),)

    Raises:
        ValueError: the expanded network has other groups.
    """
    before = {group.name: group.units for group in groups.groups}
    sizes = [before.get(group.name, group.units) for group in wide.conversion.groups.groups]
    return Plan(wide.conversion.slicer.indices(np.array(sizes or [0], dtype=np.int64)))


def check_equal(model: nn.Module, result: nn.Module, example_inputs: Any) -> None:
    """Refuse an expanded network that computes something else.

    >>> check_equal(nn.ReLU(), nn.Identity(), torch.tensor([-1.0]))
    Traceback (most recent call last):
        ...
    ValueError: the expanded network computes something else (1.0), exclude the modules whose code holds a size

    Raises:
        ValueError: the two networks differ on the example inputs.
    """
    args, kwargs = as_call(example_inputs)
    with torch.no_grad():
        outputs = [pytree.tree_leaves(net(*args, **kwargs)) for net in (model, result)]
    for a, b in zip(*outputs, strict=True):
        if isinstance(a, Tensor) and (a.shape != b.shape or not torch.allclose(a, b, TOLERANCE, TOLERANCE)):
            error = (a - b).abs().max().item() if a.shape == b.shape else f"{tuple(b.shape)} for {tuple(a.shape)}"
            raise ValueError(f"the expanded network computes something else ({error}), {HINT}")
