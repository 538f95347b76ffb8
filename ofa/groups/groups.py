"""Channel groups: units with the same signature form one width choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ofa.arrays import IntArray
from ofa.groups.constraints import Constraints
from ofa.tracing import Trace

FIXED = -1


@dataclass(frozen=True)
class ChannelGroup:
    """Units that are interchangeable: `members` are the (parameter, dimension, indices per unit) that they own.

    `exact` is False where a statistic over the channels makes slicing different from zeroing; `stream` is True where
    several layers' outputs are added, as on a residual stream.

    >>> group = ChannelGroup("0.width", "width", 8, 1, (("0.weight", 0, 1), ("1.weight", 1, 1)), True, False)
    >>> sorted({name for name, dim, number in group.members})
    ['0.weight', '1.weight']
    """

    name: str
    kind: Literal["width", "kernel"]
    units: int
    unit_size: int
    members: tuple[tuple[str, int, int], ...]
    exact: bool
    stream: bool


@dataclass(frozen=True)
class Groups:
    """The groups of a network, and for each label its group (FIXED if it stays) and its unit's rank in that group.

    A unit is kept when its rank is below the number of units that its group keeps: of a group of 4 units that keeps 2,
    those of ranks 0 and 1. `home_of` are the ranks at first, by position, `rank_of` those by importance, once a
    supernet is sorted and no weight was moved.

    Channels of grouped convolutions are ranked apart in each of the convolution's groups: `conv_groups` says for which
    groups, and in how many, `conv_group_of` in which one a label lies. `folds` are the weights of grouped convolutions
    with such inputs: the labels, (convolution's groups, channels of a group), along their second dimension.

    >>> from ofa.groups import constrain
    >>> from ofa.tracing import trace
    >>> flow = trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (torch.zeros(1, 4),), {})
    >>> found = find_groups(flow, constrain(flow, stays=lambda name: None))
    >>> outputs, inputs = flow.parameters["0.weight"]
    >>> found.kept(outputs, np.array([2])).tolist(), found.kept(inputs, np.array([2])).tolist()
    ([True, True, False], [True, True, True, True])
    """

    groups: tuple[ChannelGroup, ...]
    group_of: IntArray
    home_of: IntArray
    rank_of: IntArray
    conv_group_of: IntArray
    conv_groups: Mapping[int, int] = field(default_factory=dict)
    folds: Mapping[str, IntArray] = field(default_factory=dict)

    def kept(self, vector: IntArray, sizes: IntArray) -> npt.NDArray[np.bool_]:
        """Which labels of a vector stay when group g keeps sizes[g] units."""
        group = self.group_of[vector]
        return np.asarray((group == FIXED) | (self.rank_of[vector] < sizes[group]))

    def along(self, vector: IntArray | None) -> list[int]:
        """The groups of a vector's labels."""
        return [] if vector is None else [g for g in np.unique(self.group_of[vector]).tolist() if g != FIXED]

    def ranked(self, rank_of: IntArray) -> Groups:
        """The same groups with other ranks."""
        return replace(self, rank_of=rank_of)

    def shuffled(self, rng: np.random.Generator) -> Groups:
        """Random ranks in every group of a grouped convolution."""
        ranks = self.rank_of.copy()
        for g, number in self.conv_groups.items():
            for one in range(number):
                mine = (self.group_of == g) & (self.conv_group_of == one)
                ranks[mine] = rng.permutation(self.groups[g].units)[ranks[mine]]
        return self.ranked(ranks)

    def as_wholes(self, indices: Iterable[int]) -> Groups:
        """The same with units of some groups that are ranked as wholes, not apart in groups of convolutions."""
        whole = set(indices)
        apart = np.where(np.isin(self.group_of, list(whole)), 0, self.conv_group_of)
        folded = {name for g in whole for name, dim, _ in self.groups[g].members if dim == 1}
        return replace(
            self,
            conv_group_of=apart,
            conv_groups={g: number for g, number in self.conv_groups.items() if g not in whole},
            folds={name: labels for name, labels in self.folds.items() if name not in folded},
        )

    def labels_along(self, name: str, dim: int, vector: IntArray) -> IntArray:
        """The labels of a tensor's dimension, (blocks of rows, places): several blocks where rows of a grouped
        convolution's weight have other inputs."""
        return self.folds[name] if dim == 1 and name in self.folds else vector[None]

    def varies(self, vector: IntArray) -> bool:
        """Whether the number of kept labels depends on the sizes, unit by unit."""
        group = self.group_of[vector]
        elastic = group != FIXED
        ranks = set(zip(group[elastic].tolist(), self.rank_of[vector][elastic].tolist(), strict=True))
        return len(ranks) > 1

    @property
    def full(self) -> IntArray:
        return np.array([g.units for g in self.groups] or [0], dtype=np.int64)


def find_groups(trace: Trace, constraints: Constraints) -> Groups:
    """Units of one signature form a group: they own equally many indices along the same dimensions.

    >>> from ofa.groups import constrain
    >>> from ofa.tracing import trace
    >>> flow = trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (torch.zeros(1, 4),), {})
    >>> [group] = find_groups(flow, constrain(flow, stays=lambda name: None)).groups
    >>> group.name, group.units, group.members
    ('0.width', 3, (('0.weight', 0, 1), ('0.bias', 0, 1), ('1.weight', 1, 1)))
    """
    builder = _Builder(trace, constraints)
    builder.add_kernels()
    builder.add_widths()
    return builder.build()


class _Builder:
    def __init__(self, trace: Trace, constraints: Constraints) -> None:
        self.trace, self.unit_of = trace, constraints.unit_of
        self.mixed, self.summed = constraints.mixed, constraints.summed
        self.fixed = constraints.fixed | ~constraints.useful
        fixed = self.fixed
        self.group_of_unit = np.full(len(fixed), FIXED, dtype=np.int64)
        self.rank_of_unit = np.zeros(len(fixed), dtype=np.int64)
        self.groups: list[ChannelGroup] = []
        self.names: set[str] = set()

    def add(self, name: str, kind: Literal["width", "kernel"], ordered: IntArray, unit_size: int) -> None:
        self.group_of_unit[ordered] = len(self.groups)
        self.rank_of_unit[ordered] = np.arange(len(ordered))
        name = unique(f"{name}.{kind}", self.names)
        exact, stream = not bool(self.mixed[ordered].any()), bool(self.summed[ordered].any())
        self.groups.append(ChannelGroup(name, kind, len(ordered), unit_size, (), exact, stream))

    def add_kernels(self) -> None:
        for kernel in self.trace.kernels:
            units, size = self.unit_of[kernel.vector], len(kernel.vector)
            if self.fixed[units].any() or len(set(units.tolist())) < size:
                continue
            if (self.group_of_unit[units] != FIXED).any() or not (kernel.same_padding or not self.mixed[units].any()):
                continue
            centre_out = np.argsort(np.abs(np.arange(size) - size // 2), kind="stable")
            self.add(kernel.module, "kernel", units[centre_out], 1)
            self.fixed[units] = True

    def add_widths(self) -> None:
        signature = np.zeros(len(self.fixed), dtype=np.uint64)
        salt = np.random.default_rng(0)
        leaders: dict[int, tuple[int, str, IntArray]] = {}
        for vectors in self.trace.parameters.values():
            for vector in vectors:
                key = salt.integers(1, 2**63, dtype=np.uint64)
                if vector is None:
                    continue
                units, counts = np.unique(self.unit_of[vector], return_counts=True)
                signature[units] += key * (counts.astype(np.uint64) * np.uint64(2654435761) + np.uint64(1))
        for name, vectors in self.trace.parameters.items():
            for dim, vector in enumerate(vectors):
                if vector is None:
                    continue
                units = self.unit_of[vector]
                leads = 0 if dim == 0 and sum(v is not None for v in vectors) > 1 else 1
                for code in np.unique(signature[units[~self.fixed[units]]]).tolist():
                    if code not in leaders or leads < leaders[code][0]:
                        leaders[code] = (leads, name, vector)
        for code, (_, name, vector) in leaders.items():
            units = self.unit_of[vector]
            mine = units[(signature[units] == np.uint64(code)) & ~self.fixed[units]]
            _, first = np.unique(mine, return_index=True)
            ordered = mine[np.sort(first)]
            if len(ordered) > 1:
                self.add(name.rpartition(".")[0] or name, "width", ordered, len(mine) // len(ordered))

    def build(self) -> Groups:
        members: list[list[tuple[str, int, int]]] = [[] for _ in self.groups]
        for name, vectors in self.trace.parameters.items():
            for dim, vector in enumerate(vectors):
                if vector is None:
                    continue
                owners, counts = np.unique(self.group_of_unit[self.unit_of[vector]], return_counts=True)
                for g, count in zip(owners.tolist(), counts.tolist(), strict=True):
                    if g != FIXED:
                        members[g].append((name, dim, count // self.groups[g].units))
        groups = tuple(
            ChannelGroup(g.name, g.kind, g.units, g.unit_size, tuple(m), g.exact, g.stream)
            for g, m in zip(self.groups, members, strict=True)
        )
        ranks = self.rank_of_unit[self.unit_of]
        return Groups(groups, self.group_of_unit[self.unit_of], ranks, ranks, np.zeros_like(ranks))


def unique(name: str, taken: set[str]) -> str:
    candidate, n = name, 2
    while candidate in taken:
        candidate, n = f"{name}{n}", n + 1
    taken.add(candidate)
    return candidate
