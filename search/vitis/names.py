"""Names of the Vitis AI Optimizer: nodes of its graph, as modules, and excludes in every syntax that there is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from ofa.selection import Selector, select

_NODE = re.compile(r"[^/]+/((?:[^/\[]*\[[^/\]]+\]/)+)[^/]*")

Excludes = Iterable[Selector] | Selector | None


def module_of(node: str) -> str:
    """The module of a node of Vitis' graph; what is no such name is given back as it is.

    "ResNet::ResNet/Sequential[layer1]/BasicBlock[0]/Conv2d[conv1]/input.3" is layer1.0.conv1.
    """
    found = _NODE.fullmatch(node)
    return node if found is None else ".".join(re.findall(r"\[([^\]]+)\]", found[1]))


def excluded(model: nn.Module, excludes: Excludes) -> dict[str, str]:
    """The names of the modules that `excludes` matches, and of those inside them, with which one: they are not pruned.

    Raises:
        ValueError: an exclude matches nothing; close names are shown.
        TypeError: an exclude is of another kind.
    """
    single = isinstance(excludes, (str, nn.Module, type)) or not isinstance(excludes, Iterable)
    given: Any = () if excludes is None else (excludes,) if single else excludes
    return select(model, [module_of(e) if isinstance(e, str) else e for e in given])


def in_groups(module: nn.Module) -> bool:
    """A convolution in groups of several channels; a depthwise one is none."""
    return isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups < module.in_channels


def is_depthwise(module: nn.Module) -> bool:
    """A convolution in which every channel is a group of its own."""
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1
