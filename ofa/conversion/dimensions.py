"""Why each dimension of a layer is as it is: the choices that decide its size, or the reason why it stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.conversion.choices import units_of
from ofa.conversion.converter import Conversion
from ofa.groups import FIXED
from ofa.sparsity import TRANSPOSED

LEAST_KERNEL = 3  # of edges up to this nothing smaller is offered


@dataclass(frozen=True)
class Dimension:
    """One dimension of a layer (outputs, inputs, kernel, or one of another parameter): the `choices` that decide its
    size, or the `reason` why it stays."""

    name: str
    size: int
    choices: tuple[str, ...]
    reason: str = ""


class Reasons:
    """Looks up what decides or fixes a dimension of a converted network."""

    def __init__(self, found: Conversion) -> None:
        self.found = found
        self.decides = {g: one.choice.name for one in found.choices for g in one.sizes}

    @cached_property
    def kernels(self) -> set[bytes]:
        """The labels of the kernels that the trace met as odd squares."""
        return {kernel.vector.tobytes() for kernel in self.found.trace.kernels}

    def of(self, vector: IntArray, kernel: bool = False) -> tuple[tuple[str, ...], str]:
        """The choices that decide how many of these labels stay, or why all do."""
        owners = self.found.groups.group_of[vector]
        groups = list(dict.fromkeys(owners.tolist()))
        choices = tuple(dict.fromkeys(self.decides[g] for g in groups if g in self.decides))
        if choices:
            return choices, ""
        closed = (self._no_choice(g) for g in groups if g != FIXED)
        return (), self.found.constraints.why(vector) or next(closed, "") or self._no_group(vector, kernel)

    def _no_choice(self, index: int) -> str:
        """Why a group offers nothing."""
        group, config = self.found.groups.groups[index], self.found.config
        failure = self.found.proved.failures.get(group.name)
        if failure:
            return failure
        if group.kind == "kernel":
            return "kernels are whole (kernel=false)" if not config.kernel else "no smaller kernel is offered"
        if len(units_of(group, config.ratios, config)) < 2:
            channels = group.units * group.unit_size
            return f"{channels} channels have no smaller multiple of the divisor {config.divisor} in the ratios given"
        return f"the policy {config.policy!r} offers no width here"

    def _no_group(self, vector: IntArray, kernel: bool) -> str:
        """Why labels that nothing holds belong to no group."""
        units = np.unique(self.found.constraints.unit_of[vector])
        if kernel and vector.tobytes() not in self.kernels:
            return "no odd square kernel"
        if not self.found.constraints.useful[units].any():
            return "no convolution or matrix product works on it"
        if len(units) == 1:
            return f"its {len(vector)} indices are tied to one another"
        return "kernels without padding of their half change what lies at the border" if kernel else "no group fits"


def dimensions_of(name: str, module: nn.Module, reasons: Reasons) -> Iterator[tuple[str, Dimension]]:
    """(parameter, dimension) of a module's own parameters, those that could be smaller."""
    for local, parameter in module.named_parameters(recurse=False):
        full = f"{name}.{local}" if name else local
        for d, vector in enumerate(reasons.found.trace.parameters.get(full, ())):
            if vector is None:
                continue
            role = role_of(module, local, parameter.ndim, d)
            if role != "kernel" or len(vector) > LEAST_KERNEL:
                yield full, Dimension(role, len(vector), *reasons.of(vector, role == "kernel"))


def role_of(module: nn.Module, parameter: str, ndim: int, dim: int) -> str:
    """What a dimension of a parameter is to its layer."""
    if ndim == 1:
        return "outputs"
    if "weight" not in parameter:
        return f"{parameter} [{dim}]"
    if dim > 1:
        return "kernel"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return ("entries", "outputs")[dim]
    return ("outputs", "inputs")[dim ^ isinstance(module, TRANSPOSED)]


def merged(rows: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """One row of each name: a bias has the dimension of its weight."""
    found: dict[str, Dimension] = {}
    for row in rows:
        found.setdefault(row.name, row)
    return tuple(found.values())
