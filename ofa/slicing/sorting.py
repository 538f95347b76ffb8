"""Order units by importance: a narrower width is then a prefix of them that holds the units that matter most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ofa.arrays import IntArray
from ofa.groups import FIXED, Groups
from ofa.slicing.importance import Measure, Vectors, unit_scores
from ofa.slicing.slices import Index, permute


def rank_units(
    model: nn.Module,
    groups: Groups,
    vectors: Vectors,
    measure: str | Measure,
    indices: Mapping[str, Sequence[Index]],
    sizes: IntArray,
) -> Groups:
    """The same groups, in which the units of every width descend in importance by their ranks alone: no weight moves.

    Only the first `sizes`, (groups,), of a group are put in order; kernels keep their ranks. Channels of grouped
    convolutions are ranked inside each of their groups. Units of importance 1, 3, 2 get the ranks 2, 0, 1.

    >>> from ofa import Supernet
    >>> network = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> for layer in network:
    ...     layer.weight = nn.Parameter(torch.tensor([1.0, 3.0, 2.0]).view_as(layer.weight))
    >>> found = Supernet(network, torch.zeros(1, 1)).conversion
    >>> labels = found.trace.parameters["0.weight"][0]
    >>> rank_units(network, found.groups, found.trace.parameters, "l1", {}, np.array([3])).rank_of[labels].tolist()
    [2, 0, 1]
    """
    ranks = groups.rank_of.copy()
    scores = unit_scores(model, groups, vectors, measure, indices)
    for g, (group, rows) in enumerate(zip(groups.groups, scores, strict=True)):
        size = int(sizes[g]) if group.kind == "width" else 0
        mine = groups.group_of == g
        for one, row in enumerate(rows):
            order = np.concatenate([np.argsort(-row[:size], kind="stable"), np.arange(size, group.units)])
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            labels = mine & (groups.conv_group_of == one)
            ranks[labels] = place[ranks[labels]]
    return groups.ranked(ranks)


def move_units(model: nn.Module, groups: Groups, vectors: Vectors) -> Groups:
    """Permute every coupled parameter and buffer, in place, so that the places in a tensor follow the ranks.

    The permutation is the same along everything that is coupled, so the network computes the same function. Gives the
    groups with ranks by position.

    >>> from ofa import Supernet
    >>> network = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> for layer in network:
    ...     layer.weight = nn.Parameter(torch.tensor([1.0, 3.0, 2.0]).view_as(layer.weight))
    >>> found = Supernet(network, torch.zeros(1, 1)).conversion
    >>> ranked = rank_units(network, found.groups, found.trace.parameters, "l1", {}, np.array([3]))
    >>> _ = move_units(network, ranked, found.trace.parameters)
    >>> network[0].weight.flatten().tolist(), network[1].weight.flatten().tolist()
    ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0])
    """
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            for dim, vector in enumerate(vectors[name]):
                if vector is not None:
                    labels = groups.labels_along(name, dim, vector)
                    for block, row in zip(tensor.chunk(len(labels)), labels, strict=True):
                        permute(block, dim, sources(row, groups))
    return groups.ranked(groups.home_of)


def sources(labels: IntArray, groups: Groups) -> IntArray:
    """Where each place takes its new content from: what has a rank goes where that rank was at first.

    Places of ranks 2, 0, 1 take theirs from 1, 2, 0.
    """
    source, elastic = np.arange(len(labels)), np.flatnonzero(groups.group_of[labels] != FIXED)
    mine = labels[elastic]
    now, then = (np.lexsort((ranks[mine], groups.group_of[mine])) for ranks in (groups.rank_of, groups.home_of))
    source[elastic[then]] = elastic[now]
    return source
