"""Channel groups: connected components of labels are units, units with the same signature form one width choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ofa.arrays import IntArray
from ofa.tracing import Trace

FIXED = -1
Flags = npt.NDArray[np.bool_]
ROUNDS = 8  # of making views rectangular


@dataclass(frozen=True)
class ChannelGroup:
    """Units that are interchangeable: `members` are the (parameter, dimension, indices per unit) that they own.

    `exact` is False where a statistic over the channels makes slicing different from zeroing; `stream` is True where
    several layers' outputs are added, as on a residual stream.
    """

    name: str
    kind: Literal["width", "kernel"]
    units: int
    unit_size: int
    members: tuple[tuple[str, int, int], ...]
    exact: bool
    stream: bool


@dataclass
class Groups:
    """The groups of a network, and for each label its group (FIXED if it stays) and its unit's rank in that group.

    A unit is kept when its rank is below the number of units that its group keeps. `strands` are the groups whose
    channels are ranked apart in each of so many strands, and `strand_of` says in which a label lies; `folds` are the
    weights of grouped convolutions with such inputs: the labels, (blocks of rows, channels), along their second
    dimension.
    """

    groups: tuple[ChannelGroup, ...]
    group_of: IntArray
    rank_of: IntArray
    reasons: dict[str, str] = field(default_factory=dict)
    strands: dict[int, int] = field(default_factory=dict)
    folds: dict[str, IntArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home_of, self.strand_of = self.rank_of.copy(), np.zeros_like(self.rank_of)

    def kept(self, vector: IntArray, sizes: IntArray) -> npt.NDArray[np.bool_]:
        """Which labels of a vector stay when group g keeps sizes[g] units."""
        group = self.group_of[vector]
        return np.asarray((group == FIXED) | (self.rank_of[vector] < sizes[group]))

    def along(self, vector: IntArray | None) -> list[int]:
        """The groups of a vector's labels."""
        return [] if vector is None else [g for g in np.unique(self.group_of[vector]).tolist() if g != FIXED]

    def shuffle(self, rng: np.random.Generator) -> None:
        """Random ranks in every strand, until `rank_of` is set to `home_of` again."""
        for g, number in self.strands.items():
            for strand in range(number):
                mine = (self.group_of == g) & (self.strand_of == strand)
                self.rank_of[mine] = rng.permutation(self.groups[g].units)[self.rank_of[mine]]

    def unbraid(self, index: int) -> None:
        """Rank the units of a group as wholes."""
        self.strands.pop(index, None)
        self.strand_of[self.group_of == index] = 0
        for name, dim, _ in self.groups[index].members:
            if dim == 1:
                self.folds.pop(name, None)

    def labels_along(self, name: str, dim: int, vector: IntArray) -> IntArray:
        """The labels of a tensor's dimension, (blocks of rows, places), several blocks where strands are folded."""
        return self.folds[name] if dim == 1 and name in self.folds else vector[None]

    def varies(self, vector: IntArray) -> bool:
        """Whether the number of kept labels depends on the sizes, unit by unit."""
        group = self.group_of[vector]
        elastic = group != FIXED
        ranks = set(zip(group[elastic].tolist(), self.rank_of[vector][elastic].tolist(), strict=True))
        return len(ranks) > 1

    @property
    def full(self) -> IntArray:
        return np.array([g.units for g in self.groups] or [0], dtype=np.int64)

    def freeze(self, index: int, why: str) -> None:
        """Keep one group whole from now on; its place in `groups` stays."""
        self.reasons[self.groups[index].name] = why
        self.group_of[self.group_of == index] = FIXED


def find_groups(trace: Trace, excluded: Callable[[str], str | None]) -> Groups:
    """Group the labels of a trace; `excluded` gives the reason why a parameter must stay, or None."""
    for name, vectors in trace.parameters.items():
        reason = excluded(name)
        for vector in vectors:
            if reason and vector is not None:
                trace.labels.freeze(vector, reason)
    unit_of = components(trace)
    units = int(unit_of.max()) + 1
    fixed = np.zeros(units, dtype=bool)
    fixed[unit_of[0]] = True
    reasons: dict[int, str] = {}
    for labels, why in trace.labels.frozen:
        for unit in np.unique(unit_of[labels]):
            fixed[unit] = True
            reasons.setdefault(int(unit), why)
    useful = np.zeros(units, dtype=bool)
    for product in trace.macs:
        for vector in product.vectors:
            useful[unit_of[vector]] = True
    mixed = np.zeros(units, dtype=bool)
    for labels in trace.labels.mixed:
        mixed[unit_of[labels]] = True
    summed = np.zeros(units, dtype=bool)
    for labels in trace.labels.summed:
        summed[unit_of[labels]] = True
    builder = _Builder(trace, unit_of, fixed | ~useful, mixed, summed)
    builder.add_kernels()
    builder.add_widths()
    result = builder.build()
    result.reasons.update(frozen_reasons(trace, unit_of, reasons))
    return result


def components(trace: Trace) -> IntArray:
    """The unit of every label; views that split channels are made rectangular before."""
    unit_of = _connected(trace)
    for _ in range(ROUNDS):
        before = len(trace.labels.pairs)
        changed = np.zeros(trace.labels.count, dtype=bool)
        for layer, _ in trace.labels.products:
            if not changed[layer].any():  # else its units are other ones now: next round
                changed[layer] = make_rectangular(trace, unit_of[layer], layer)
        if len(trace.labels.pairs) == before:
            break
        unit_of = _connected(trace)
    return unit_of


def _connected(trace: Trace) -> IntArray:
    return connected([*trace.labels.pairs, *trace.labels.across], trace.labels.count)


def connected(pairs: Sequence[tuple[IntArray, IntArray]], count: int) -> IntArray:
    """For each of `count` labels the number of its connected component."""
    empty = np.zeros(0, dtype=np.int64)
    left = np.concatenate([a for a, _ in pairs] or [empty])
    right = np.concatenate([b for _, b in pairs] or [empty])
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    _, found = connected_components(graph, directed=False)
    return np.asarray(found, dtype=np.int64)


def make_rectangular(trace: Trace, units: IntArray, labels: IntArray) -> bool:
    """Kept labels of a layer over several dimensions must be a block: its units may differ along one of them only.

    Where nothing has decided yet (a channel shuffle's view), equal positions along the outer dimensions are one unit;
    where that would leave a single unit (heads that share one projection), the dimension that leaves most is kept.
    """
    for dim in range(units.ndim):
        if (units == along(units, dim)).all():
            return False
    last = labels.ndim - 1
    kept = last if remaining(units, last) > 1 else max(range(labels.ndim), key=lambda dim: remaining(units, dim))
    trace.labels.pairs.append((np.broadcast_to(along(labels, kept), labels.shape).ravel(), labels.ravel()))
    return True


def along(labels: IntArray, dim: int) -> IntArray:
    """Labels along one dimension at the first index of all others, of size 1 along those."""
    return labels[tuple(slice(None) if d == dim else slice(0, 1) for d in range(labels.ndim))]


def remaining(units: IntArray, dim: int) -> int:
    """How many units stay when only positions along `dim` tell them apart."""
    names, compact = np.unique(units, return_inverse=True)
    compact = compact.reshape(units.shape)
    ends = np.broadcast_to(along(compact, dim), units.shape).ravel(), compact.ravel()
    graph = coo_array((np.ones(units.size, dtype=np.int8), ends), shape=(len(names), len(names)))
    return int(connected_components(graph, directed=False)[0])


class _Builder:
    def __init__(self, trace: Trace, unit_of: IntArray, fixed: Flags, mixed: Flags, summed: Flags) -> None:
        self.trace, self.unit_of, self.fixed, self.mixed, self.summed = trace, unit_of, fixed.copy(), mixed, summed
        self.group_of_unit = np.full(len(fixed), FIXED, dtype=np.int64)
        self.rank_of_unit = np.zeros(len(fixed), dtype=np.int64)
        self.groups: list[ChannelGroup] = []
        self.names: set[str] = set()

    def add(self, name: str, kind: Literal["width", "kernel"], ordered: IntArray, unit_size: int) -> None:
        self.group_of_unit[ordered] = len(self.groups)
        self.rank_of_unit[ordered] = np.arange(len(ordered))
        name = unique(f"{name}.{kind}", self.names)
        exact, stream = not bool(self.mixed[ordered].any()), bool(self.summed[ordered].any())
        self.groups.append(ChannelGroup(name, kind, len(ordered), unit_size, (), exact, stream))

    def add_kernels(self) -> None:
        for kernel in self.trace.kernels:
            units, size = self.unit_of[kernel.vector], len(kernel.vector)
            if self.fixed[units].any() or len(set(units.tolist())) < size:
                continue
            if (self.group_of_unit[units] != FIXED).any() or not (kernel.same_padding or not self.mixed[units].any()):
                continue
            centre_out = np.argsort(np.abs(np.arange(size) - size // 2), kind="stable")
            self.add(kernel.module, "kernel", units[centre_out], 1)
            self.fixed[units] = True

    def add_widths(self) -> None:
        signature = np.zeros(len(self.fixed), dtype=np.uint64)
        salt = np.random.default_rng(0)
        leaders: dict[int, tuple[int, str, IntArray]] = {}
        for vectors in self.trace.parameters.values():
            for vector in vectors:
                key = salt.integers(1, 2**63, dtype=np.uint64)
                if vector is None:
                    continue
                units, counts = np.unique(self.unit_of[vector], return_counts=True)
                signature[units] += key * (counts.astype(np.uint64) * np.uint64(2654435761) + np.uint64(1))
        for name, vectors in self.trace.parameters.items():
            for dim, vector in enumerate(vectors):
                if vector is None:
                    continue
                units = self.unit_of[vector]
                leads = 0 if dim == 0 and sum(v is not None for v in vectors) > 1 else 1
                for code in np.unique(signature[units[~self.fixed[units]]]).tolist():
                    if code not in leaders or leads < leaders[code][0]:
                        leaders[code] = (leads, name, vector)
        for code, (_, name, vector) in leaders.items():
            units = self.unit_of[vector]
            mine = units[(signature[units] == np.uint64(code)) & ~self.fixed[units]]
            _, first = np.unique(mine, return_index=True)
            ordered = mine[np.sort(first)]
            if len(ordered) > 1:
                self.add(name.rpartition(".")[0] or name, "width", ordered, len(mine) // len(ordered))

    def build(self) -> Groups:
        members: list[list[tuple[str, int, int]]] = [[] for _ in self.groups]
        for name, vectors in self.trace.parameters.items():
            for dim, vector in enumerate(vectors):
                if vector is None:
                    continue
                owners, counts = np.unique(self.group_of_unit[self.unit_of[vector]], return_counts=True)
                for g, count in zip(owners.tolist(), counts.tolist(), strict=True):
                    if g != FIXED:
                        members[g].append((name, dim, count // self.groups[g].units))
        groups = tuple(
            ChannelGroup(g.name, g.kind, g.units, g.unit_size, tuple(m), g.exact, g.stream)
            for g, m in zip(self.groups, members, strict=True)
        )
        return Groups(groups, self.group_of_unit[self.unit_of], self.rank_of_unit[self.unit_of])


def unique(name: str, taken: set[str]) -> str:
    candidate, n = name, 2
    while candidate in taken:
        candidate, n = f"{name}{n}", n + 1
    taken.add(candidate)
    return candidate


def frozen_reasons(trace: Trace, unit_of: IntArray, reasons: dict[int, str]) -> dict[str, str]:
    """For each parameter whose outputs stay whole, the reason."""
    found: dict[str, str] = {}
    for name, vectors in trace.parameters.items():
        leading: Sequence[IntArray | None] = vectors[:1]
        for vector in leading:
            if vector is not None:
                why = next((reasons[u] for u in unit_of[vector].tolist() if u in reasons), None)
                if why:
                    found[name] = why
    return found
