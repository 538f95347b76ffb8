"""Width choices as the Vitis AI Optimizer writes its groups: by the layers whose output channels they decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ofa import Choice, Subnet, Supernet
from search.curves import shares_of
from search.vitis.names import in_groups, module_of


@dataclass(frozen=True)
class Group:
    """A width choice, and the modules (`nodes`) whose outputs it decides."""

    choice: Choice
    nodes: tuple[str, ...]
    num_groups: int

    def to_json(self) -> dict[str, Any]:
        units = int(self.choice.largest)
        return {"nodes": list(self.nodes), "num_groups": self.num_groups, "units": units}

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of a file, ours or Vitis', is about this group."""
        nodes = {module_of(str(node)) for node in row["nodes"]}
        return bool(nodes & set(self.nodes)) and row.get("units", self.choice.largest) == self.choice.largest


def find_groups(supernet: Supernet) -> list[Group]:
    """The groups of a supernet, in the order of its width choices."""
    modules, largest = dict(supernet.model.named_modules()), supernet.space.largest
    found = []
    for choice in supernet.space.choices:
        if choice.kind == "width":
            indices = supernet.plan(largest.replace(**{choice.name: choice.smallest})).indices
            owners = {name: modules[name.rpartition(".")[0]] for name in indices if "." in name}
            made = [n for n, m in owners.items() if (axis := output_axis(m, len(indices[n]))) is not None
                    and indices[n][axis] is not None]  # fmt: skip
            nodes = tuple(dict.fromkeys(name.rpartition(".")[0] for name in made))
            count = max((getattr(modules[n], "groups", 1) for n in nodes if in_groups(modules[n])), default=1)
            found.append(Group(choice, nodes or (choice.name.removesuffix(".width"),), count))
    return found


def output_axis(module: nn.Module, ndim: int) -> int | None:
    """The dimension of a weight of `ndim` dimensions that holds the output channels; None where it makes none."""
    if ndim < 2:
        return None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return 0 if module.groups == module.in_channels else 1
    return 1 if isinstance(module, nn.Embedding) else 0


def option_at(choice: Choice, removed: float) -> int:
    """The option nearest to a share removed."""
    return int(choice.options[int(np.argmin(np.abs(shares_of(choice) - (1 - removed))))])


def share_removed(choice: Choice, option: int | str) -> float:
    return 1 - int(option) / int(choice.largest)


def subnet_of(supernet: Supernet, groups: Sequence[Group], rows: Iterable[tuple[Mapping[str, Any], float]]) -> Subnet:
    """The subnet of rows of a file, each with the share removed of its group; the other choices stay whole.

    Raises:
        ValueError: no row is about a group of this network.
    """
    removed = {g.choice.name: option_at(g.choice, share) for row, share in rows for g in groups if g.matches(row)}
    if not removed:
        raise ValueError("no group of the file is one of this network: its nodes are other layers")
    return supernet.space.largest.replace(**removed)
