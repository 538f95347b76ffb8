"""The best genome under limits on costs, as an integer program of options and of pairs of them (HiGHS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from ofa.arrays import FloatArray, IntArray
from ofa.space import Genome

Pair = tuple[int, int]
_SECONDS = 5.0


@dataclass(frozen=True)
class Sums:
    """A figure of a genome as a constant, a number for every option, and one for options of some pairs of choices.

    >>> sums = Sums(1.0, (np.array([0.0, 2.0]), np.array([0.0, 4.0])), {(0, 1): np.array([[0.0, 0.0], [0.0, 3.0]])})
    >>> sums(np.array([[1, 1], [0, 1]])).tolist()
    [10.0, 5.0]
    """

    constant: float
    single: tuple[FloatArray, ...]
    pairs: Mapping[Pair, FloatArray]

    def __call__(self, genomes: Genome) -> FloatArray:
        total = np.full(len(genomes), self.constant)
        for i, values in enumerate(self.single):
            total += values[genomes[:, i]]
        for (i, j), values in self.pairs.items():
            total += values[genomes[:, i], genomes[:, j]]
        return total


class Program:
    """An integer program: one variable an option, of which each choice takes one, and one a pair of options.

    What a pair of options is worth counts where both are taken: the variables of a pair of choices sum to those of
    the first over the options of the second, and the other way round, so that they follow from the choices.

    >>> worth = Sums(0.0, (np.array([0.0, 2.0]), np.array([0.0, 4.0])), {})
    >>> cost = Sums(1.0, (np.array([0.0, 1.0]), np.array([0.0, 1.0])), {})
    >>> Program(worth, [cost]).solve([2.0]).tolist()
    [0, 1]
    """

    def __init__(self, worth: Sums, costs: list[Sums]) -> None:
        self.counts = np.array([len(values) for values in worth.single], dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.costs = costs
        pairs = dict.fromkeys([*worth.pairs, *(pair for cost in costs for pair in cost.pairs)])
        sizes = np.array([self.counts[i] * self.counts[j] for i, j in pairs], dtype=np.int64)
        starts = self.first[-1] + np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.places = {pair: int(start) for pair, start in zip(pairs, starts[:-1], strict=True)}
        self.size = int(starts[-1])
        self.objective = -self._row(worth)
        self.rows = np.stack([self._row(cost) for cost in costs]) if costs else np.empty((0, self.size))
        self.structure, self.right = self._structure()

    def solve(self, limits: list[float]) -> Genome | None:
        """The best genome, (choices,), whose costs are at most `limits`; None where there is none, or time is up."""
        upper = np.array([limit - cost.constant for limit, cost in zip(limits, self.costs, strict=True)])
        scale = np.maximum(np.abs(self.rows).max(axis=1, initial=0), 1e-12)
        constraints = [LinearConstraint(self.structure, self.right, self.right)]
        if len(upper):
            constraints.append(LinearConstraint(self.rows / scale[:, None], -np.inf, upper / scale))
        whole = (np.arange(self.size) < self.first[-1]).astype(int)
        options = {"time_limit": _SECONDS, "mip_rel_gap": 1e-4}
        found = milp(self.objective, constraints=constraints, integrality=whole, bounds=Bounds(0, 1), options=options)
        if found.x is None:
            return None
        taken = [found.x[a:b].argmax() for a, b in zip(self.first[:-1], self.first[1:], strict=True)]
        return np.array(taken, dtype=np.int64)

    def _row(self, sums: Sums) -> FloatArray:
        row = np.zeros(self.size)
        row[: self.first[-1]] = np.concatenate(sums.single)
        for pair, values in sums.pairs.items():
            start = self.places[pair]
            row[start : start + values.size] = values.ravel()
        return row

    def _structure(self) -> tuple[sparse.csr_array, FloatArray]:
        """One option a choice; the variables of pairs follow from those of options."""
        rows, columns, values, right = list[int](), list[int](), list[float](), list[float]()

        def add(entries: IntArray, minus: int | None, total: float) -> None:
            number = len(right)
            taken = [*entries.tolist(), *([] if minus is None else [minus])]
            rows.extend([number] * len(taken))
            columns.extend(taken)
            values.extend([1.0] * len(entries) + ([] if minus is None else [-1.0]))
            right.append(total)

        for i in range(len(self.counts)):
            add(np.arange(self.first[i], self.first[i + 1]), None, 1.0)
        for (i, j), start in self.places.items():
            grid = start + np.arange(self.counts[i] * self.counts[j]).reshape(self.counts[i], self.counts[j])
            for a in range(int(self.counts[i])):
                add(grid[a], int(self.first[i]) + a, 0.0)
            for b in range(int(self.counts[j])):
                add(grid[:, b], int(self.first[j]) + b, 0.0)
        matrix = sparse.csr_array((values, (rows, columns)), shape=(len(right), self.size))
        return matrix, np.array(right)
