"""What of a network an elastic one may choose: groups that a convolution makes, without ends, without excludes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ofa import SearchSpace, Supernet
from ofa.search.vitis.groups import Group, find_groups, open_groups
from ofa.search.vitis.settings import Layer, layer_of


@dataclass(frozen=True)
class Opening:
    """The groups of a network, and the first and the last convolution to run."""

    model: nn.Module
    groups: tuple[Group, ...]
    ends: tuple[str, ...]

    @classmethod
    def of(cls, supernet: Supernet) -> Opening:
        modules, terms = dict(supernet.model.named_modules()), supernet.conversion.trace.macs
        ran = [term.module for term in terms if isinstance(modules[term.module], nn.modules.conv._ConvNd)]
        return cls(supernet.model, tuple(find_groups(supernet)), (*ran[:1], *ran[-1:]))

    def choices(self, space: SearchSpace, stay: Iterable[str], keep_ends: bool, linear: bool) -> list[str]:
        """The choices of a space about none of the layers that `stay`, or are at an end.

        Widths are those of groups that a convolution makes, or with `linear` any layer.
        """
        fixed, least = {*stay, *(self.ends if keep_ends else ())}, 2 if linear else 3
        made = {name for name, module in self.model.named_modules() if dimensions(module) >= least}
        opened = [group for group in open_groups(self.groups, fixed, with_group_conv=True) if made & {*group.nodes}]
        widths = [group.name for group in opened if group.choice in space.choices]
        return [*widths, *(c.name for c in space.choices if c.kind == "kernel" and layer_of(c) not in fixed)]


def dimensions(module: nn.Module) -> int:
    """Those of a module's own weight: 2 of a linear layer's, more of a convolution's."""
    return max((parameter.ndim for parameter in module.parameters(recurse=False)), default=0)


def chosen_by(layers: Iterable[Layer]) -> list[str]:
    """The names of the choices that decide about layers."""
    return [choice.name for layer in layers for choice in (layer.width, layer.kernel) if choice is not None]
