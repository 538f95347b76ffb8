"""Prove a conversion: sliced equals zeroed, for each choice alone and all together; what fails is frozen, and why.

The network that is compared is a copy whose constant parameters (fresh batch norms, zero-initialised scales) are made
random, so that no branch hides behind a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ofa.arrays import IntArray
from ofa.attributes import Bindings
from ofa.depth import Stage
from ofa.groups import Groups
from ofa.slicing import Slicer, duplicate, find_modules, find_owners, installed, take

TOLERANCE = 1e-4
ALMOST = 1e-12  # as good as zero, and with a square that is not
Part = tuple[str, int]  # ("group" or "stage", its number)
Progress = Callable[[int, int], None]  # how many of how many checks of a round are done
Point = tuple[IntArray, IntArray]  # units of every group, blocks of every stage


def silent(done: int, total: int) -> None:
    """Progress that nobody sees."""


@dataclass
class Proof:
    """Compares sliced with zeroed networks, chooses attribute bindings by what holds, and freezes what does not."""

    model: nn.Module
    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    groups: Groups
    stages: Sequence[Stage]
    vectors: Mapping[str, Sequence[IntArray | None]]
    bindings: Bindings
    held: set[Any] = field(default_factory=set)
    progress: Progress = silent
    worst: float = 0.0

    def __post_init__(self) -> None:
        self.owners, self.modules = find_owners(self.model), find_modules(self.model)
        self.slicer = Slicer(self.groups, self.vectors)
        self.tensors = dict((*self.model.named_parameters(), *self.model.named_buffers()))

    def run(self, points: Sequence[Point], options: Mapping[int, Sequence[int]], thorough: bool) -> dict[str, str]:
        """Check every group and every stage at the first of some points in the space (the smallest), alone and
        together; and all together at the others, which join what is checked alone where they fail. Gives failures.

        `options` are the numbers of units that a group may keep.
        """
        self.points, self.options = list(points[:1]), options
        self.deep = np.array([len(s.blocks) for s in self.stages], dtype=np.int64)
        (smallest, shallowest), full = points[0], self.groups.full
        widths = [("group", g) for g in range(len(self.groups.groups)) if smallest[g] < full[g]]
        parts = widths + [("stage", s) for s in range(len(self.stages)) if shallowest[s] < self.deep[s]]
        # A skipped block would hide its own widths: all widths without it, too.
        proved = not thorough and self.check(widths) is None and self.check(parts) is None
        failures = {} if proved else self._round(parts)
        for i, point in enumerate(points[1:], 2):
            self.progress(i, len(points))
            good = [part for part in parts if self._name(part) not in failures]
            if self._at(point, good) is not None:
                self.points.append(point)
                failures |= self._round(good)
        return failures

    def strands(self) -> list[int]:
        """The groups whose strands may not keep other channels each, at the points of `run`."""
        smallest, full = self.points[0][0], self.groups.full
        parts: list[Part] = [("group", g) for g in self.groups.strands if smallest[g] < full[g]]
        self.groups.shuffle(np.random.default_rng(0))
        self.slicer.forget()
        wrong: list[int] = []
        if self.check(parts) is not None:
            wrong = [g for _, g in parts if self.check([("group", g)]) is not None] or [g for _, g in parts]
        self.groups.rank_of[:] = self.groups.home_of
        self.slicer.forget()
        return wrong

    def _round(self, parts: Sequence[Part]) -> dict[str, str]:
        """Every part alone, then all that hold together."""
        failures: dict[str, str] = {}
        good: list[Part] = []
        for i, part in enumerate(parts, 1):
            self.progress(i, len(parts))
            reason = self._alone(part, good)
            if reason is None:
                good.append(part)
            else:
                failures[self._name(part)] = reason
        return failures | self._together(good)

    def check(self, parts: Sequence[Part]) -> str | None:
        """What is wrong when these groups and stages, and no others, are at their sizes in one of the points."""
        return next((reason for point in self.points if (reason := self._at(point, parts)) is not None), None)

    def _at(self, point: Point, parts: Sequence[Part]) -> str | None:
        sizes, depths = self.groups.full.copy(), self.deep.copy()
        for kind, i in parts:
            (sizes if kind == "group" else depths)[i] = point[0 if kind == "group" else 1][i]
        whole = bool((sizes == self.groups.full).all() and (depths == self.deep).all())
        return None if whole else self.error(sizes, depths)

    def _alone(self, part: Part, good: Sequence[Part]) -> str | None:
        """Check one part; for a group whose proof fails, other bindings, as long as what held before still holds."""
        kind, i = part
        if kind == "group" and self._signature(i) in self.held:
            return None
        reason = self.check([part])
        if kind == "stage":
            return reason
        reason = reason or self._between(i)
        if reason is not None:
            for touched in self.bindings.alternatives(i):
                others = [p for p in good if p[0] == "group" and p[1] in touched]
                if all(self.check([p]) is None and self._between(p[1]) is None for p in (part, *others)):
                    self.bindings.keep()
                    self.held.update(self._signature(p[1]) for p in others)
                    reason = None
                    break
        if reason is None:
            self.held.add(self._signature(i))
        return reason

    def _between(self, group: int) -> str | None:
        """Check a group at the options at which other attributes of a module are equal than at its smallest."""
        seen: set[frozenset[tuple[str, str, str]]] = set()
        for units in sorted(self.options.get(group, ())):
            sizes = self.groups.full.copy()
            sizes[group] = units
            equalities = self.bindings.equalities(sizes)
            if seen and equalities not in seen and units < self.groups.full[group]:
                reason = self.error(sizes, self.deep)
                if reason is not None:
                    return reason
            seen.add(equalities)
        return None

    def _signature(self, group: int) -> Any:
        """What a group's proof depends on."""
        sizes = frozenset(int(point[0][group]) for point in self.points)
        return self.groups.groups[group], self.bindings.following(group), sizes

    def _together(self, good: list[Part]) -> dict[str, str]:
        """Parts that hold alone but not with the others: the largest prefix that holds grows by halving."""
        failures: dict[str, str] = {}
        held: list[Part] = []
        pending = [good]
        while pending:
            batch = pending.pop(0)
            reason = self.check(held + batch) if batch else None
            if reason is None:
                held += batch
            elif len(batch) == 1:
                failures[self._name(batch[0])] = f"holds alone, not with the others: {reason}"
            else:
                pending[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return failures

    def _name(self, part: Part) -> str:
        return self.groups.groups[part[1]].name if part[0] == "group" else self.stages[part[1]].name

    def error(self, sizes: IntArray, depths: IntArray) -> str | None:
        """What is wrong with a subnet, None if it equals the zeroed network (or, where a norm mixes, runs)."""
        skipped = [b for s, n in zip(self.stages, depths, strict=True) for b in s.blocks[n:]]
        exact = all(g.exact for g, n in zip(self.groups.groups, sizes, strict=False) if n < g.units)
        try:
            with torch.no_grad():
                sliced = self._sliced(sizes, skipped)
                zeroed = self._zeroed(sizes, skipped, 0.0)
                if not all(t.isfinite().all() for t in tree_leaves(zeroed) if isinstance(t, Tensor)):
                    zeroed = self._zeroed(sizes, skipped, ALMOST)  # a norm of zeros divides
        except Exception as problem:
            return f"the smaller network does not run: {type(problem).__name__}: {str(problem).splitlines()[0][:200]}"
        difference = distance(sliced, zeroed)
        if difference is None:
            return "the smaller network's output has another shape"
        if not np.isfinite(difference):
            return "the smaller network's output is not finite"
        if exact and difference > TOLERANCE:
            return f"sliced differs from zeroed by {difference:.1e} (relative)"
        self.worst = max(self.worst, difference if exact else 0.0)
        return None

    def _sliced(self, sizes: IntArray, skipped: Sequence[str]) -> Any:
        tensors = {name: take(self.tensors[name], i).contiguous() for name, i in self.slicer.indices(sizes).items()}
        with installed(self.modules, self.owners, tensors, self.bindings.changes(sizes), skipped):
            return self.model(*self.inputs, **self.kwargs)

    def _zeroed(self, sizes: IntArray, skipped: Sequence[str], zero: float) -> Any:
        tensors = {}
        for name in self.slicer.indices(sizes):
            tensor = self.tensors[name].detach().clone()
            for dim, vector in enumerate(self.vectors[name]):
                if vector is not None:
                    labels = self.groups.labels_along(name, dim, vector)
                    for block, row in zip(tensor.chunk(len(labels)), labels, strict=True):
                        gone = torch.from_numpy(np.flatnonzero(~self.groups.kept(row, sizes)))
                        block.index_fill_(dim, gone.to(tensor.device), zero)
            tensors[name] = tensor
        with installed(self.modules, self.owners, tensors, (), skipped):
            return self.model(*self.inputs, **self.kwargs)


def distance(a: Any, b: Any) -> float | None:
    """Largest difference of two outputs relative to the second's largest value; None if their shapes differ."""
    left, right = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in (a, b))
    if len(left) != len(right) or any(x.shape != y.shape for x, y in zip(left, right, strict=True)):
        return None
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        if x.is_floating_point() and x.numel():
            scale = float(y.abs().max().clamp_min(1e-12))
            gap = float((x - y).abs().max()) / scale
            worst = gap if not np.isfinite(gap) else max(worst, gap)
    return worst


def perturbed(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose constant parameters and statistics are random, from a fixed seed."""
    twin, generator = duplicate(model).eval(), torch.Generator().manual_seed(0)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        values = torch.rand(tensor.shape, generator=generator) * (high - low) + low
        tensor.copy_(values.to(tensor))

    with torch.no_grad():
        for parameter in twin.parameters():
            if (
                parameter.is_floating_point()
                and parameter.numel() > 1
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                uniform(parameter, 0.5, 1.5) if parameter.flatten()[0] > 1e-8 else uniform(parameter, -0.2, 0.3)
        for name, buffer in twin.named_buffers():
            if name.endswith("running_mean"):
                uniform(buffer, -0.1, 0.1)
            elif name.endswith("running_var"):
                uniform(buffer, 0.5, 1.5)
    return twin
