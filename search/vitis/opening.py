"""What of a network an elastic one may choose: groups that a convolution makes, without ends, without excludes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from ofa import SearchSpace, Supernet
from ofa.backbone import unwrapped
from ofa.groups import FIXED
from ofa.search.vitis.groups import Group, find_groups, open_groups
from ofa.search.vitis.settings import Layer, layer_of


@dataclass(frozen=True)
class Opening:
    """The groups and the space of a network, and its ends: the first and the last convolution to run, and those that
    have the same output channels."""

    model: nn.Module
    space: SearchSpace
    groups: tuple[Group, ...]
    ends: tuple[str, ...]

    @classmethod
    def of(cls, supernet: Supernet) -> Opening:
        modules, terms = dict(supernet.model.named_modules()), supernet.conversion.trace.macs
        ran = [term for term in terms if isinstance(modules[term.module], nn.modules.conv._ConvNd)]
        made = [{*np.unique(supernet.conversion.groups.group_of[term.vectors[0]]).tolist()} - {FIXED} for term in ran]
        theirs = set().union(*made[:1], *made[-1:])
        with_them = [term for term, groups in zip(ran, made, strict=True) if groups & theirs]
        ends = dict.fromkeys(term.module for term in (*ran[:1], *with_them, *ran[-1:]))
        return cls(supernet.model, supernet.space, tuple(find_groups(supernet)), tuple(ends))

    def choices(self, space: SearchSpace, stay: Iterable[str], keep_ends: bool, linear: bool) -> list[str]:
        """The choices of a space about none of the layers that `stay`, or are at an end.

        Widths are those of groups that a convolution makes, or with `linear` any layer.
        """
        fixed, least = {*stay, *(self.ends if keep_ends else ())}, 2 if linear else 3
        made = {name for name, module in self.model.named_modules() if dimensions(module) >= least}
        opened = [group for group in open_groups(self.groups, fixed, with_group_conv=True) if made & {*group.nodes}]
        widths = [group.name for group in opened if group.choice in space.choices]
        return [*widths, *(c.name for c in space.choices if c.kind == "kernel" and layer_of(c) not in fixed)]

    def closed(self, stay: Mapping[str, str], keep_ends: bool, linear: bool) -> str:
        """What of the arguments closes everything, in words: excludes with their reasons, or linear layers."""
        if self.choices(self.space, (), keep_ends, linear):
            return f": {', '.join(sorted(set(stay.values())))} bars everything"
        wide = self.choices(self.space, stay, keep_ends, linear=True)
        return "; ofa_model(linear=True) opens linear layers" if wide else ""


def elastic(model: nn.Module) -> Supernet:
    """The supernet inside what a script calls its model.

    Raises:
        TypeError: there is none.
    """
    found = unwrapped(model)
    if not isinstance(found, Supernet):
        raise TypeError(f"this needs the elastic network that ofa_model() gives, got {type(found).__name__}")
    return found


def dimensions(module: nn.Module) -> int:
    """Those of a module's own weight: 2 of a linear layer's, more of a convolution's."""
    return max((parameter.ndim for parameter in module.parameters(recurse=False)), default=0)


def chosen_by(layers: Iterable[Layer]) -> list[str]:
    """The names of the choices that decide about layers."""
    return [choice.name for layer in layers for choice in (layer.width, layer.kernel) if choice is not None]
