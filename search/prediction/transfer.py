"""A new device from an old one: what each group of features took there, at another price here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ofa.search.objectives import Floats
from ofa.search.prediction.predictors import Fitted, Table, design, parts, solve

GROUPS = {"macs": ("macs",), "padding": ("padding",), "moved": ("bytes",), "calls": ("kernels", "operators")}
SHRINK = 0.1


@dataclass(frozen=True)
class Transferred:
    """What a network took on an old device, group of features by group, each times a scale of its own.

    The scales are drawn to the one by which the new device is slower on the whole, so that five networks are enough to
    begin with. The old device's own measurements are `table` and `latency_ms`.

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
        prices = solve(design(self.table, names), self.latency_ms, 0.03)
        group = np.array([0, *(_group(name) for name in names), *(len(GROUPS) + 1 for _ in range(99))])[: len(prices)]

        def shares(wanted: Table) -> Floats:
            columns = np.column_stack([np.ones(len(wanted)), design(wanted, names)]) * prices
            return np.stack([columns[:, group == g].sum(axis=1) for g in range(len(GROUPS) + 2)], axis=1)

        known = shares(table)
        slower = float(np.median(latency_ms / known.sum(axis=1)))
        scales = solve(known, latency_ms, SHRINK, np.concatenate([[0.0], np.full(known.shape[1], slower)]))
        return lambda wanted: shares(wanted) @ scales[1:] + scales[0]


def _group(name: str) -> int:
    """The place of a feature's group, from 1; weights, caches and what else there is stand behind."""
    found = (i for i, words in enumerate(GROUPS.values(), 1) if any(word in name for word in words))
    return len(GROUPS) + 1 if name == "weight_bytes" else next(found, len(GROUPS) + 1)
