"""How many labels of a vector a subnet keeps, as formulas of the number of units that each group keeps."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ofa.arrays import FloatArray, IntArray
from ofa.groups import FIXED, Groups


class Sizes:
    """Sizes of vectors: labels that always stay and, for each group, a table over its number of units.

    >>> from ofa.groups import constrain, find_groups
    >>> from ofa.tracing import trace
    >>> flow = trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (torch.zeros(1, 4),), {})
    >>> sizes = Sizes(find_groups(flow, constrain(flow, stays=lambda name: None)))
    >>> outputs, inputs = flow.parameters["0.weight"]
    >>> sizes.add(outputs), sizes.add(inputs)  # the inputs of the network stay
    (0, None)
    >>> sizes.evaluate(np.array([[1], [3]])).tolist()
    [[1.0, 3.0], [1.0, 1.0]]
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self._known: dict[bytes, int] = {}
        self._fixed: list[int] = []
        self._tables: list[tuple[int, int, IntArray]] = []  # size, group, labels kept for each number of units

    def add(self, vector: IntArray) -> int | None:
        """Index of the vector's size, None where that never changes. To be called before the first `evaluate`."""
        group = self.groups.group_of[vector]
        touched = [g for g in np.unique(group).tolist() if g != FIXED]
        if not touched:
            return None
        key = vector.tobytes()
        if key not in self._known:
            size = self._known[key] = len(self._fixed)
            self._fixed.append(int((group == FIXED).sum()))
            for g in touched:
                per_rank = np.bincount(self.groups.rank_of[vector[group == g]], minlength=self.groups.groups[g].units)
                self._tables.append((size, g, np.concatenate([[0], np.cumsum(per_rank)])))
        return self._known[key]

    def evaluate(self, units: IntArray) -> FloatArray:
        """Every size, (sizes + 1, population), the last one 1, for `units` (population, groups) that are kept."""
        first, group, start, flat = self._flat
        kept = flat[start[:, None] + units.T[group]]  # (tables, population)
        sums = np.add.reduceat(kept, first, axis=0) + np.array(self._fixed)[:, None] if len(first) else kept
        return np.concatenate([sums, np.ones((1, len(units)))])

    @cached_property
    def _flat(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """For every size its first table; for every table its group and its start in one row of all; that row."""
        of = np.array([size for size, _, _ in self._tables], dtype=np.int64)
        group = np.array([g for _, g, _ in self._tables], dtype=np.int64)
        tables = [table for _, _, table in self._tables]
        start = np.cumsum([0, *map(len, tables)])[:-1]
        row = np.concatenate([np.zeros(0, dtype=np.int64), *tables])
        return np.flatnonzero(np.diff(of, prepend=-1)), group, start, row
