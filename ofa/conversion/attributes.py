"""Attributes that repeat a size (`num_heads`, `groups`, `normalized_shape`, `padding` …), found in the data flow.

Wherever an operator was called with a size that can change, the attributes of the module that called it and that hold
this number are candidates. Nobody tells the program their names; the proof decides where several fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.groups import Groups
from ofa.slicing import Change
from ofa.tracing import SizeUse, Trace

ATTEMPTS = 40  # ways to bind the attributes of one group that are tried
MOST = 6  # bindings of one attribute that are tried
# Attributes that never repeat a number of channels, heads or groups.
OTHER = ("stride", "dilation", "output_padding", "window", "shift", "ratio", "eps", "grid", "img", "scale")


@dataclass(frozen=True)
class Binding:
    """An attribute (with its old value) that follows the number of kept labels of one or several vectors.

    It is uncertain when the size was used by a module inside: then it follows only where the proof needs it.

    >>> inputs = SizeUse("head", "in", 4, (np.arange(1, 5),))
    >>> Binding("head", "in_features", 4, inputs).valued([3])
    Change(module='head', attribute='in_features', value=3)
    """

    module: str
    attribute: str
    old: Any
    use: SizeUse
    certain: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        """Identifies what is followed, whatever the groups."""
        return (*(v.tobytes() for v in self.use.vectors), self.use.scale, self.use.offset)

    def change(self, groups: Groups, sizes: IntArray) -> Change | None:
        """The attribute's value in a subnet; None where it stays."""
        return self.valued([int(np.count_nonzero(groups.kept(v, sizes))) for v in self.use.vectors])

    def valued(self, counts: Sequence[int]) -> Change | None:
        """The attribute's value for so many labels of each vector; None where it stays."""
        values = [round(self.use.scale * n + self.use.offset) for n in counts]
        value = type(self.old)(values) if isinstance(self.old, (tuple, list)) else values[0]
        return None if value == self.old else Change(self.module, self.attribute, value)


class Bindings:
    """Which of its possible bindings each attribute follows (None: it stays), and how else they could be chosen.

    Attributes of one name in modules of one type are chosen together: what holds in one block holds in the next.
    """

    def __init__(self, model: nn.Module, options: Sequence[Sequence[Binding]], groups: Groups) -> None:
        self.model, self.options, self.groups = model, options, groups
        self.chosen: list[int | None] = [0 if rows[0].certain else None for rows in options]
        self.names = [(type(model.get_submodule(rows[0].module)), rows[0].attribute) for rows in options]
        self.touched = [
            {g for row in rows for v in row.use.vectors for g in np.unique(groups.group_of[v]).tolist()}
            for rows in options
        ]
        self.learned: dict[tuple[type, str], int | None] = {}
        self.settled: set[int] = set()
        self.hopeless: set[frozenset[tuple[type, str]]] = set()

    def final(self) -> list[Binding]:
        return [options[i] for options, i in self._pairs() if i is not None]

    def _pairs(self) -> Iterable[tuple[Sequence[Binding], int | None]]:
        return zip(self.options, self.chosen, strict=True)

    def remember(self) -> dict[tuple[str, str], Any]:
        """What is chosen, in words that outlive a regrouping."""
        return {
            (options[0].module, options[0].attribute): None if i is None else options[i].key
            for options, i in self._pairs()
        }

    def recall(self, memory: Mapping[tuple[str, str], Any]) -> None:
        """Choose again what was chosen before, where it is still possible."""
        for n, options in enumerate(self.options):
            name = (options[0].module, options[0].attribute)
            keys = [option.key for option in options]
            if name in memory:
                key = memory[name]
                self.chosen[n] = None if key is None else keys.index(key) if key in keys else self.chosen[n]

    def following(self, group: int) -> frozenset[tuple[str, str, int | None]]:
        """The attributes that may follow a group, and what they follow now."""
        return frozenset(
            (options[0].module, options[0].attribute, i)
            for (options, i), touched in zip(self._pairs(), self.touched, strict=True)
            if group in touched
        )

    def alternatives(self, group: int) -> Iterator[set[int]]:
        """Choose otherwise for one group, in place, one way after the other; gives the groups that this touches."""
        mine = [n for n, touched in enumerate(self.touched) if group in touched]
        names = dict.fromkeys(self.names[n] for n in mine)
        start, family = list(self.chosen), frozenset(names)
        known = {name: self.learned[name] for name in names if name in self.learned}
        attempts = self._attempts(mine, start, known)
        for values in islice(attempts, 1 if family in self.hopeless else ATTEMPTS):
            self.chosen = [values.get(self.names[n], old) if n in mine else old for n, old in enumerate(start)]
            self._within(mine, start)
            if self.chosen == start:
                continue
            self._mine, self._trial = mine, {self.names[n]: self.chosen[n] for n in mine}
            yield set().union(*(self.touched[n] for n in mine if self.chosen[n] != start[n])) - {group}
        self.chosen = start
        self.hopeless.add(family)

    def keep(self) -> None:
        """The alternative at hand holds: attributes of the same names, with as many options, follow the same way, but
        for those that were settled before."""
        self.learned.update(self._trial)
        self.settled |= set(self._mine)
        alike = {(self.names[n], len(self.options[n])): self.chosen[n] for n in self._mine}
        for n, options in enumerate(self.options):
            if n not in self.settled:
                self.chosen[n] = alike.get((self.names[n], len(options)), self.chosen[n])

    def _within(self, mine: Sequence[int], start: Sequence[int | None]) -> None:
        for n in mine:
            i = self.chosen[n]
            if i is not None and i >= len(self.options[n]):
                self.chosen[n] = start[n]

    def _attempts(
        self, mine: Sequence[int], start: Sequence[int | None], known: Mapping[tuple[type, str], int | None]
    ) -> Iterator[Mapping[tuple[type, str], int | None]]:
        """By name of attribute: what was learned, one more, one less, one instead of another, another size, none."""
        yield known
        off = dict.fromkeys(self.names[n] for n in mine if start[n] is None)
        on = dict.fromkeys(self.names[n] for n in mine if start[n] is not None)
        most = max((len(self.options[n]) for n in mine), default=0)
        yield from ({name: i} for i in range(min(most, 2)) for name in off)
        yield dict.fromkeys(off, 0)
        yield from ({name: None} for name in on)
        yield from ({name: None for name in on if name[0] is kind} for kind in dict.fromkeys(name[0] for name in on))
        yield from ({name: 0, other: None} for name in off for other in on)
        yield from ({name: i} for i in range(1, most) for name in (*on, *off))
        yield dict.fromkeys(on)
        yield from ({other: None for other in on if other != name} for name in on)


def find_bindings(model: nn.Module, trace: Trace, groups: Groups) -> list[list[Binding]]:
    """For each attribute that may follow, its possible bindings, the likeliest first.

    >>> from ofa.groups import constrain, find_groups
    >>> from ofa.tracing import trace
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> flow = trace(network, (torch.zeros(1, 4),), {})
    >>> found = find_bindings(network, flow, find_groups(flow, constrain(flow, stays=lambda name: None)))
    >>> [(options[0].module, options[0].attribute, options[0].old) for options in found]
    [('0', 'out_features', 3), ('1', 'in_features', 3)]
    """
    own: dict[str, list[SizeUse]] = {}
    inner: dict[str, list[SizeUse]] = {}
    for use in (*trace.size_uses, *shapes(trace)):
        if any(groups.varies(vector) for vector in use.vectors):
            own.setdefault(use.module, []).append(use)
            for outer in enclosing(use.module):
                inner.setdefault(outer, []).append(use)
    for path, uses in list(own.items()):  # methods of a module that never runs are called by the one around it
        for name, _ in model.get_submodule(path).named_children():
            child = f"{path}.{name}" if path else name
            if child not in trace.ran:
                own[child] = [*own.get(child, ()), *uses]
    found = []
    for path in dict.fromkeys((*own, *inner)):
        for name, value in sizes_in(model.get_submodule(path)):
            certain = fitting(name, value, own.get(path, ()))
            options = certain or fitting(name, value, inner.get(path, ()))
            if options:
                found.append([Binding(path, name, value, use, bool(certain)) for use in options[:MOST]])
    return found


def fitting(name: str, value: Any, uses: Sequence[SizeUse]) -> list[SizeUse]:
    """The sizes that an attribute of this name and value may repeat, the likeliest first.

    >>> uses = [SizeUse("head", "out", 4, (np.arange(1, 5),)), SizeUse("head", "in", 4, (np.arange(5, 9),))]
    >>> [use.role for use in fitting("in_features", 4, uses)], [use.role for use in fitting("width", 4, uses)]
    (['in'], ['out', 'in'])
    """
    fit = distinct([lit for lit in uses if lit.value == normal(value) and lit.role in roles(name)])
    return sorted(fit, key=lambda lit: roles(name).index(lit.role))


def shapes(trace: Trace) -> Iterator[SizeUse]:
    """The sizes of every parameter, as its module may repeat them."""
    for name, vectors in trace.parameters.items():
        path = name.rpartition(".")[0]
        whole = [v for v in vectors if v is not None]
        for vector in whole:
            yield SizeUse(path, "size", len(vector), (vector,))
        if whole:
            yield SizeUse(path, "sizes", tuple(len(v) for v in whole), tuple(whole))


def enclosing(path: str) -> Iterator[str]:
    """The modules around a module, two levels.

    >>> list(enclosing("layer1.0.conv"))
    ['layer1.0', 'layer1']
    """
    for _ in range(2):
        if not path:
            return
        path = path.rpartition(".")[0]
        yield path


def sizes_in(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that hold a whole number or several, and may follow a number of channels.

    >>> dict(sizes_in(nn.Linear(4, 2)))
    {'in_features': 4, 'out_features': 2}
    """
    for name, value in vars(module).items():
        if name in ("training", "_modules", "_parameters", "_buffers"):
            continue
        whole = type(value) is int or (type(value) in (tuple, list) and value and all(type(v) is int for v in value))
        if whole and not any(word in name for word in OTHER):
            yield name, value


def normal(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def roles(name: str) -> Sequence[str]:
    """Kinds of sizes that an attribute of this name may repeat, the likeliest first.

    >>> roles("out_channels"), roles("num_heads")
    (('out',), ('groups', 'size', 'sizes', 'out', 'in'))
    """
    if name.startswith("in_"):
        return ("in",)
    if name.startswith("out_"):
        return ("out",)
    if "kernel" in name:
        return ("kernel",)
    if "padding" in name:
        return ("padding",)
    if name == "groups":
        return ("groups",)
    return ("groups", "size", "sizes", "out", "in")


def distinct(uses: Sequence[SizeUse]) -> list[SizeUse]:
    seen: dict[Any, SizeUse] = {}
    for use in uses:
        seen.setdefault((*(v.tobytes() for v in use.vectors), use.scale, use.offset), use)
    return list(seen.values())
