"""Constraints: which labels are one unit, which units stay, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ofa.arrays import IntArray
from ofa.tracing import Trace

Flags = npt.NDArray[np.bool_]
Pair = tuple[IntArray, IntArray]
ROUNDS = 8  # of making views rectangular


@dataclass(frozen=True)
class Constraints:
    """What is demanded of the labels of a trace, solved: labels that are tied are one unit.

    `unit_of`, (labels,), gives the unit of each label, `reasons` why units stay, by unit. Flags by unit: `useful` ones
    are counted by a contraction, `mixed` ones by a statistic, `summed` ones lie where several layers add up.
    `thread_of` is like `unit_of` without what grouped convolutions tie.

    A layer of 2 units that ends in an addition with the input: labels 1 and 2 are tied to 0 and stay.

    >>> from ofa.tracing import trace
    >>> class Residual(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(2, 2)
    ...     def forward(self, x):
    ...         return x + self.layer(x)
    >>> found = constrain(trace(Residual(), (torch.zeros(1, 2),), {}), stays=lambda name: None)
    >>> found.fixed[found.unit_of[[1, 2]]].tolist()
    [True, True]
    """

    unit_of: IntArray
    thread_of: IntArray
    reasons: Mapping[int, str]
    useful: Flags
    mixed: Flags
    summed: Flags

    @cached_property
    def fixed(self) -> Flags:
        """The units that stay: those of a reason, and that of label 0, which stands for all fixed sizes."""
        flags = np.zeros(len(self.useful), dtype=bool)
        flags[[int(self.unit_of[0]), *self.reasons]] = True
        return flags

    def why(self, vector: IntArray) -> str | None:
        """Why one of these labels stays; None if nothing makes it."""
        return next((self.reasons[u] for u in self.unit_of[vector].tolist() if u in self.reasons), None)


def constrain(trace: Trace, stays: Callable[[str], str | None], ties: Iterable[Pair] = ()) -> Constraints:
    """Solve what the operators demand, with more pairs of labels that are to be tied.

    `stays` gives the reason why a parameter must stay as it is, or None.

    >>> from ofa.tracing import trace
    >>> network = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))
    >>> flow = trace(network, (torch.zeros(1, 4),), {})
    >>> found = constrain(flow, stays=lambda name: "it is mine" if name == "0.bias" else None)
    >>> found.why(flow.parameters["1.weight"][1])  # the inputs of the second layer are the outputs of the first
    'it is mine'
    """
    pairs = [*trace.demands.pairs, *ties]
    unit_of = components(trace, pairs)
    count = int(unit_of.max()) + 1
    excluded = (
        (vector, reason)
        for name, vectors in trace.parameters.items()
        if (reason := stays(name)) is not None
        for vector in vectors
        if vector is not None
    )
    reasons: dict[int, str] = {}
    for labels, why in (*trace.demands.frozen, *excluded):
        for unit in np.unique(unit_of[labels]).tolist():
            reasons.setdefault(unit, why)
    return Constraints(
        unit_of,
        connected(pairs, trace.demands.count),
        reasons,
        flags(unit_of, count, (vector for term in trace.macs for vector in term.vectors)),
        flags(unit_of, count, trace.demands.mixed),
        flags(unit_of, count, trace.demands.summed),
    )


def flags(unit_of: IntArray, count: int, rows: Iterable[IntArray]) -> Flags:
    """Which of `count` units some labels belong to.

    >>> flags(np.array([0, 1, 1, 2]), 3, [np.array([1, 2])]).tolist()  # labels 1 and 2 are of unit 1
    [False, True, False]
    """
    found = np.zeros(count, dtype=bool)
    for labels in rows:
        found[unit_of[labels]] = True
    return found


def components(trace: Trace, pairs: list[Pair]) -> IntArray:
    """The unit of every label; views that split channels are made rectangular before, by `pairs` that are added."""
    demands = trace.demands
    unit_of = connected([*pairs, *demands.across], demands.count)
    for _ in range(ROUNDS):
        before = len(pairs)
        changed = np.zeros(demands.count, dtype=bool)
        for layer in demands.rectangles:
            if not changed[layer].any():  # else its units are other ones now: next round
                tied = rectangular(unit_of[layer], layer)
                changed[layer] = tied is not None
                pairs += [] if tied is None else [tied]
        if len(pairs) == before:
            break
        unit_of = connected([*pairs, *demands.across], demands.count)
    return unit_of


def connected(pairs: Sequence[tuple[IntArray, IntArray]], count: int) -> IntArray:
    """For each of `count` labels the number of its connected component.

    >>> connected([(np.array([1, 2]), np.array([2, 3]))], 5).tolist()  # 1, 2 and 3 are one component
    [0, 1, 1, 1, 2]
    """
    empty = np.zeros(0, dtype=np.int64)
    left = np.concatenate([a for a, _ in pairs] or [empty])
    right = np.concatenate([b for _, b in pairs] or [empty])
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    _, found = connected_components(graph, directed=False)
    return np.asarray(found, dtype=np.int64)


def rectangular(units: IntArray, labels: IntArray) -> Pair | None:
    """The tie that makes what is kept of a layer over several dimensions a block; None if it is one.

    Its units may differ along one dimension only. Where nothing has decided yet (a channel shuffle's view), equal
    positions along the outer dimensions are one unit; where that would leave a single unit (heads that share one
    projection), the dimension that leaves most is kept.

    >>> shuffle = np.array([[1, 2], [3, 4]])  # nothing is tied yet: four units in two rows
    >>> rectangular(shuffle, shuffle)  # columns become units
    (array([1, 2, 1, 2]), array([1, 2, 3, 4]))
    >>> rectangular(np.array([[1, 2], [1, 2]]), shuffle) is None
    True
    """
    for dim in range(units.ndim):
        if (units == along(units, dim)).all():
            return None
    last = labels.ndim - 1
    kept = last if remaining(units, last) > 1 else max(range(labels.ndim), key=lambda dim: remaining(units, dim))
    return np.broadcast_to(along(labels, kept), labels.shape).ravel(), labels.ravel()


def along(labels: IntArray, dim: int) -> IntArray:
    """Labels along one dimension at the first index of all others, of size 1 along those.

    >>> along(np.array([[1, 2], [3, 4]]), 0).tolist()
    [[1], [3]]
    """
    return labels[tuple(slice(None) if d == dim else slice(0, 1) for d in range(labels.ndim))]


def remaining(units: IntArray, dim: int) -> int:
    """How many units stay when only positions along `dim` tell them apart.

    >>> shuffle = np.array([[1, 2, 3], [4, 5, 6]])
    >>> remaining(shuffle, 0), remaining(shuffle, 1)
    (2, 3)
    """
    names, compact = np.unique(units, return_inverse=True)
    compact = compact.reshape(units.shape)
    ends = np.broadcast_to(along(compact, dim), units.shape).ravel(), compact.ravel()
    graph = coo_array((np.ones(units.size, dtype=np.int8), ends), shape=(len(names), len(names)))
    return int(connected_components(graph, directed=False)[0])
