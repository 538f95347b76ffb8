"""Strands: channels of grouped convolutions, which are ranked inside each group.

A grouped convolution loses equally many channels of all its groups. Which of them go is free in each group: a unit
holds one channel of every group, at first those of equal position, then those of equal rank.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.groups.groups import Groups, connected
from ofa.tracing import Trace


def find_strands(model: nn.Module, trace: Trace, groups: Groups) -> None:
    """Note the strands of the groups whose units are held together by nothing but grouped convolutions, and whose
    tensors all hold them strand by strand, in order; where a channel shuffle lies between, units are ranked as wholes.
    """
    threads = connected(trace.labels.pairs, trace.labels.count)
    for g, group in enumerate(groups.groups):
        whole: list[IntArray] = []
        folded: list[tuple[str, IntArray, int]] = []
        for name, dim, _ in group.members:
            vector = trace.parameters[name][dim]
            assert vector is not None
            count = conv_groups(model, name)
            if count > 1 and dim == 1:
                folded.append((name, vector, count))
            else:
                whole.append(vector[groups.group_of[vector] == g])
        if group.kind == "width" and whole:
            strands = number(threads, groups.rank_of, whole, group.units)
            folds = {name: fold(vector, count, whole) for name, vector, count in folded}
            if strands is not None and all(row is not None for row in folds.values()):
                groups.strands[g] = int(strands.max()) + 1
                groups.folds.update({name: row for name, row in folds.items() if row is not None})
                for labels in whole:
                    groups.strand_of[labels] = strands[threads[labels]]


def number(threads: IntArray, rank_of: IntArray, whole: list[IntArray], units: int) -> IntArray | None:
    """For each thread its strand, by where it stands in the first tensor; None if there is one strand only, or a tensor
    does not hold all of them one after the other, units in order."""
    _, first = np.unique(threads[whole[0]], return_index=True)
    leaders = whole[0][np.sort(first)]
    strands, met = np.full(int(threads.max()) + 1, -1), np.zeros(units, dtype=np.int64)
    for label in leaders.tolist():
        strands[threads[label]] = met[rank_of[label]]
        met[rank_of[label]] += 1
    if met[0] < 2 or (met != met[0]).any():
        return None
    for labels in whole:
        places = strands[threads[labels]] * units + rank_of[labels]
        counts = np.bincount(np.maximum(places, 0), minlength=met[0] * units)
        if (strands[threads[labels]] < 0).any() or (np.diff(places) < 0).any() or (counts != counts[0]).any():
            return None
    return strands


def fold(vector: IntArray, count: int, whole: list[IntArray]) -> IntArray | None:
    """The labels behind the second dimension of a convolution's weight, (its groups, channels of a group)."""
    size = len(vector) * count
    return next((labels.reshape(count, -1) for labels in whole if len(labels) == size), None)


def conv_groups(model: nn.Module, name: str) -> int:
    """The number of groups of the convolution that a tensor belongs to; 1 if it is none."""
    return int(getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1))
