"""Data movement: the operator runs on the labels as it runs on the elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ofa.tracing.labels import Operand, compress, edge, unsqueezed, varying
from ofa.tracing.operators import Layers, rule
from ofa.tracing.tracer import Call, Tracer


@rule(
    "view reshape _unsafe_view _reshape_alias permute transpose t squeeze unsqueeze expand slice select split "
    "split_with_sizes chunk unbind unfold repeat flip roll diagonal pixel_shuffle pixel_unshuffle channel_shuffle "
    "native_channel_shuffle as_strided index_select unsafe_split unsafe_split_with_sizes unsafe_chunk"
)
def movement(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    source = call.tensors[0]
    for index in call.tensors[1:]:
        for layer in tracer.tracked(index).layers:
            tracer.labels.freeze(layer, tracer.why)
    align_parts(tracer, call)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    moved: list[list[Tensor]] = [[] for _ in outputs]
    for layer in tracer.tracked(source).layers:
        results = moved_labels(call, laid_out(call, layer.expand(call.shapes[0])))
        for kept, labels in zip(moved, [results] if isinstance(results, Tensor) else results, strict=True):
            kept.append(compress(labels))
    tracer.note_sizes(source)
    note_sizes(tracer, call, result, moved)
    per_output = [tuple(layers) for layers in moved]
    return per_output[0] if isinstance(result, Tensor) else per_output


def align_parts(tracer: Tracer, call: Call) -> None:
    """Where one number is the size of every part (a split) or the distance of what is taken (a slice with a step),
    equal positions of all parts are one unit."""
    dim = (call["dim"] or 0) % max(1, len(call.shapes[0]))
    size = call["split_size"] if "split" in call.name else call["step"] if call.name == "slice" else 1
    if not isinstance(size, int) or size < 2 or (call.name == "slice" and (call["start"] or 0) >= size):
        return
    for layer in tracer.tracked(call.tensors[0]).layers:
        whole = layer.shape[dim] // size * size
        if dim in varying(layer) and whole:
            parts = layer.narrow(dim, 0, whole).unflatten(dim, (-1, size))
            # a split's parts lose the same positions; a slice's steps are kept or lost whole
            first = parts.narrow(dim + (call.name == "slice"), 0, 1)
            tracer.labels.unify(first, parts, tracer.why)


def laid_out(call: Call, labels: Tensor) -> Tensor:
    """Labels in memory as the tensor's elements are, where the operator reads memory."""
    if call.name.rstrip("_") != "as_strided":
        return labels
    return torch.empty_strided(call.shapes[0], call.strides, dtype=torch.int64).copy_(labels)


def moved_labels(call: Call, labels: Tensor) -> Any:
    name = call.name.rstrip("_") if call.name not in ("view", "_unsafe_view") else "reshape"
    arguments = list(call.inputs.values())[1:]
    if name in ("_unsafe_view", "_reshape_alias", "view"):
        return labels.reshape(arguments[0])
    return getattr(torch.ops.aten, name)(labels, *arguments)


def constant(size: int) -> Tensor:
    """A dimension without labels."""
    return torch.zeros(size, dtype=torch.int64)


def note_sizes(tracer: Tracer, call: Call, result: Any, moved: Sequence[Sequence[Tensor]]) -> None:
    """Remember the sizes that a view, split or slice was called with: an attribute may repeat them."""
    sizes: list[Tensor] = []
    for layers in moved:
        for layer in layers:
            along = varying(layer)
            if len(along) > 1:
                tracer.labels.rectangular(layer)
            for d in along:
                line = edge(layer, d)
                tracer.add_size_use("size", [line])
                sizes.append(line)
    if len(moved) > 1 and len(sizes) == len(moved):
        tracer.add_size_use("sizes", list(sizes))
    if call.name in ("view", "_unsafe_view", "reshape"):
        shape = [constant(size) for size in result.shape]
        for layer in moved[0]:
            for d in varying(layer):
                shape[d] = edge(layer, d)
        tracer.add_size_use("sizes", shape)
        tracer.add_size_use("sizes", shape[1:])
    if call.name == "slice" and call.inputs.get("start"):
        dim = call.inputs.get("dim") or 0
        for layer in tracer.tracked(call.tensors[0]).layers:
            if varying(layer) == (dim,) and 0 < call.inputs["start"] < layer.shape[dim]:
                tracer.add_size_use("size", [layer.narrow(dim, 0, call.inputs["start"]).reshape(-1)])


@rule("index")
def index(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    source, indices = call.tensors[0], call["indices"]
    for tensor in call.tensors[1:]:
        for layer in tracer.tracked(tensor).layers:
            tracer.labels.freeze(layer, tracer.why)
    return tuple(
        compress(torch.ops.aten.index(layer.expand(call.shapes[0]), indices)) for layer in tracer.tracked(source).layers
    )


@rule("embedding")
def embedding(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    weight = call.tensors[0]
    rows = tracer.vector(weight, 0)
    if rows is not None:
        tracer.labels.freeze(rows, f"rows of a table: {tracer.why}")
    columns = tracer.vector(weight, 1)
    return () if columns is None else (columns.reshape((1,) * (result.ndim - 1) + (-1,)),)


@rule("constant_pad_nd")
def padding(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    """New border elements belong to no channel, and matter only along dimensions in which labels vary."""
    amounts, ndim = list(call["pad"]), result.ndim
    layers = []
    for layer in tracer.tracked(call.tensors[0]).layers:
        own = [0] * (2 * ndim)
        for i in range(len(amounts) // 2):
            if ndim - 1 - i in varying(layer):
                own[2 * i : 2 * i + 2] = amounts[2 * i : 2 * i + 2]
        layers.append(torch.ops.aten.constant_pad_nd(layer, own, 0))
    return tuple(layers)


@rule("cat concat stack")
def concatenation(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    """Labels stand one after the other along `dim`; along every other dimension they must agree."""
    dim = (call["dim"] or 0) % result.ndim
    parts = [tracer.operand(t) for t in call.tensors if t.numel()]
    if call.name == "stack":
        parts = [unsqueezed(part, dim) for part in parts]
    across = [Operand((*p.shape[:dim], 1, *p.shape[dim + 1 :]), others(p, dim), p.rigid - {dim}) for p in parts]
    merged = list(tracer.labels.merge(across, tracer.why)) if any(p.layers for p in across) else []
    pieces, outer = (
        [],
        {d for p in parts for layer in p.layers if dim in varying(layer) for d in varying(layer)},
    )
    for part in parts:
        along = [layer for layer in part.layers if dim in varying(layer)]
        for extra in along[1:]:
            tracer.labels.freeze(extra, tracer.why)
        shape = [size if d in outer or d == dim else 1 for d, size in enumerate(part.shape)]
        pieces.append(along[0].expand(shape) if along else missing(part, merged, outer, dim, shape))
    if any((piece != 0).any() for piece in pieces) and dim in outer:
        merged = [m for m in merged if not set(varying(m)) & outer]
        merged.append(compress(torch.cat(pieces, dim)))
    return tuple(merged)


def missing(part: Operand, merged: list[Tensor], outer: set[int], dim: int, shape: list[int]) -> Tensor:
    """Labels of a part that has none along `dim`: those that vary along the same outer dimensions, else none."""
    for layer in part.layers:
        if set(varying(layer)) & outer:
            return layer.expand(shape)
    return torch.zeros(shape, dtype=torch.int64)


def others(part: Operand, dim: int) -> Layers:
    return tuple(layer for layer in part.layers if dim not in varying(layer))
