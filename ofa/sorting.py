"""Order units by importance, in place: a narrower width is then a prefix that holds the units that matter most."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ofa.arrays import FloatArray, IntArray
from ofa.groups import FIXED, Groups
from ofa.importance import Measure, Vectors, importance, named
from ofa.slicing import Index, permute
from ofa.strands import align


def sort_units(
    model: nn.Module,
    groups: Groups,
    vectors: Vectors,
    measure: str | Measure,
    indices: Mapping[str, Sequence[Index]],
    sizes: IntArray,
) -> None:
    """Permute every coupled parameter and buffer so that the units of each width group descend in importance.

    Only the first `sizes`, (groups,), of a group are put in order; kernels keep their places. The permutation is the
    same along everything that is coupled, so the network computes the same function. Channels of grouped convolutions
    are ranked inside each of their groups.
    """
    aligned = align(model, groups, vectors, named(measure), indices)
    orders = orders_of(groups, importance(model, groups, vectors, measure, indices), sizes, aligned)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            for dim, vector in enumerate(vectors[name]):
                if vector is not None:
                    permute(tensor, dim, source_positions(vector, groups, orders))


def rank_units(
    model: nn.Module,
    groups: Groups,
    vectors: Vectors,
    measure: str | Measure,
    indices: Mapping[str, Sequence[Index]],
    sizes: IntArray,
) -> None:
    """Let the units of each width group descend in importance by their ranks alone: no weight moves.

    Only the first `sizes`, (groups,), of a group are put in order; kernels keep their ranks. Grouped convolutions keep
    equal positions of all their groups.
    """
    orders = orders_of(groups, importance(model, groups, vectors, measure, indices), sizes)
    for g, order in enumerate(orders):
        mine, place = groups.group_of == g, np.empty_like(order)
        place[order] = np.arange(len(order))
        groups.rank_of[mine] = place[groups.rank_of[mine]]


def orders_of(
    groups: Groups, scores: Sequence[FloatArray], sizes: IntArray, ordered: Container[int] = ()
) -> list[IntArray]:
    """For each group its first `sizes` units from the most to the least important, then the others as they are; kernels
    and the groups that are `ordered` stay."""
    orders = []
    for g, (group, score) in enumerate(zip(groups.groups, scores, strict=True)):
        size = int(sizes[g]) if group.kind == "width" and g not in ordered else 0
        orders.append(np.concatenate([np.argsort(-score[:size], kind="stable"), np.arange(size, group.units)]))
    return orders


def source_positions(vector: IntArray, groups: Groups, orders: Sequence[IntArray]) -> IntArray:
    """Where each position of a vector takes its new content from."""
    source = np.arange(len(vector))
    group_of, rank_of = groups.group_of[vector], groups.rank_of[vector]
    for g in np.unique(group_of).tolist():
        if g == FIXED:
            continue
        positions = np.flatnonzero(group_of == g)
        by_rank = positions[np.argsort(rank_of[positions], kind="stable")]
        table = by_rank.reshape(groups.groups[g].units, -1)  # (units, positions of a unit)
        source[table.ravel()] = table[orders[g]].ravel()
    return source
