"""A new device from an old one: what each feature costs there, times how much slower this one is, to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ofa.search.objectives import Floats
from ofa.search.prediction.predictors import RIDGE, Fitted, Table, design, parts, solve


@dataclass(frozen=True)
class Transferred:
    """The physical predictor, its prices drawn to those of an old device, where few networks say nothing else.

    The old prices count by as much as the new device is slower on the whole. `table` and `latency_ms` are what was
    measured on the old one.

    >>> old = Table.of({"macs_conv": [1e6, 2e6, 4e6], "kernels": [10, 30, 20]})
    >>> there = Transferred(old, np.array([2.0, 5.0, 6.0]))
    >>> here = there.fit(old.rows([0, 2]), np.array([1.0, 3.0]))
    >>> here(old.rows([1])).round(1).tolist()
    [2.5]
    """

    name: ClassVar[str] = "transferred"
    table: Table
    latency_ms: Floats

    def fit(self, table: Table, latency_ms: Floats) -> Fitted:
        names = parts(self.table)
        old = solve(design(self.table, names), self.latency_ms, RIDGE)
        slower = float(np.median(latency_ms / (old[0] + design(table, names) @ old[1:])))
        prices = solve(design(table, names), latency_ms, RIDGE, slower * old)
        return lambda wanted: prices[0] + design(wanted, names) @ prices[1:]
