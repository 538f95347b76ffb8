"""Strands: the channels of a unit that runs through every group of a grouped convolution, ranked inside each group.

A grouped convolution loses equally many channels of all its groups. Which of them go is free in each group: a unit
holds one channel of every group, at first those of equal position, then those of equal rank.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.groups import Groups
from ofa.importance import Vectors


def find_strands(model: nn.Module, groups: Groups, vectors: Vectors) -> None:
    """Note the strands of the groups whose tensors all hold their channels strand by strand, in order; where a channel
    shuffle or another layout lies between, units are ranked as wholes."""
    for g, group in enumerate(groups.groups):
        whole: list[IntArray] = []
        folded: list[str] = []
        strands = max((count for _, _, count in group.members), default=1)
        for name, dim, count in group.members:
            vector = vectors[name][dim]
            assert vector is not None
            ordered = np.array_equal(groups.rank_of[vector], np.tile(np.arange(group.units), count))
            if not ordered or (groups.group_of[vector] != g).any():
                break
            if count == strands:
                whole.append(vector.reshape(strands, -1))
            elif (count, dim, conv_groups(model, name)) == (1, 1, strands):
                folded.append(name)
            else:
                break
        else:
            if folded and strands > 1 and group.kind == "width":
                groups.folds.update(dict.fromkeys(folded, whole[0]))
                for labels in whole:
                    groups.strand_of[labels] = np.arange(strands)[:, None]


def conv_groups(model: nn.Module, name: str) -> int:
    """The number of groups of the convolution that a tensor belongs to; 1 if it is none."""
    return int(getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1))
