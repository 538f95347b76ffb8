"""Attributes that repeat a size (`num_heads`, `groups`, `normalized_shape`, `padding` …), found in the data flow.

Wherever an operator was called with a size that can change, the attributes of the module that called it and that hold
this number are candidates. Nobody tells the program their names; the proof decides where several fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ofa.groups import Groups
from ofa.labels import IntArray
from ofa.slicing import Change
from ofa.tracing import Literal, Trace

# Attributes that never repeat a number of channels, heads or groups.
OTHER = ("stride", "dilation", "output_padding", "window", "shift", "ratio", "eps", "grid", "img", "scale")


@dataclass(frozen=True)
class Binding:
    """An attribute (with its old value) that follows the number of kept labels of one or several vectors."""

    module: str
    attribute: str
    old: Any
    literal: Literal

    def change(self, groups: Groups, sizes: IntArray) -> Change | None:
        """The attribute's value in a subnet; None where it stays."""
        counts = [int(np.count_nonzero(groups.kept(v, sizes))) for v in self.literal.vectors]
        values = [round(self.literal.scale * n + self.literal.offset) for n in counts]
        value = type(self.old)(values) if isinstance(self.old, (tuple, list)) else values[0]
        return None if value == self.old else Change(self.module, self.attribute, value)


def find_bindings(model: nn.Module, trace: Trace, groups: Groups) -> list[list[Binding]]:
    """For each attribute that may follow, its possible bindings, the likeliest first."""
    by_module: dict[str, list[Literal]] = {}
    for literal in trace.literals:
        if any(groups.varies(vector) for vector in literal.vectors):
            by_module.setdefault(literal.module, []).append(literal)
    found = []
    for path, literals in by_module.items():
        for name, value in sizes_in(model.get_submodule(path)):
            fitting = distinct([lit for lit in literals if lit.value == normal(value) and lit.role in roles(name)])
            fitting.sort(key=lambda lit: roles(name).index(lit.role))
            if fitting:
                found.append([Binding(path, name, value, literal) for literal in fitting])
    return found


def sizes_in(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name in ("training", "_modules", "_parameters", "_buffers"):
            continue
        whole = type(value) is int or (type(value) in (tuple, list) and value and all(type(v) is int for v in value))
        if whole and not any(word in name for word in OTHER):
            yield name, value


def normal(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def roles(name: str) -> Sequence[str]:
    """Kinds of sizes that an attribute of this name may repeat, the likeliest first."""
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


def distinct(literals: Sequence[Literal]) -> list[Literal]:
    seen: dict[Any, Literal] = {}
    for literal in literals:
        seen.setdefault((tuple(v.tobytes() for v in literal.vectors), literal.scale, literal.offset), literal)
    return list(seen.values())
