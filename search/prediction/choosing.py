"""Which networks to measure: those that tell most of all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.search.objectives import Floats
from ofa.search.prediction.predictors import RIDGE, Table, design, parts


def maximin(table: Table, number: int) -> list[int]:
    """Places of `number` networks: the two of least and most MACs, then always the one farthest from those taken.

    Distances are those of the features' logarithms, each on its own scale.

    >>> maximin(Table.of({"macs": [1e6, 2e6, 3e6, 64e6]}), 3)
    [0, 3, 2]
    """
    spread = table.logarithms.std(axis=0)
    points = table.logarithms[:, spread > 0] / spread[spread > 0]
    taken = list(dict.fromkeys([int(table.macs.argmin()), int(table.macs.argmax())]))[:number]
    nearest = np.min([_distance(points, i) for i in taken], axis=0)
    while len(taken) < min(number, len(table)):
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distance(points, taken[-1]))
    return taken


def d_optimal(table: Table, latency_ms: Floats, taken: Sequence[int], number: int) -> list[int]:
    """Places of `number` more networks, each the one of whose time the physical predictor is least certain by then.

    `latency_ms` are those of all, measured or predicted.

    >>> table = Table.of({"macs_conv": [1e6, 2e6, 3e6, 1e6], "kernels": [9, 18, 27, 90]})
    >>> d_optimal(table, np.array([1.0, 2.0, 3.0, 4.0]), [0], 1)  # the only one with other shares
    [3]
    """
    columns = np.column_stack([np.ones(len(table)), design(table, parts(table))]) / latency_ms[:, None]
    rows = columns / np.where(columns.max(axis=0) > 0, columns.max(axis=0), 1.0)
    known, free, more = rows[list(taken)], np.ones(len(table), dtype=bool), list[int]()
    free[list(taken)] = False
    inverse = np.linalg.inv(known.T @ known + RIDGE * np.eye(rows.shape[1]))
    while len(more) < number and free.any():
        doubt = np.where(free, np.einsum("ij,jk,ik->i", rows, inverse, rows), -1.0)
        more.append(best := int(doubt.argmax()))
        free[best] = False
        step = inverse @ rows[best]
        inverse -= np.outer(step, step) / (1 + doubt[best])
    return more


def _distance(points: Floats, place: int) -> Floats:
    distance: Floats = np.linalg.norm(points - points[place], axis=1)
    return distance
