"""Channels of grouped convolutions, which are ranked inside each of the convolution's groups.

A grouped convolution loses equally many channels of all its groups. Which of them go is free in each: a unit holds one
channel of every convolution's group, at first those of equal position, then those of equal rank. A convolution of 8
channels in 2 groups has 4 units: (0, 4), (1, 5), (2, 6), (3, 7); with channels 1 and 6 the most important of their
groups, the first unit becomes (1, 6).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.groups.constraints import Constraints
from ofa.groups.groups import Groups
from ofa.tracing import Trace


def ranked_apart(model: nn.Module, trace: Trace, constraints: Constraints, groups: Groups) -> Groups:
    """The same groups, in which units that nothing but grouped convolutions hold together are ranked apart.

    All their tensors must hold them convolution's group by group, in order; where a channel shuffle lies between, units
    are ranked as wholes.

    >>> from ofa.groups import constrain, find_groups
    >>> from ofa.tracing import trace
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1))
    >>> flow = trace(network, (torch.zeros(1, 3, 8, 8),), {})
    >>> constraints = constrain(flow, stays=lambda name: None)
    >>> found = ranked_apart(network, flow, constraints, find_groups(flow, constraints))
    >>> [(group.name, group.units, found.conv_groups.get(g)) for g, group in enumerate(found.groups)]
    [('0.width', 4, 2), ('1.width', 4, 2)]
    """
    threads = constraints.thread_of
    conv_groups: dict[int, int] = {}
    folds: dict[str, IntArray] = {}
    conv_group_of = groups.conv_group_of.copy()
    for g, group in enumerate(groups.groups):
        whole: list[IntArray] = []
        folded: list[tuple[str, IntArray, int]] = []
        for name, dim, _ in group.members:
            vector = trace.parameters[name][dim]
            assert vector is not None
            count = groups_of(model, name)
            if count > 1 and dim == 1:
                folded.append((name, vector, count))
            else:
                whole.append(vector[groups.group_of[vector] == g])
        if group.kind == "width" and whole:
            numbers = number(threads, groups.rank_of, whole, group.units)
            rows = {name: fold(vector, count, whole) for name, vector, count in folded}
            if numbers is not None and all(row is not None for row in rows.values()):
                conv_groups[g] = int(numbers.max()) + 1
                folds.update({name: row for name, row in rows.items() if row is not None})
                for labels in whole:
                    conv_group_of[labels] = numbers[threads[labels]]
    return replace(groups, conv_groups=conv_groups, conv_group_of=conv_group_of, folds=folds)


def number(threads: IntArray, rank_of: IntArray, whole: list[IntArray], units: int) -> IntArray | None:
    """For each thread its convolution's group, by where it stands in the first tensor; None if there is one only, or a
    tensor does not hold all of them one after the other, units in order."""
    _, first = np.unique(threads[whole[0]], return_index=True)
    leaders = whole[0][np.sort(first)]
    numbers, met = np.full(int(threads.max()) + 1, -1), np.zeros(units, dtype=np.int64)
    for label in leaders.tolist():
        numbers[threads[label]] = met[rank_of[label]]
        met[rank_of[label]] += 1
    if met[0] < 2 or (met != met[0]).any():
        return None
    for labels in whole:
        places = numbers[threads[labels]] * units + rank_of[labels]
        counts = np.bincount(np.maximum(places, 0), minlength=met[0] * units)
        if (numbers[threads[labels]] < 0).any() or (np.diff(places) < 0).any() or (counts != counts[0]).any():
            return None
    return numbers


def fold(vector: IntArray, count: int, whole: list[IntArray]) -> IntArray | None:
    """The labels behind the second dimension of a convolution's weight, (its groups, channels of a group).

    >>> fold(np.arange(2), 2, [np.arange(10, 14)]).tolist()  # 4 inputs, 2 groups
    [[10, 11], [12, 13]]
    """
    size = len(vector) * count
    return next((labels.reshape(count, -1) for labels in whole if len(labels) == size), None)


def groups_of(model: nn.Module, name: str) -> int:
    """The number of groups of the convolution that a tensor belongs to; 1 if it is none.

    >>> groups_of(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0.weight"), groups_of(nn.Linear(4, 2), "weight")
    (2, 1)
    """
    return int(getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1))
