"""Prove a conversion: sliced equals zeroed wherever options meet in pairs; what fails, or cannot be shown, is frozen.

Rows of a covering array are compared on a randomised network (`ofa.conversion.bench`), in which each choice must move
the output; a row that fails is halved until the part that is to blame is known.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ofa.arrays import BoolArray, IntArray
from ofa.conversion.attributes import Bindings
from ofa.conversion.bench import Bench, DoesNotRun, Outputs, distance
from ofa.groups import Groups, Stage, skipped_blocks
from ofa.interruptions import signalled
from ofa.slicing import Plan, Slicer, as_index, make_plan, permute, take

TOLERANCE = 1e-4
MOVES = 100 * TOLERANCE  # what removing a choice's units must change, relative to the output's largest value
DOUBTFUL = 1.5 * MOVES  # estimates below are measured
ALMOST = 1e-12  # as good as zero, and with a square that is not
NOT_SHOWN = "not shown"
OTHER_SHAPE, NOT_FINITE = "the smaller network's output has another shape", "the smaller network's output is not finite"
Part = tuple[str, int]  # ("group" or "stage", its number)
Progress = Callable[[int, int], None]  # how many of how many checks of a round are done
Point = tuple[IntArray, IntArray]  # units of every group, blocks of every stage


def silent(done: int, total: int) -> None:
    """Progress that nobody sees.

    >>> silent(1, 10)
    """


@dataclass(frozen=True)
class Proved:
    """What a proof found: why parts (groups and stages, by name) failed, the largest relative difference of what holds,
    by how much each part's removal moves the output, and by which comparison it was shown.

    >>> from ofa import Supernet
    >>> found = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4)).conversion.proved
    >>> found.failures, found.ways, found.error < 1e-4
    ({}, {'0.width': 'sliced = zeroed'}, True)
    """

    failures: Mapping[str, str]
    error: float
    moved: Mapping[str, float]
    ways: Mapping[str, str]


@dataclass
class Proof:
    """Compares sliced with zeroed networks, chooses attribute bindings by what holds, and finds what does not.

    `found` is what it knows by now.
    """

    groups: Groups
    stages: Sequence[Stage]
    vectors: Mapping[str, Sequence[IntArray | None]]
    bindings: Bindings
    progress: Progress = silent
    worst: float = 0.0
    moved: dict[str, float] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    against_zeroed: bool = True

    def __post_init__(self) -> None:
        self.slicer = Slicer(self.groups, self.vectors)
        self.deep = np.array([len(s.blocks) for s in self.stages], dtype=np.int64)
        self.mixed = [g for g, group in enumerate(self.groups.groups) if not group.exact]
        self.permuted: set[int] = set()  # mixed groups that are shown by permutation

    # ------------------------------------------------------------ what is checked

    @property
    def found(self) -> Proved:
        """What is known by now, as a value."""
        return Proved(dict(self.failures), self.worst, dict(self.moved), dict(self.ways))

    def parts(self, smallest: Point) -> list[Part]:
        """The groups and stages that a point makes smaller."""
        groups: list[Part] = [("group", g) for g in np.flatnonzero(smallest[0] < self.groups.full).tolist()]
        return groups[: len(self.groups.groups)] + [
            ("stage", s) for s in np.flatnonzero(smallest[1] < self.deep).tolist()
        ]

    def run(self, points: Sequence[Point], bench: Bench, sensitive: Sequence[Part], zeroed: bool = True) -> None:
        """Check rows of choices, the smallest first, on one bench; only `sensitive` parts leave their full size.

        Parts that fail are noted in `failures` and stay whole from then on. The first row is compared with the
        extracted network as well, or without `zeroed` alone.
        """
        self.bench, self.against_zeroed = bench, zeroed
        row, again = 0, len(self.groups.groups)
        while row < len(points) and self.good(sensitive):
            self.progress(row + 1, len(points))
            reason = self._at(points[row], self.good(sensitive), row)
            if reason is None:
                row += 1
            elif self._blame(points[row], self.good(sensitive), row, mend=again > 0):
                row, again = 0, again - 1  # attributes follow otherwise now: all rows again
        for part in self.good(sensitive):
            permuted = part[0] == "group" and part[1] in self.permuted
            inside = ", inside the network" if bench.inside else ""
            way = "permuted" if permuted else f"sliced = zeroed{inside}" if zeroed else "sliced = extracted"
            self.ways.setdefault(self.name(part), way)

    def unshown(self, parts: Sequence[Part], keep: bool) -> None:
        """Parts that move no output, whatever was tried: they are frozen, or kept and said to be so."""
        for part in self.good(parts):
            name = self.name(part)
            self.ways[name] = NOT_SHOWN
            if not keep:
                most = self.moved.get(name, 0.0)
                self.failures[name] = f"{NOT_SHOWN}: without it the output moves by {most:.0e} (relative) at most"

    def good(self, parts: Sequence[Part]) -> list[Part]:
        """Those of some parts that have not failed."""
        return [part for part in parts if self.name(part) not in self.failures]

    def _blame(self, point: Point, good: list[Part], row: int, mend: bool) -> bool:
        """Find the part without which a row holds, by halving, and mend or fail it; whether it was mended.

        What has the same name in other blocks often fails for the same reason, and is looked at next.
        """
        extracted = row == 0 and self._at(point, good, row, extracted=False) is None
        low, high = 0, len(good)  # good[:low] holds, good[:high] fails
        while high - low > 1:
            middle = (low + high) // 2
            holds = self._at(point, good[:middle], row, extracted) is None
            low, high = (middle, high) if holds else (low, middle)
        part = good[high - 1]
        if self._at(point, [part], row, extracted) is None:
            reason = self._at(point, good[:high], row, extracted)
            self.failures[self.name(part)] = f"holds alone, not with the others: {reason}"
            return False
        name = self.like(part)
        for other in (part, *(p for p in good if p != part and self.like(p) == name)):
            alone = self._at(point, [other], row, extracted)
            if alone is not None and mend and self._mended(other, point, good[: high - 1]):
                return True
            if alone is not None:
                self.failures[self.name(other)] = alone
        return False

    def _mended(self, part: Part, point: Point, good: Sequence[Part]) -> bool:
        """Whether a part holds otherwise: attributes follow it in another way, a statistic over its units is taken over
        those that are left, or it is shown by permutation."""
        return part[0] == "group" and (
            self._bound_otherwise(part, point, good)
            or self._shown_mixed(part, point)
            or self._shown_permuted(part, point)
        )

    def _shown_mixed(self, part: Part, point: Point) -> bool:
        """Whether a group holds if the whole network counts only units that are left (attention's default scale)."""
        if part[1] in self.mixed or not self.against_zeroed:
            return False
        self.mixed.append(part[1])
        if self._at(point, [part]) is None:
            return True
        self.mixed.remove(part[1])
        return False

    def like(self, part: Part) -> str:
        """A part's name without the numbers of its block."""
        return re.sub(r"\d+", "#", self.name(part))

    def _bound_otherwise(self, part: Part, point: Point, good: Sequence[Part]) -> bool:
        """Let attributes follow a group otherwise, where what that touches still holds alone; and its like as well."""
        for touched in self.bindings.alternatives(part[1]):
            others = [p for p in good if p[0] == "group" and p[1] in touched]
            if all(self._at(point, [p], extracted=False) is None for p in (part, *others)):
                self.bindings.keep()
                return True
        return False

    def _shown_permuted(self, part: Part, point: Point) -> bool:
        """Whether a group that a statistic mixes holds another way: its units change places and nothing changes."""
        group = part[1]
        if group not in self.mixed or group in self.permuted or self.permutation_error(group) is not None:
            return False
        self.permuted.add(group)
        if self._at(point, [part]) is None:
            return True
        self.permuted.remove(group)
        return False

    def not_apart(self, point: Point) -> list[int]:
        """The groups whose channels may not be others in each group of a grouped convolution."""
        smallest, full = point[0], self.groups.full
        parts: list[Part] = [("group", g) for g in self.groups.conv_groups if smallest[g] < full[g]]
        shuffled = copy.copy(self)
        shuffled.groups = self.groups.shuffled(np.random.default_rng(0))
        shuffled.slicer = Slicer(shuffled.groups, self.vectors)
        if shuffled._at(point, parts) is None:
            return []
        return [g for _, g in parts if shuffled._at(point, [("group", g)]) is not None] or [g for _, g in parts]

    # ------------------------------------------------------------ one comparison

    def _at(self, point: Point, parts: Sequence[Part], row: int = 0, extracted: bool = True) -> str | None:
        """What is wrong when these parts, and no others, have a point's sizes; `extracted` in the first row."""
        sizes, depths = self.sized(point, parts)
        if bool((sizes == self.groups.full).all() and (depths == self.deep).all()):
            return None
        plan = self.plan(sizes, depths)
        reason = None if self.against_zeroed else self.running_error(plan)
        reason = reason or (self.extraction_error(plan) if row == 0 and extracted else None)
        if reason or not self.against_zeroed:
            return reason
        return self.error(plan, sizes, depths, self.on_both_sides(row))

    def on_both_sides(self, row: int) -> Sequence[int]:
        """In every second row, groups that a statistic mixes are sliced on both sides, which is cheaper.

        Not in the second row of all: some blocks may run in this one alone.
        """
        return self.mixed if row > 1 and row % 2 else ()

    def sized(self, point: Point, parts: Sequence[Part]) -> Point:
        """Units and blocks where only some parts have those of a point."""
        sizes, depths = self.groups.full.copy(), self.deep.copy()
        for kind, i in parts:
            (sizes if kind == "group" else depths)[i] = point[0 if kind == "group" else 1][i]
        return sizes, depths

    def plan(self, sizes: IntArray, depths: IntArray) -> Plan:
        return make_plan(self.slicer, self.bindings.final(), self.stages, sizes, depths)

    def error(self, plan: Plan, sizes: IntArray, depths: IntArray, both: Iterable[int] = ()) -> str | None:
        """What is wrong with the plan of a subnet; None if it equals the zeroed network.

        Groups in `both`, and those that are shown by permutation, are sliced in the zeroed network as well.
        """
        try:
            with torch.no_grad():
                return self.judged(self.bench.sliced(plan), self.reference(sizes, depths, both), "zeroed")
        except DoesNotRun as problem:
            return str(problem)

    def reference(self, sizes: IntArray, depths: IntArray, both: Iterable[int] = ()) -> Outputs:
        """The outputs of the whole network with zeros in place of what a subnet removes."""
        skipped = skipped_blocks(self.stages, depths)
        zeroed = self._zeroed(sizes, skipped, 0.0, both)
        if all(bool(t.isfinite().all()) for t in zeroed.values()):
            return zeroed
        return self._zeroed(sizes, skipped, ALMOST, both)  # a norm of zeros divides

    def running_error(self, plan: Plan) -> str | None:
        """What is wrong with a plan's outputs by themselves: they have another shape, or are not finite."""
        try:
            with torch.no_grad():
                outputs = self.bench.sliced(plan)
        except DoesNotRun as problem:
            return str(problem)
        if not self.bench.inside and {k: t.shape for k, t in outputs.items()} != self.bench.shapes:
            return OTHER_SHAPE
        return None if all(bool(t.isfinite().all()) for t in outputs.values()) else NOT_FINITE

    def extraction_error(self, plan: Plan) -> str | None:
        """What is wrong with the network that a plan extracts; None if it equals the sliced one."""
        try:
            with torch.no_grad():
                return self.judged(self.bench.sliced(plan), self.bench.extracted(plan), "extracted")
        except DoesNotRun as problem:
            return str(problem)

    def judged(self, outputs: Outputs, expected: Outputs, what: str) -> str | None:
        """What is wrong with outputs, None if they are those that are expected."""
        if self.bench.inside:
            same = [k for k in outputs if k in expected and outputs[k].shape == expected[k].shape]
            outputs, expected = ({k: o[k] for k in same} for o in (outputs, expected))
        difference = distance(outputs, expected)
        if difference is None:
            return OTHER_SHAPE
        if not np.isfinite(difference):
            return NOT_FINITE
        if difference > TOLERANCE:
            return f"sliced differs from {what} by {difference:.1e} (relative)"
        self.worst = max(self.worst, difference)
        return None

    def _zeroed(self, sizes: IntArray, skipped: Sequence[str], zero: float, both: Iterable[int] = ()) -> Outputs:
        """The whole network with zeros in place of what is removed, or slices for the groups in `both`."""
        cut = self.groups.full.copy()
        for g in {*both, *self.permuted}:
            cut[g] = sizes[g]
        slices = self.slicer.indices(cut)
        tensors = {
            name: take(self._with_zeros(name, sizes, zero), slices.get(name, ())).contiguous()
            for name in self.slicer.indices(sizes)
        }
        changes = [c for b in self.bindings.final() if (c := b.change(self.groups, cut))]
        mixing = any(sizes[g] < cut[g] for g in self.mixed)
        return self.bench.zeroed(tensors, skipped, mixing, changes)

    def _with_zeros(self, name: str, sizes: IntArray, zero: float) -> Tensor:
        """A tensor in which the places of all removed units are zero, along every dimension."""
        tensor = self.bench.tensors[name].detach()
        rows = [None if v is None else self._kept(name, d, v, sizes) for d, v in enumerate(self.vectors[name])]
        kept = [None if row is None else as_index(row) for row in rows]
        if zero == 0 and all(i is None or isinstance(i, slice) for i in kept):
            return self.bench.masked(name, kept)
        mask = torch.ones([1] * tensor.ndim, dtype=torch.bool)
        for dim, row in enumerate(rows):
            if row is not None:
                shape = [n if d == dim else 1 for d, n in enumerate(tensor.shape)]
                if len(row) > 1:
                    row, shape[0] = row.repeat(len(tensor) // len(row), axis=0), len(tensor)
                mask = mask & torch.from_numpy(row).reshape(shape)
        return tensor.where(mask.to(tensor.device), zero)

    def _kept(self, name: str, dim: int, vector: IntArray, sizes: IntArray) -> BoolArray:
        """Which places of a dimension stay, (blocks of rows, places)."""
        return self.groups.kept(self.groups.labels_along(name, dim, vector), sizes)

    def permutation_error(self, group: int) -> str | None:
        """What is wrong when the units of a group change places everywhere in the whole network; None: nothing."""
        order = np.random.default_rng(0).permutation(self.groups.groups[group].units)
        tensors: dict[str, Tensor] = {}
        for name, dim, _ in self.groups.groups[group].members:
            tensor = tensors.setdefault(name, self.bench.tensors[name].detach().clone())
            labels = self.groups.labels_along(name, dim, self._vector(name, dim))
            for block, row in zip(tensor.chunk(len(labels)), labels, strict=True):
                permute(block, dim, self._sources(row, group, order))
        try:
            with torch.no_grad():
                return self.judged(self.bench.zeroed(tensors, (), False), self.bench.whole(), "the permuted network")
        except DoesNotRun as problem:
            return str(problem)

    def _sources(self, row: IntArray, group: int, order: IntArray) -> IntArray:
        """Where each place takes its content from when the units of a group take those of others, in `order`."""
        sources, mine = np.arange(len(row)), np.flatnonzero(self.groups.group_of[row] == group)
        ranks = self.groups.rank_of[row[mine]]
        places = {rank: mine[ranks == rank] for rank in np.unique(ranks).tolist()}
        for rank, own in places.items():
            sources[own] = places[int(order[rank])]
        return sources

    # ------------------------------------------------------------ whether a comparison can fail

    def moving(self, bench: Bench, parts: Sequence[Part], point: Point) -> list[Part]:
        """The parts whose removal, down to a point, moves the outputs of a bench enough to be seen.

        Widths and kernels are estimated from one backward pass; skipped blocks, and what is in doubt, are measured.
        """
        self.bench = bench
        found = self._estimates([part for part in parts if part[0] == "group"], point)
        with torch.no_grad():
            whole = bench.whole()
            for part in parts:
                if not found.get(part, 0.0) >= DOUBTFUL:  # a gradient may be no number
                    found[part] = self._measured(part, point, whole)
        for part, moved in found.items():
            self.moved[self.name(part)] = max(moved, self.moved.get(self.name(part), 0.0))
        return [part for part in parts if found[part] >= MOVES]

    def _measured(self, part: Part, point: Point, whole: Outputs) -> float:
        try:
            return movement(self.reference(*self.sized(point, [part])), whole)
        except DoesNotRun:
            return float("inf")  # what fails cannot pass

    def _estimates(self, parts: Sequence[Part], point: Point) -> dict[Part, float]:
        """To first order, for a random direction of the outputs; nothing where no gradient comes through."""
        tensors = {n: t for n, t in self.bench.tensors.items() if t.requires_grad}
        try:
            with torch.enable_grad():
                outputs = [y for y in self.bench.whole().values() if y.requires_grad]
                gradients = torch.autograd.grad(projection(outputs), [*tensors.values()], allow_unused=True)
        except (RuntimeError, DoesNotRun) as problem:
            if signalled(problem):
                raise
            return {}
        scores = {n: (t * g).detach() for (n, t), g in zip(tensors.items(), gradients, strict=True) if g is not None}
        return {part: self._moved_by(part[1], point[0], scores) for part in parts}

    def _moved_by(self, group: int, sizes: IntArray, scores: Mapping[str, Tensor]) -> float:
        """The largest of what the tensors of a group say about the units that are removed."""
        best = 0.0
        for name, dim, _ in self.groups.groups[group].members:
            if name in scores:
                labels = self._vector(name, dim)
                own = scores[name].movedim(dim, 0).reshape(len(labels), -1).sum(dim=1)
                gone = (self.groups.group_of[labels] == group) & (self.groups.rank_of[labels] >= sizes[group])
                best = max(best, float(own[torch.from_numpy(gone).to(own.device)].norm()))
        return best

    def _vector(self, name: str, dim: int) -> IntArray:
        vector = self.vectors[name][dim]
        assert vector is not None
        return vector

    def name(self, part: Part) -> str:
        return self.groups.groups[part[1]].name if part[0] == "group" else self.stages[part[1]].name


def movement(outputs: Outputs, whole: Outputs) -> float:
    """The largest difference in what has the same shape, relative to the largest value."""
    same = [key for key in outputs if key in whole and outputs[key].shape == whole[key].shape]
    return distance({key: outputs[key] for key in same}, {key: whole[key] for key in same}) or 0.0


def projection(outputs: Sequence[Tensor]) -> Tensor:
    """One number whose change is, for a random change of the outputs, about their largest relative one.

    Raises:
        RuntimeError: no output has a gradient.
    """
    generator = torch.Generator().manual_seed(0)
    total: Any = 0.0
    for y in outputs:
        signs = torch.randn(y.shape, generator=generator).sign().to(y)
        total = total + (y * signs).sum() / (y.detach().abs().max().clamp_min(1e-12) * y.numel() ** 0.5)
    if not isinstance(total, Tensor):
        raise RuntimeError("no output has a gradient")
    return total
