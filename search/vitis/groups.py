"""Width choices as the Vitis AI Optimizer writes its groups: by the layers whose output channels they decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ofa import Choice, SearchSpace, Subnet, Supernet
from ofa.search.problem import Costs
from ofa.search.pruning import shares_of
from ofa.search.vitis.names import in_groups, is_depthwise, module_of


@dataclass(frozen=True)
class Group:
    """A width choice, and the modules (`nodes`) whose outputs it decides.

    `members` are all that have its channels as outputs, normalisations too. `num_groups` counts those of a convolution
    in groups among the nodes; `grouped`: one of these is sliced along any side.
    """

    choice: Choice
    nodes: tuple[str, ...]
    num_groups: int = 1
    grouped: bool = False
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.choice.name

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
            axes = {name: output_axis(module, len(indices[name])) for name, module in owners.items()}
            made = [name for name, axis in axes.items() if axis is not None and indices[name][axis] is not None]
            flat = [name for name, index in indices.items() if len(index) == 1 and name in owners]
            members = tuple(dict.fromkeys(name.rpartition(".")[0] for name in (*made, *flat)))
            nodes = tuple(dict.fromkeys(name.rpartition(".")[0] for name in made))
            count = max((getattr(modules[n], "groups", 1) for n in nodes if in_groups(modules[n])), default=1)
            grouped = any(in_groups(module) for module in owners.values())
            found.append(Group(choice, nodes or (choice.name.removesuffix(".width"),), count, grouped, members))
    return found


def open_groups(groups: Iterable[Group], excluded: Iterable[str], with_group_conv: bool) -> list[Group]:
    """The groups that may be pruned: none of their layers is excluded, nor in groups, unless these may be pruned."""
    names = set(excluded)
    return [g for g in groups if not names & {*g.nodes, *g.members} and (with_group_conv or not g.grouped)]


def open_space(space: SearchSpace, names: Iterable[str]) -> SearchSpace:
    """The part of a space in which only the named choices are left; all others are at their largest."""
    kept = set(names)
    return space.restrict({c.name: [c.largest] for c in space.choices if c.name not in kept})


def part_costs(supernet: Supernet, part: SearchSpace) -> Costs:
    """Costs of genomes of a part of the space."""
    return lambda genomes: supernet.costs(supernet.space.lifted(genomes, part))


def output_axis(module: nn.Module, ndim: int) -> int | None:
    """The dimension of a weight of `ndim` dimensions that holds the output channels; None where it makes none."""
    if ndim < 2:
        return None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return 0 if is_depthwise(module) else 1
    return 1 if isinstance(module, nn.Embedding) else 0


def option_at(choice: Choice, removed: float) -> int:
    """The option nearest to a share removed."""
    return int(choice.options[int(np.argmin(np.abs(shares_of(choice) - (1 - removed))))])


def share_removed(choice: Choice, option: int | str) -> float:
    return 1 - int(option) / int(choice.largest)


def subnet_of(
    supernet: Supernet,
    groups: Sequence[Group],
    rows: Iterable[tuple[Mapping[str, Any], float]],
    opened: Sequence[Group] | None = None,
) -> Subnet:
    """The subnet of rows of a file, each with the share removed of its group; of `groups` only those `opened` shrink.

    Raises:
        ValueError: a row is about no group of this network, or its share is outside [0, 1).
    """
    removed: dict[str, int] = {}
    for row, share in rows:
        if not 0 <= share < 1:
            raise ValueError(f"the share removed of a group lies in [0, 1), got {share} of {row['nodes']}")
        found = [group for group in groups if group.matches(row)]
        if share and not found:
            units = f" of {row['units']} units" if "units" in row else ""
            raise ValueError(f"{row['nodes']} of the file{units} is no group of this network: its layers are others")
        removed |= {g.name: option_at(g.choice, share) for g in found if opened is None or g in opened}
    return supernet.space.largest.replace(**removed)
