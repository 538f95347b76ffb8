"""How sure figures of networks are: intervals, what is told apart, what one split says of another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ofa.search.objectives import Objective, found

Metrics = Mapping[str, float]
Ends = tuple[float, float]
LOW, HIGH = "_low", "_high"
VALIDATION = "validation_"


def bounded(metrics: Metrics, among: Iterable[Objective], samples: int) -> dict[str, float]:
    """The ends of the 95 % interval of each figure that so many samples gave, as `<name>_low` and `<name>_high`.

    >>> ends = bounded({"accuracy": 98.0, "macs": 1e6}, [], samples=500)
    >>> {name: round(end, 1) for name, end in ends.items()}
    {'accuracy_low': 96.4, 'accuracy_high': 98.9}
    """
    known = {name: found(name, among) for name in metrics}
    ends = {name: objective.interval(metrics[name], samples) for name, objective in known.items() if objective}
    return {
        f"{n}{end}": value for n, pair in ends.items() if pair for end, value in zip((LOW, HIGH), pair, strict=True)
    }


def ends_of(metrics: Metrics, name: str) -> Ends | None:
    """The interval of a figure, where its metrics have one.

    >>> ends_of({"accuracy": 98.0, "accuracy_low": 96.4, "accuracy_high": 98.9}, "accuracy")
    (96.4, 98.9)
    """
    low, high = metrics.get(f"{name}{LOW}", math.nan), metrics.get(f"{name}{HIGH}", math.nan)
    return (low, high) if low <= high else None


def overlap(one: Metrics, other: Metrics, name: str) -> bool:
    """Whether the intervals of two figures have a value in common; False where one has none."""
    a, b = ends_of(one, name), ends_of(other, name)
    return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]


def shrinkage(rows: Sequence[Metrics], name: str = "accuracy") -> str:
    """What became of the figures that networks were chosen by, in a line; empty for fewer than three networks.

    Those that a search takes are the best and the luckiest, so that their figures shrink on another split.

    >>> rows = [{"accuracy": 90.0, "validation_accuracy": 91.0}, {"accuracy": 93.0, "validation_accuracy": 95.0},
    ...     {"accuracy": 95.0, "validation_accuracy": 96.0}]
    >>> shrinkage(rows)
    'from validation to test: -1.33 points on average over 3 networks, rank correlation 1.00'
    """
    pairs = [(row[f"{VALIDATION}{name}"], row[name]) for row in rows if f"{VALIDATION}{name}" in row and name in row]
    if len(pairs) < 3:
        return ""
    from scipy.stats import spearmanr  # slow to import

    before, after = np.array(pairs).T
    line = f"from validation to test: {np.mean(after - before):+.2f} points on average over {len(pairs)} networks"
    tied = np.ptp(before) == 0 or np.ptp(after) == 0
    return line if tied else f"{line}, rank correlation {spearmanr(before, after).statistic:.2f}"
