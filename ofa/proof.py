"""Prove a conversion: sliced equals zeroed, for each choice alone and all together; what fails is frozen, and why.

The network that is compared is a copy whose constant parameters (fresh batch norms, zero-initialised scales) are made
random, so that no branch hides behind a zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ofa.attributes import Binding
from ofa.depth import Stage
from ofa.groups import Groups
from ofa.labels import IntArray
from ofa.slicing import Change, Slicer, find_owners, installed, take

TOLERANCE = 1e-4


@dataclass
class Proof:
    """Compares sliced with zeroed networks, chooses attribute bindings by what holds, and freezes what does not."""

    model: nn.Module
    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    groups: Groups
    stages: Sequence[Stage]
    vectors: Mapping[str, Sequence[IntArray | None]]
    bindings: Sequence[Sequence[Binding]]
    chosen: list[int | None] = field(init=False)
    learned: dict[tuple[type, str], int | None] = field(default_factory=dict)
    worst: float = 0.0

    def __post_init__(self) -> None:
        self.model = perturbed(self.model)
        self.owners = find_owners(self.model)
        self.slicer = Slicer(self.groups, self.vectors)
        self.tensors = dict((*self.model.named_parameters(), *self.model.named_buffers()))
        self.chosen = [0 for _ in self.bindings]

    def run(self, smallest: IntArray, shallowest: IntArray, thorough: bool) -> set[str]:
        """Check every group at its smallest size and every stage at its smallest depth; gives the names of failures."""
        full, deep = self.groups.full, np.array([len(s.blocks) for s in self.stages], dtype=np.int64)
        parts = [("group", g) for g in range(len(self.groups.groups)) if smallest[g] < full[g]]
        parts += [("stage", s) for s in range(len(self.stages)) if shallowest[s] < deep[s]]

        def error(part: Sequence[tuple[str, int]]) -> str | None:
            sizes, depths = full.copy(), deep.copy()
            for kind, i in part:
                (sizes if kind == "group" else depths)[i] = (smallest if kind == "group" else shallowest)[i]
            return self.error(sizes, depths)

        failures: dict[str, str] = {}
        good = list(parts)
        widths = [part for part in parts if part[0] == "group"]  # a skipped block would hide its own
        if thorough or error(widths) is not None or error(parts) is not None:
            good = []
            for part in parts:
                reason = error([part])
                if reason is not None and part[0] == "group":
                    reason = self._search_bindings(part[1], lambda part=part: error([part]), reason)
                if reason is None:
                    good.append(part)
                else:
                    failures[self._name(part)] = reason
            failures.update(self._together(good, error))
        self.groups.reasons.update(failures)
        return set(failures)

    def _together(self, good: list[tuple[str, int]], error: Any) -> dict[str, str]:
        """Parts that hold alone but not with the others: the largest prefix that holds grows by halving."""
        failures: dict[str, str] = {}
        held: list[tuple[str, int]] = []
        pending = [good]
        while pending:
            batch = pending.pop(0)
            reason = error(held + batch) if batch else None
            if reason is None:
                held += batch
            elif len(batch) == 1:
                failures[self._name(batch[0])] = f"holds alone, not with the others: {reason}"
            else:
                pending[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return failures

    def _name(self, part: tuple[str, int]) -> str:
        return self.groups.groups[part[1]].name if part[0] == "group" else self.stages[part[1]].name

    def error(self, sizes: IntArray, depths: IntArray) -> str | None:
        """What is wrong with a subnet, None if it equals the zeroed network (or, where a norm mixes, runs)."""
        skipped = [b for s, n in zip(self.stages, depths, strict=True) for b in s.blocks[n:]]
        exact = all(g.exact for g, n in zip(self.groups.groups, sizes, strict=False) if n < g.units)
        try:
            with torch.no_grad():
                sliced = self._sliced(sizes, skipped)
                zeroed = self._zeroed(sizes, skipped)
        except Exception as problem:
            return f"the smaller network does not run: {type(problem).__name__}: {str(problem).splitlines()[0][:200]}"
        difference = distance(sliced, zeroed)
        if difference is None:
            return "the smaller network's output has another shape"
        if not np.isfinite(difference):
            return "the smaller network's output is not finite"
        if exact:
            self.worst = max(self.worst, difference)
            if difference > TOLERANCE:
                return f"sliced differs from zeroed by {difference:.1e} (relative)"
        return None

    def changes(self, sizes: IntArray) -> list[Change]:
        rows = [
            options[i].change(self.groups, sizes)
            for options, i in zip(self.bindings, self.chosen, strict=True)
            if i is not None
        ]
        return [change for change in rows if change is not None]

    def _sliced(self, sizes: IntArray, skipped: Sequence[str]) -> Any:
        tensors = {name: take(self.tensors[name], i).contiguous() for name, i in self.slicer.indices(sizes).items()}
        with installed(self.model, self.owners, tensors, self.changes(sizes), skipped):
            return self.model(*self.inputs, **self.kwargs)

    def _zeroed(self, sizes: IntArray, skipped: Sequence[str]) -> Any:
        tensors = {}
        for name in self.slicer.indices(sizes):
            tensor = self.tensors[name].detach().clone()
            for dim, vector in enumerate(self.vectors[name]):
                if vector is not None:
                    gone = torch.from_numpy(np.flatnonzero(~self.groups.kept(vector, sizes)))
                    tensor.index_fill_(dim, gone.to(tensor.device), 0)
            tensors[name] = tensor
        with installed(self.model, self.owners, tensors, (), skipped):
            return self.model(*self.inputs, **self.kwargs)

    def _search_bindings(self, group: int, error: Any, reason: str) -> str | None:
        """Other bindings for the attributes that follow this group: learned ones, all but one, none, alternatives."""
        mine = [
            i
            for i, options in enumerate(self.bindings)
            if any((self.groups.group_of[v] == group).any() for o in options for v in o.literal.vectors)
        ]
        start = list(self.chosen)
        for attempt in self._attempts(mine, start):
            self.chosen = attempt
            if error() is None:
                for i in mine:
                    self.learned[self._key(i)] = attempt[i]
                return None
        self.chosen = start
        return reason

    def _key(self, i: int) -> tuple[type, str]:
        binding = self.bindings[i][0]
        return type(self.model.get_submodule(binding.module)), binding.attribute

    def _attempts(self, mine: Sequence[int], start: list[int | None]) -> Any:
        def with_values(values: Mapping[int, int | None]) -> list[int | None]:
            return [values.get(i, old) for i, old in enumerate(start)]

        known = {i: self.learned[self._key(i)] for i in mine if self._key(i) in self.learned}
        if known:
            yield with_values(known)
        own = [i for i in mine if start[i] is not None]
        for i in own:
            yield with_values({i: None})
        for i in mine:
            for alternative in range(1, len(self.bindings[i])):
                yield with_values({i: alternative})
        yield with_values(dict.fromkeys(own))
        for i in own[:20]:
            yield with_values({j: None for j in own if j != i})


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
    twin, generator = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)

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
