"""A template: one ONNX graph of a family of networks, and what each number in it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

from ofa.export import quiet
from ofa.onnx_files.formulas import Formula, Learned, Sizes, sizes_of
from ofa.onnx_files.graphs import (
    WEIGHT,
    Place,
    Unsliceable,
    constants,
    modules_around,
    operators,
    skeleton,
    skip,
    tensors_of,
)

LONGEST = 64  # numbers of a constant that are explained one by one


@dataclass(frozen=True)
class Hole:
    """A constant that follows sizes: its numbers one by one, or those that a `table` is computed from."""

    numbers: tuple[Formula | float, ...]
    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    table: bool = False

    def value(self, sizes: Sizes) -> npt.NDArray[Any]:
        """The constant in a network of such sizes.

        Raises:
            Unsliceable: it would be a fraction where it is a whole number.
        """
        exact = [one(sizes) if isinstance(one, Formula) else one for one in self.numbers]
        if np.issubdtype(self.dtype, np.integer) and any(abs(number - round(number)) > 1e-6 for number in exact):
            raise Unsliceable(f"{exact} are whole numbers in the graph")
        if self.table:
            return tabulated(exact, self.dtype)
        rounded = np.round(exact) if np.issubdtype(self.dtype, np.integer) else exact
        return np.array(rounded, self.dtype).reshape(self.shape)


def tabulated(numbers: Sequence[float], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A table that begins with a number and rises evenly along each dimension: its shape, the steps, the number.

    >>> tabulated([2, 3, 10, 1, 0], np.int64).tolist()
    [[0, 1, 2], [10, 11, 12]]
    """
    dims = len(numbers) // 2
    table = np.full([round(size) for size in numbers[:dims]], numbers[-1], dtype)
    for dim, step in enumerate(numbers[dims:-1]):
        along = np.arange(table.shape[dim]).reshape([-1 if d == dim else 1 for d in range(dims)])
        table = (table + along * step).astype(dtype)
    return table


def untabulated(table: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The numbers that a table is made of, None where it is no such table.

    >>> untabulated(np.array([[0, 1, 2], [10, 11, 12]])).tolist(), untabulated(np.array([0, 1, 4]))
    ([2, 3, 10, 1, 0], None)
    """
    if not table.size:
        return None
    first = table.flat[0]
    ends = [table.take(min(1, size - 1), dim).flat[0] for dim, size in enumerate(table.shape)]
    numbers = np.array([*table.shape, *(end - first for end in ends), first])
    return numbers if np.array_equal(tabulated(numbers.tolist(), table.dtype), table) else None


@dataclass(frozen=True)
class Template:
    """The graph of the first of several networks that differ in their sizes; the others show what follows which size.

    `blocks` are modules that may be the identity in other networks.

    >>> networks = [nn.Sequential(nn.Linear(4, n), nn.Linear(n, 2)) for n in (8, 6, 3)]
    >>> from ofa.onnx_files.graphs import open_graph
    >>> graphs = [open_graph(network, torch.zeros(1, 4)) for network in networks[:2]]
    >>> template = Template.of(graphs, [sizes_of(network) for network in networks[:2]])
    >>> model = template.filled(networks[2], [torch.zeros(1, 4)], [torch.zeros(1, 2)])
    >>> [tuple(value.shape) for value in model.graph.initializers.values()]
    [(3, 4), (3,), (2, 3), (2,)]
    """

    model: ir.Model
    holes: Mapping[Place, Hole]
    blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Sequence[ir.Model], sizes: Sequence[Sizes], blocks: Sequence[str] = ()) -> Template:
        """A template from the graphs and sizes of the networks.

        Raises:
            Unsliceable: the graphs have other operators, or a number that no size explains.
        """
        check_alike(models)
        learned, nodes = Learned(sizes, blocks), operators(models[0])
        numbers = [constants(model) for model in models]
        holes = {}
        for place in numbers[0]:
            values = [one[place] for one in numbers]
            if any(not np.array_equal(value, values[0]) for value in values):
                holes[place] = explained(values, nodes[place[0]], learned)
        return cls(models[0], holes, tuple(blocks))

    def filled(self, network: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> ir.Model:
        """The graph of another network of the family, with its weights, as the exporter gives it.

        `inputs` and `outputs` say how large these are.

        Raises:
            Unsliceable: the network is of another family.
        """
        model, sizes = self.model.clone(), sizes_of(network)
        nodes = operators(model)
        skipped = [block for block in self.blocks if isinstance(network.get_submodule(block), nn.Identity)]
        for (position, place), hole in self.holes.items():
            node = nodes[position]
            if not set(skipped) & set(modules_around(node)):
                put(model, node, place, hole.value(sizes))
        for block in skipped:
            skip(model, block)
        fill(model, dict(tensors_of(network)))
        resize(model, inputs, outputs)
        with quiet():
            torch.onnx.ONNXProgram(model, None).optimize()
        return model


def check_alike(models: Sequence[ir.Model]) -> None:
    """Refuse graphs that differ in more than numbers.

    Raises:
        Unsliceable: what differs.
    """
    first = skeleton(models[0])
    for other in map(skeleton, models[1:]):
        if len(other) != len(first):
            raise Unsliceable(f"another size has other operators: {len(other)}, not {len(first)}")
        differ = [(a, b) for a, b in zip(first, other, strict=True) if a != b]
        if differ:
            raise Unsliceable(f"another size has other operators: {differ[0][1][:3]}, not {differ[0][0][:3]}")


def explained(values: Sequence[npt.NDArray[Any]], node: ir.Node, learned: Learned) -> Hole:
    """What a constant follows whose values in several graphs differ.

    Raises:
        Unsliceable: no size explains it.
    """
    first, module = values[0], modules_around(node)[-1]
    shown = f"{node.op_type} in {module or 'the network'}"
    table = any(value.shape != first.shape for value in values) or first.size > LONGEST
    rows = [untabulated(value) if table else value.ravel() for value in values]
    known = [row for row in rows if row is not None]
    if len({len(row) for row in known}) > 1 or len(known) < len(rows):
        raise Unsliceable(f"{shown} holds a table that no size explains")
    found: list[Formula | float] = []
    for row in np.stack(known, axis=1):  # (numbers, graphs)
        one = row[0].item() if (row == row[0]).all() else learned.formula(row, module)
        if one is None:
            raise Unsliceable(f"{shown} holds {row.tolist()} in networks of several sizes, which no size explains")
        found.append(one)
    return Hole(tuple(found), first.shape, first.dtype, table)


def put(model: ir.Model, node: ir.Node, place: str | int, value: npt.NDArray[Any]) -> None:
    """A constant in its place."""
    if isinstance(place, str):
        old = node.attributes[place]
        node.attributes[place] = ir.convenience.convert_attribute(place, value.tolist(), old.type)
        return
    tensor = ir.tensor(value, name=f"{node.name}_{place}")
    constant = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(value.shape), const_value=tensor
    )
    model.graph.register_initializer(constant)
    node.replace_input_with(place, constant)


def fill(model: ir.Model, tensors: Mapping[str, Tensor]) -> None:
    """Weights in place of the inputs that stand for them; what nothing takes is left out.

    Raises:
        Unsliceable: one that is needed is missing.
    """
    from onnxscript import optimizer

    optimizer.remove_unused_nodes(model)
    for value in [value for value in model.graph.inputs if WEIGHT in value.meta]:
        model.graph.inputs.remove(value)
        if not value.uses():
            continue
        if (known := tensors.get(str(value.name))) is None:
            raise Unsliceable(f"the network has no {value.name}")
        tensor = TorchTensor(known.detach(), name=value.name)
        value.const_value, value.shape = tensor, tensor.shape
        model.graph.register_initializer(value)


def resize(model: ir.Model, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Sizes of what goes in and out as they are, those that may be any stay so; those between are to be found anew."""
    for node in model.graph:
        for value in node.outputs:
            value.shape = None if not value.is_graph_output() else value.shape
    for values, tensors in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            if value.shape is not None:
                known = zip(value.shape, tensor.shape, strict=True)
                value.shape = ir.Shape([size if isinstance(old, int) else old for old, size in known])
