"""Settings of subnets as the Vitis AI Optimizer's once-for-all pruner writes them: lists of groups of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ofa import Choice, SearchSpace, Subnet, Supernet
from ofa.search.vitis.groups import find_groups, output_axis
from ofa.search.vitis.names import module_of

Setting = list[list[dict[str, Any]]]
"""Groups of entries, one a layer: its name, its candidate widths and kernels, and the active ones (-1: not said)."""

ACTIVE = ("active_out_channel", "active_kernel_size")
CANDIDATES = ("candidate_out_channel_list", "candidate_kernel_size_list")


@dataclass(frozen=True)
class Layer:
    """A layer with the choices that decide its output channels and its kernel, and what each option gives it."""

    name: str
    width: Choice | None
    channels: tuple[int, ...]
    kernel: Choice | None
    edges: tuple[tuple[int, ...], ...]

    def entry(self, space: SearchSpace, subnet: Subnet | None) -> dict[str, Any]:
        """This layer in the list of a space, and of a subnet of it."""
        return {
            "dynamic_conv_module_name": self.name,
            CANDIDATES[0]: offered(self.width, self.channels, space),
            ACTIVE[0]: self._active(self.width, self.channels, subnet),
            CANDIDATES[1]: offered(self.kernel, self.edges, space),
            ACTIVE[1]: self._active(self.kernel, self.edges, subnet),
        }

    @staticmethod
    def _active(choice: Choice | None, values: Sequence[Any], subnet: Subnet | None) -> Any:
        if subnet is None:
            return -1
        return values[-1] if choice is None else values[choice.options.index(subnet[choice.name])]


def offered(choice: Choice | None, values: Sequence[Any], space: SearchSpace) -> list[Any]:
    """The values of the options that a part of the space still has."""
    if choice is None:
        return list(values)
    return [v for option, v in zip(choice.options, values, strict=True) if option in space[choice.name].options]


class Settings:
    """The layers of a supernet in groups, and its subnets in Vitis' lists and back."""

    def __init__(self, supernet: Supernet, space: SearchSpace) -> None:
        self.space = space
        modules = dict(supernet.model.named_modules())
        chosen = [choice for choice in space.choices if len(choice.options) > 1]
        kernels = {layer_of(choice): choice for choice in chosen if choice.kind == "kernel"}
        self.groups: list[list[Layer]] = []
        for group in find_groups(supernet):
            nodes = [n for n in group.nodes if group.choice in chosen and n in modules and modules[n]._parameters]
            layers = []
            for node in nodes:
                widths, kernel = channels_of(supernet, node, modules[node], group.choice), kernels.pop(node, None)
                layers.append(Layer(node, group.choice, widths, kernel, edges_of(modules[node], kernel)))
            self.groups += [layers] if layers else []
        for name, choice in kernels.items():
            width = (getattr(modules[name], "out_channels", 0),)
            self.groups.append([Layer(name, None, width, choice, edges_of(modules[name], choice))])

    def of(self, subnet: Subnet | None, space: SearchSpace | None = None) -> Setting:
        """The list of a subnet, or of the space (or a part of it) without."""
        return [[layer.entry(space or self.space, subnet) for layer in group] for group in self.groups]

    def subnet(self, setting: Sequence[Any]) -> Subnet:
        """The subnet of a list, ours or Vitis'; what it does not name stays whole.

        Raises:
            ValueError: a layer, a width or a kernel that is not here, or none of its own candidates, or layers of a
                group that differ.
        """
        for entry in entries(setting):
            check_own(entry)
        said: dict[str, int | str] = {}
        for layer, choice, options, key, value in self._said(setting, ACTIVE):
            if value != -1:
                option = choice.options[position(layer, key, options, value)]
                if said.setdefault(choice.name, option) != option:
                    raise ValueError(f"{layer}: {key} {value} differs from the other layers of {choice.name}")
        return self.space.largest.replace(**said)

    def part(self, setting: Sequence[Any]) -> SearchSpace:
        """The part of the space that a list with shorter candidate lists leaves.

        Raises:
            ValueError: a layer or a candidate that is not here, none is left, or layers of a group differ.
        """
        kept: dict[str, list[int | str]] = {}
        for layer, choice, options, key, values in self._said(setting, CANDIDATES):
            found = [choice.options[position(layer, key, options, value)] for value in values]
            if kept.setdefault(choice.name, found) != found:
                raise ValueError(f"{layer}: {key} {values} differs from the other layers of {choice.name}")
        return self.space.restrict(kept)

    def _said(
        self, setting: Sequence[Any], keys: tuple[str, str]
    ) -> Iterator[tuple[str, Choice, Sequence[Any], str, Any]]:
        """What a list says of each choice: the layer, the choice, what its options mean there, the key, the value.

        A layer that has no choice here may be named if it is whole.
        """
        layers = {layer.name: layer for group in self.groups for layer in group}
        for entry in entries(setting):
            name = module_of(str(entry["dynamic_conv_module_name"]))
            if name not in layers:
                if entry.get(ACTIVE[0]) == max(entry.get(CANDIDATES[0]) or [None]):
                    continue
                raise ValueError(f"{name} is no elastic layer of this network; elastic are {', '.join(layers)}")
            layer = layers[name]
            rows = ((layer.width, layer.channels), (layer.kernel, layer.edges))
            for (choice, options), key in zip(rows, keys, strict=True):
                if choice is not None and key in entry:
                    yield name, choice, options, key, entry[key]


def entries(setting: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The entries of all groups; Vitis ends a list with one that only has a `net_id`."""
    try:
        groups = [group for group in setting if not isinstance(group, Mapping)]
        rows: list[Mapping[str, Any]] = [dict(entry) for group in groups for entry in group]
        if rows and all("dynamic_conv_module_name" in row for row in rows):
            return rows
    except (TypeError, ValueError):
        pass
    raise ValueError(f"a setting is a list of groups of layers with dynamic_conv_module_name, got {str(setting)[:80]}")


def check_own(entry: Mapping[str, Any]) -> None:
    """Raise a ValueError where the width or the kernel of an entry is none of the candidates that it lists itself."""
    for active, candidates in zip(ACTIVE, CANDIDATES, strict=True):
        value = entry.get(active, -1)
        if candidates in entry and value != -1:
            own = [tuple(one) if isinstance(one, list) else one for one in entry[candidates]]
            position(str(entry["dynamic_conv_module_name"]), active, own, value)


def position(name: str, key: str, options: Sequence[Any], value: Any) -> int:
    """Where a value is among options; JSON has lists for tuples."""
    value = tuple(value) if isinstance(value, (list, tuple)) else value
    if value not in options:
        raise ValueError(f"{name}: {key} {value} is not offered; allowed: {list(options)}")
    return list(options).index(value)


def channels_of(supernet: Supernet, node: str, module: nn.Module, choice: Choice) -> tuple[int, ...]:
    """The output channels of a layer at each option of a choice, the other choices at their largest."""
    name, weight = main_weight(module)
    axis = output_axis(module, weight.ndim) or 0
    copies = max(getattr(module, "out_channels", 0) // weight.shape[axis], 1)
    found = []
    for option in choice.options:
        index = supernet.plan(supernet.space.largest.replace(**{choice.name: option})).indices.get(f"{node}.{name}")
        kept = None if index is None else index[axis]
        size = weight.shape[axis] if kept is None else length(kept)
        found.append(size * copies)
    return tuple(found)


def main_weight(module: nn.Module) -> tuple[str, nn.Parameter]:
    """The parameter with the most dimensions of a module's own, the largest of these, and its name."""
    return max(module.named_parameters(recurse=False), key=lambda item: (item[1].ndim, item[1].numel()))


def layer_of(kernel: Choice) -> str:
    """The layer of a kernel's choice."""
    return kernel.name.removesuffix(".kernel")


def length(index: Any) -> int:
    return index.stop - index.start if isinstance(index, slice) else int(index.shape[-1])


def edges_of(module: nn.Module, choice: Choice | None) -> tuple[tuple[int, ...], ...]:
    """The kernel of a layer at each option of its choice, by its weight's shape, whatever the layer calls it."""
    own = tuple(main_weight(module)[1].shape[2:]) or (1, 1)  # a linear layer is a convolution of one place
    return (own,) if choice is None else tuple((int(edge),) * len(own) for edge in choice.options)
