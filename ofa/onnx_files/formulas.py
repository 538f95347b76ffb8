"""Formulas: what a number in a graph follows, learned from graphs of several sizes of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from ofa.arrays import FloatArray
from ofa.onnx_files.graphs import Unsliceable, tensors_of


class Size(NamedTuple):
    """A whole number in a network: an attribute of a module (or a place in it), or a dimension of a tensor.

    >>> sizes_of(nn.Linear(4, 2))[Size("", "weight", 1)]
    4
    """

    module: str
    name: str
    place: int


Sizes = Mapping[Size, int]
POWERS = (1.0, -1.0, 0.5, -0.5, 0.25, -0.25)  # scales of attention are roots of sizes
SLOPES = (0.5, 1.0, 2.0)  # paddings are half of a kernel, less something
SCALED, SHIFTED = 2, 4  # modules away that a plainer formula may come from


def sizes_of(network: nn.Module) -> dict[Size, int]:
    """Every whole number that a network holds."""
    found = {}
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            for place, number in enumerate(value if isinstance(value, (tuple, list)) else (value,)):
                if type(number) is int:
                    found[Size(path, name, place)] = number
    for name, tensor in tensors_of(network):
        path, _, local = name.rpartition(".")
        found |= {Size(path, local, dim): size for dim, size in enumerate(tensor.shape)}
    return found


@dataclass(frozen=True)
class Formula:
    """A number that follows a size: `scale` · size ** `power` + `offset`.

    >>> Formula(Size("conv", "kernel_size", 0), scale=0.5, offset=-0.5)({Size("conv", "kernel_size", 0): 5})
    2.0
    """

    size: Size
    scale: float = 1.0
    power: float = 1.0
    offset: float = 0.0

    def __call__(self, sizes: Sizes) -> float:
        if self.size not in sizes:
            raise Unsliceable(f"the network has no {'.'.join(self.size[:2])}, which a number in its graph follows")
        return float(self.scale * sizes[self.size] ** self.power + self.offset)


class Learned:
    """The sizes that differ between several networks, as what explains numbers that differ between their graphs.

    Sizes in `blocks`, which may be skipped, explain numbers in the same block alone.

    >>> learned = Learned([sizes_of(nn.Linear(4, n)) for n in (8, 6)], [])
    >>> learned.formula(np.array([16, 12]), "")
    Formula(size=Size(module='', name='out_features', place=0), scale=2.0, power=1.0, offset=0.0)
    """

    def __init__(self, networks: Sequence[Sizes], blocks: Sequence[str]) -> None:
        shared = [size for size in networks[0] if all(size in sizes for sizes in networks)]
        table = np.array([[sizes[size] for sizes in networks] for size in shared]).reshape(len(shared), len(networks))
        differ = (table != table[:, :1]).any(axis=1) & (table > 0).all(axis=1)
        self.sizes = [size for size, one in zip(shared, differ, strict=True) if one]
        self.table = table[differ]  # (sizes, networks)
        self.blocks = blocks

    def formula(self, numbers: npt.NDArray[Any], module: str) -> Formula | None:
        """What numbers, one for each network, follow, seen from a module: the nearest size, the plainest formula."""
        whole = np.issubdtype(numbers.dtype, np.integer)
        found = [*self._scaled(numbers, POWERS[:1] if whole else POWERS), *(self._shifted(numbers) if whole else ())]
        reachable = [(cost, one) for cost, one in found if self._alive(one.size.module, module)]
        away = [cost + distance(one.size.module, module) for cost, one in reachable]
        return reachable[int(np.argmin(away))][1] if away else None

    def _scaled(self, numbers: npt.NDArray[Any], powers: Sequence[float]) -> list[tuple[int, Formula]]:
        found = []
        for power in powers:
            ratios = numbers / self.table**power
            for row in np.flatnonzero(even(ratios)):
                scale = float(ratios[row].mean())
                scale = round(scale) if abs(scale - round(scale)) < 1e-9 else scale
                found.append((SCALED * (scale != 1), Formula(self.sizes[row], float(scale), power)))
        return found

    def _shifted(self, numbers: npt.NDArray[Any]) -> list[tuple[int, Formula]]:
        found = []
        for slope in SLOPES:
            rest = numbers - slope * self.table
            rows = np.flatnonzero((rest == rest[:, :1]).all(axis=1))
            found += [(SHIFTED, Formula(self.sizes[row], slope, 1.0, float(rest[row, 0]))) for row in rows]
        return found

    def _alive(self, source: str, module: str) -> bool:
        """Whether a module is there wherever another is."""
        return all(inside(module, block) for block in self.blocks if inside(source, block))


def even(rows: FloatArray) -> npt.NDArray[np.bool_]:
    """Which rows hold one number, as exact as single precision."""
    close: npt.NDArray[np.bool_] = np.abs(rows - rows[:, :1]) <= 1e-6 * np.abs(rows[:, :1])
    return np.asarray(close.all(axis=1))


def inside(module: str, block: str) -> bool:
    """Whether a module is a block, or in it.

    >>> inside("layer1.0.conv", "layer1.0"), inside("layer1.01", "layer1.0")
    (True, False)
    """
    return f"{module}.".startswith(f"{block}.")


def distance(one: str, other: str) -> int:
    """Steps from module to module, by way of those around them.

    >>> distance("layer1.0.conv", "layer1.1"), distance("", "fc")
    (3, 1)
    """
    a, b = one.split(".") if one else [], other.split(".") if other else []
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return len(a) + len(b) - 2 * common
