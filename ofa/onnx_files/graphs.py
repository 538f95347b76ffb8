"""The ONNX graph of a network without its weights, as values that can be compared, cut and filled."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import Tensor, nn

from ofa.export import onnx_program, quiet

Place = tuple[int, str | int]
"""An operator of a graph by its position, and which of its attributes or inputs."""

SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the modules around an operator
WEIGHT = "weight"  # our note of an input that stands for a parameter or buffer
NUMBERS = {
    ir.AttributeType.INT,
    ir.AttributeType.INTS,
    ir.AttributeType.FLOAT,
    ir.AttributeType.FLOATS,
}


class Unsliceable(ValueError):
    """Why a graph cannot be made by slicing another."""


def open_graph(network: nn.Module, example: Any) -> ir.Model:
    """The exported network with its parameters and buffers as inputs; all else that is constant is folded.

    >>> import torch
    >>> model = open_graph(nn.Linear(4, 2), torch.zeros(1, 4))
    >>> [value.name for value in model.graph.inputs], len(model.graph.initializers)
    (['input', 'weight', 'bias'], 0)
    """
    from onnxscript import optimizer, rewriter

    model = onnx_program(network, example, optimize=False).model
    graph = model.graph
    for name in [name for name, _ in tensors_of(network) if name in graph.initializers]:
        value = graph.initializers.pop(name)
        value.const_value = None
        value.meta[WEIGHT] = True
        graph.inputs.append(value)
    with quiet():
        optimizer.fold_constants(model)
        rewriter.rewrite(model)
        optimizer.fold_constants(model)
        optimizer.remove_unused_nodes(model)
    return model


def tensors_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by all their names."""
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def operators(model: ir.Model) -> list[ir.Node]:
    """The nodes in their order, without those that only hold a constant."""
    return [node for node in model.graph if node.op_type != "Constant"]


def modules_around(node: ir.Node) -> list[str]:
    """The modules whose code called an operator, from the whole network inwards."""
    return [str(name) for name in ast.literal_eval(node.metadata_props.get(SCOPES, "['']"))][:-1] or [""]


def constants(model: ir.Model) -> dict[Place, npt.NDArray[Any]]:
    """Every number in a graph: attributes, and inputs that are known."""
    found: dict[Place, npt.NDArray[Any]] = {}
    for position, node in enumerate(operators(model)):
        for name, attribute in node.attributes.items():
            if attribute.type in NUMBERS:
                found[position, name] = np.asarray(attribute.value)
        for number, value in enumerate(node.inputs):
            if value is not None and value.const_value is not None:
                found[position, number] = value.const_value.numpy()
    return found


def skeleton(model: ir.Model) -> list[tuple[Any, ...]]:
    """A graph without its numbers: which operators, which results they take, and their other attributes."""
    nodes = operators(model)
    origin = {output: (i, n) for i, node in enumerate(nodes) for n, output in enumerate(node.outputs)}

    def named(value: ir.Value | None) -> Any:
        if value is None or value.const_value is not None:
            return None if value is None else "constant"
        return origin.get(value, value.name)

    return [
        (
            node.op_type,
            node.domain,
            tuple(named(value) for value in node.inputs),
            tuple((a.name, str(a.value)) for a in node.attributes.values() if a.type not in NUMBERS),
            tuple(a.name for a in node.attributes.values() if a.type in NUMBERS),
        )
        for node in nodes
    ]


def skip(model: ir.Model, block: str) -> None:
    """Let what takes a block's result take the block's input instead, as where the block is the identity.

    Raises:
        Unsliceable: it is not clear which values these are.
    """
    inner = {node for node in model.graph if block in modules_around(node)}
    leaving = [
        value
        for node in model.graph
        if node in inner and node.op_type != "Constant"
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in inner for use in value.uses())
    ]
    if not leaving:
        raise Unsliceable(f"nothing leaves the block {block} in the graph")
    entering = {
        value
        for node in inner
        for value in node.inputs
        if value is not None and value.producer() not in inner and (value.shape, value.dtype) == kind(leaving[-1])
    }
    if len(entering) != 1:
        raise Unsliceable(f"{len(entering)} values in the graph could be the input of the block {block}")
    leaving[-1].replace_all_uses_with(entering.pop(), replace_graph_outputs=True)


def kind(value: ir.Value) -> tuple[ir.Shape | None, ir.DataType | None]:
    """Shape and type of a value."""
    return value.shape, value.dtype
