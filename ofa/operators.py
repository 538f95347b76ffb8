"""What each ATen operator does to channel labels: movement, pointwise, contraction, normalisation, reduction.

A rule takes the tracer, the call and its result, and gives the label layers of the result: a tuple of tensors, or a
list of such tuples where the operator has several outputs. No rule knows an architecture or a layer class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ofa.labels import Operand, compress, edge, varying
from ofa.tracing import Call, Kernel, Tracer

Layers = tuple[Tensor, ...]
Rule = Callable[[Tracer, Call, Any], "Layers | list[Layers]"]
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of every operator in `names`, with and without trailing underscore."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = RULES[name + "_"] = function
        return function

    return register


def rule_for(func: Any, call: Call) -> Rule:
    """The rule of an operator; the one that freezes where nobody knows the operator."""
    found = RULES.get(call.name)
    if found is not None:
        return found
    if torch.Tag.pointwise in func.tags:
        return pointwise
    return unknown if call.tensors else factory


@rule(
    "empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones new_full "
    "_local_scalar_dense"
)
def factory(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """New values belong to no channel; their size follows the sizes they were made from."""
    return [() for _ in result] if isinstance(result, (tuple, list)) else ()


def unknown(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """Freeze everything that an operator without a rule touches, and say so."""
    why = f"operator {call.name} is not understood ({tracer.why})"
    for tensor in call.tensors:
        for layer in tracer.tracked(tensor).layers:
            tracer.labels.freeze(layer, why)
    return factory(tracer, call, result)


@rule("hardswish prelu _prelu_kernel copy lerp")
def pointwise(tracer: Tracer, call: Call, result: Any) -> Layers:
    if len(call.tensors) == 1:
        return tracer.tracked(call.tensors[0]).layers
    return tuple(tracer.labels.merge([tracer.operand(t) for t in call.tensors], tracer.why))


@rule("clone _to_copy detach alias contiguous lift_fresh lift_fresh_copy native_dropout bernoulli")
def same(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    layers = tracer.tracked(call.tensors[0]).layers
    return layers if isinstance(result, Tensor) else [layers for _ in result]


# ---------------------------------------------------------------- data movement: run the operator on the labels


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
                tracer.labels.rectangular(layer, tracer.why)
            for d in along:
                line = edge(layer, d)
                tracer.add_literal("size", [line])
                sizes.append(line)
    if len(moved) > 1 and len(sizes) == len(moved):
        tracer.add_literal("sizes", list(sizes))
    if call.name in ("view", "_unsafe_view", "reshape"):
        shape = [constant(size) for size in result.shape]
        for layer in moved[0]:
            for d in varying(layer):
                shape[d] = edge(layer, d)
        tracer.add_literal("sizes", shape)
        tracer.add_literal("sizes", shape[1:])
    if call.name == "slice" and call.inputs.get("start"):
        dim = call.inputs.get("dim") or 0
        for layer in tracer.tracked(call.tensors[0]).layers:
            if varying(layer) == (dim,) and 0 < call.inputs["start"] < layer.shape[dim]:
                tracer.add_literal("size", [layer.narrow(dim, 0, call.inputs["start"]).reshape(-1)])


@rule("index")
def index(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    source, indices = call.tensors[0], call["indices"]
    for tensor in call.tensors[1:]:
        for layer in tracer.tracked(tensor).layers:
            tracer.labels.freeze(layer, tracer.why)
    return tuple(
        compress(torch.ops.aten.index(layer.expand(call.shapes[0]), indices)) for layer in tracer.tracked(source).layers
    )


@rule("_weight_norm_interface _weight_norm")
def weight_norm(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """v · g / |v|: one scale for each index along `dim`; a sum of squares does not change where zeros leave it."""
    layers = tuple(tracer.labels.merge([tracer.operand(t) for t in call.tensors[:2]], tracer.why))
    return layers if isinstance(result, Tensor) else [layers, tracer.tracked(call.tensors[1]).layers]


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


def unsqueezed(part: Operand, dim: int) -> Operand:
    shape = (*part.shape[:dim], 1, *part.shape[dim:])
    return Operand(
        shape,
        tuple(layer.unsqueeze(dim) for layer in part.layers),
        frozenset(d + (d >= dim) for d in part.rigid),
    )


# ---------------------------------------------------------------- contractions


def contract(tracer: Tracer, a: Operand, b: Operand, kind: str) -> list[Tensor]:
    """Multiply two operands that are laid out over (..., rows, columns, inner), and sum over the last dimension."""
    merged = tracer.labels.merge([a, b], tracer.why)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    labelled = {d for layer in merged for d in varying(layer)}
    constant = math.prod(size for d, size in enumerate(shape) if d not in labelled)
    tracer.add_macs(constant, merged, kind)
    for role, dim in (("in", -1), ("out", -2)):
        for layer in merged:
            if varying(layer) == (len(shape) + dim,):
                tracer.add_literal(role, [layer.reshape(-1)])
    summed = tracer.labels.reduce(merged, {len(shape) - 1}, tracer.why, mixing=False)
    return [layer.squeeze(-1) for layer in summed]


def rows(operand: Operand) -> Operand:
    """(..., rows, inner) as (..., rows, 1, inner)."""
    return unsqueezed(operand, len(operand.shape) - 1)


def transposed_last(operand: Operand) -> Operand:
    """(..., a, b) as (..., b, a)."""
    n = len(operand.shape)
    return Operand(
        (*operand.shape[:-2], operand.shape[-1], operand.shape[-2]),
        tuple(layer.transpose(-1, -2) for layer in operand.layers),
        frozenset({n - 1: n - 2, n - 2: n - 1}.get(d, d) for d in operand.rigid),
    )


def columns(operand: Operand) -> Operand:
    """(..., inner, columns) as (..., 1, columns, inner)."""
    return unsqueezed(transposed_last(operand), len(operand.shape) - 2)


@rule("mm bmm addmm baddbmm mv addmv dot linear matmul")
def matrix_product(tracer: Tracer, call: Call, result: Tensor) -> Layers | list[Layers]:
    biased = call.name.rstrip("_") in ("addmm", "baddbmm")
    if call.name.rstrip("_") not in ("mm", "bmm", "addmm", "baddbmm"):
        return unknown(tracer, call, result)
    bias, factors = (call.tensors[0], call.tensors[1:]) if biased else (None, call.tensors)
    a, b = (tracer.operand(t) for t in factors[:2])
    layers = contract(tracer, rows(a), columns(b), "matmul" if result.ndim == 3 else "linear")
    if bias is not None:
        product = Operand(tuple(result.shape), tuple(layers), fixed(result, layers))
        layers = tracer.labels.merge([product, tracer.operand(bias)], tracer.why)
    return tuple(layers)


def fixed(result: Tensor, layers: Sequence[Tensor]) -> frozenset[int]:
    labelled = {d for layer in layers for d in varying(layer)}
    return frozenset(d for d, size in enumerate(result.shape) if size > 1 and d not in labelled)


@rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math "
    "scaled_dot_product_attention"
)
def attention(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    query, key, value = (tracer.operand(call[name]) for name in ("query", "key", "value"))
    layers = contract(tracer, rows(query), columns(transposed_last(key)), "matmul")
    shape = (*query.shape[:-1], key.shape[-2])
    scores = Operand(shape, tuple(layers), frozenset())
    bias = call["attn_mask"] if call["attn_mask"] is not None else call["attn_bias"]
    if isinstance(bias, Tensor):
        scores = Operand(shape, tuple(tracer.labels.merge([scores, tracer.operand(bias)], tracer.why)), frozenset())
    out = tuple(contract(tracer, rows(scores), columns(value), "matmul"))
    return out if isinstance(result, Tensor) else [out, *(() for _ in list(result)[1:])]


@rule("convolution _convolution mkldnn_convolution cudnn_convolution")
def convolution(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    channels = 1 if result.ndim == weight.ndim else 0
    x_in = tracer.vector(x, channels)
    spectators(tracer, x, channels)
    transposed = bool(call["transposed"])
    w_in, w_out = tracer.vector(weight, 0 if transposed else 1), tracer.vector(weight, 1 if transposed else 0)
    out = grouped(tracer, x_in, w_in, w_out, groups, x.shape[channels], result.shape[channels], transposed)
    if bias is not None and out is not None and (b := tracer.vector(bias, 0)) is not None:
        tracer.labels.unify(b, out, tracer.why)
    note_convolution(tracer, call, result, out, x_in)
    batch = [layer for layer in tracer.tracked(x).layers if varying(layer) == (0,) and channels == 1]
    shape = [1] * result.ndim
    shape[channels] = -1
    return tuple(batch) + (() if out is None else (out.reshape(shape),))


def spectators(tracer: Tracer, x: Tensor, channels: int) -> None:
    """A convolution mixes neighbours: labels along the dimensions that it slides over must stay."""
    for layer in tracer.tracked(x).layers:
        if channels not in varying(layer) and any(d > channels for d in varying(layer)):
            tracer.labels.freeze(layer, f"slides over labelled positions: {tracer.why}")


def grouped(
    tracer: Tracer, x: Tensor | None, w_in: Tensor | None, w_out: Tensor | None,
    groups: int, c_in: int, c_out: int, transposed: bool,
) -> Tensor | None:  # fmt: skip
    """Unify a convolution's labels; equal positions of every group are one unit. Gives the output's labels."""
    unify, why = tracer.labels.unify, tracer.why
    if groups == 1:
        if x is not None and w_in is not None and c_in > 1:
            unify(x, w_in, why)
        return w_out
    x_groups = None if x is None else x.reshape(groups, c_in // groups)  # (groups, channels of a group)
    depthwise = c_in == groups
    if x_groups is not None and not depthwise:
        unify(x_groups[:1], x_groups, why)
    if transposed:
        if w_in is not None and x_groups is not None:
            unify(w_in.reshape(groups, -1), x_groups, why)
        if not depthwise:
            return None if w_out is None else w_out.repeat(groups)
        if w_out is not None and w_out.shape[0] > 1:
            tracer.labels.freeze(w_out, f"several outputs a channel: {why}")
        return None if x is None else x.repeat_interleave(c_out // groups)
    if depthwise:
        if w_out is not None and x_groups is not None:
            unify(w_out.reshape(groups, -1), x_groups, why)
        return w_out if w_out is not None else (None if x is None else x.repeat_interleave(c_out // groups))
    if w_in is not None and x_groups is not None and w_in.shape[0] > 1:
        unify(w_in, x_groups[0], why)
    if w_out is not None:
        by_group = w_out.reshape(groups, -1)
        unify(by_group[:1], by_group, why)
    return w_out


def note_convolution(tracer: Tracer, call: Call, result: Tensor, out: Tensor | None, x_in: Tensor | None) -> None:
    """Remember a convolution's cost, the sizes that its module repeats, and its kernel."""
    weight, groups, spatial = call["weight"], call["groups"], call["weight"].ndim - 2
    positions = math.prod((call["input"] if call["transposed"] else result).shape[-spatial:]) * (
        result.shape[0] if result.ndim == weight.ndim else 1
    )
    vectors: list[Tensor] = []
    for d in range(weight.ndim):
        vector = tracer.vector(weight, d)
        if vector is None and d == 0:
            vector = out
        vectors.append(torch.zeros(weight.shape[d], dtype=torch.int64) if vector is None else vector)
    plain = "pointwise" if math.prod(weight.shape[2:]) == 1 else "conv"
    kind = plain if groups == 1 else "depthwise" if groups == call["input"].shape[-spatial - 1] else "grouped"
    tracer.add_macs(positions, vectors, kind)
    tracer.add_literal("in", [x_in])
    tracer.add_literal("out", [out])
    if groups > 1 and x_in is not None:
        tracer.add_literal("groups", [x_in.reshape(groups, -1)[:, 0]])
    note_kernel(tracer, call, vectors[2:])


def note_kernel(tracer: Tracer, call: Call, edges: list[Tensor]) -> None:
    """An odd square kernel above 3 is elastic by centre crop; its edges are one vector of labels."""
    size, dilation = len(edges[0]), call["dilation"]
    same = [d * (size // 2) for d in dilation]
    square = all(len(e) == size for e in edges) and len(set(dilation)) == 1
    if (
        not square
        or size <= 3
        or size % 2 == 0
        or call["transposed"]
        or list(call["padding"]) not in (same, [0] * len(same))
    ):
        for e in edges:
            if len(e) > 1:
                tracer.labels.freeze(e, f"a kernel of {[len(e) for e in edges]} has no smaller centre: {tracer.why}")
        return
    for other in edges[1:]:
        tracer.labels.unify(edges[0], other, tracer.why)
    if (edges[0] == 0).any():
        return
    padded = list(call["padding"]) == same
    tracer.trace.kernels.append(Kernel(tracer.module, edges[0].numpy(), padded))
    tracer.add_literal("kernel", list(edges))
    if padded:
        tracer.add_literal("padding", list(edges), scale=dilation[0] / 2, offset=-dilation[0] / 2)
        tracer.add_literal("padding", list(edges) * 2, scale=dilation[0] / 2, offset=-dilation[0] / 2)


# ---------------------------------------------------------------- normalisations, reductions, neighbourhoods


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm batch_norm "
    "_batch_norm_impl_index _batch_norm_with_update _batch_norm_no_update miopen_batch_norm"
)
def batch_norm(tracer: Tracer, call: Call, result: Any) -> list[Layers]:
    x, labels = call.tensors[0], tracer.labels
    frozen_statistics = isinstance(call["running_mean"], Tensor) and not call["training"]
    channels = tracer.vector(x, 1)
    kept = [layer for layer in tracer.tracked(x).layers if 1 not in varying(layer)]
    if not frozen_statistics:
        kept = labels.reduce(kept, set(), tracer.why, mixing=True)
        for layer in kept:
            labels.mix(layer)
    if channels is None:
        return [tuple(kept)] + [() for _ in list(result)[1:]]
    for tensor in call.tensors[1:]:
        if tensor.ndim == 1 and (vector := tracer.vector(tensor, 0)) is not None:
            labels.unify(vector, channels, tracer.why)
    tracer.add_literal("out", [channels])
    shape = [1] * x.ndim
    shape[1] = -1
    return [(*kept, channels.reshape(shape))] + [() for _ in list(result)[1:]]


@rule("native_layer_norm _fused_rms_norm")
def layer_norm(tracer: Tracer, call: Call, result: Any) -> list[Layers]:
    x, n = call.tensors[0], len(call["normalized_shape"])
    trailing = set(range(x.ndim - n, x.ndim))
    kept = []
    for layer in tracer.tracked(x).layers:
        if set(varying(layer)) <= trailing:
            tracer.labels.mix(layer)
            kept.append(layer)
        elif (tied := tracer.labels.tie(layer, trailing, tracer.why)) is not None:
            kept.append(tied)
    operands = [Operand(tuple(x.shape), tuple(kept), fixed(x, kept))]
    operands += [tracer.operand(t) for t in call.tensors[1:]]
    merged = tuple(tracer.labels.merge(operands, tracer.why))
    sizes = [next((edge(m, d) for m in merged if d in varying(m)), None) for d in sorted(trailing)]
    tracer.add_literal("sizes", sizes)
    return [merged] + [() for _ in list(result)[1:]]


@rule("native_group_norm")
def group_norm(tracer: Tracer, call: Call, result: Any) -> list[Layers]:
    """Whole groups live and die together: what is left is normalised exactly as before."""
    x, groups = call.tensors[0], call["group"]
    channels = tracer.vector(x, 1)
    if channels is None:
        return [(), (), ()]
    by_group = channels.reshape(groups, -1)
    if groups == 1:
        tracer.labels.mix(channels)
    else:
        tracer.labels.unify(by_group[:, :1], by_group, tracer.why)
        tracer.add_literal("groups", [by_group[:, 0]])
    for tensor in call.tensors[1:]:
        if (vector := tracer.vector(tensor, 0)) is not None:
            tracer.labels.unify(vector, channels, tracer.why)
    tracer.add_literal("out", [channels])
    return [(channels.reshape([-1 if d == 1 else 1 for d in range(x.ndim)]),), (), ()]


@rule(
    "mean sum amax amin max min var std var_mean std_mean linalg_vector_norm logsumexp norm prod argmax argmin aminmax "
    "any all"
)
def reduction(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    if len(call.tensors) > 1:
        return pointwise(tracer, call, result)
    x, dim = call.tensors[0], call["dim"]
    every = dim is None or dim == []
    dims = set(range(x.ndim)) if every else {d % x.ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim])}
    kept = tracer.labels.reduce(tracer.tracked(x).layers, dims, tracer.why, mixing=True)
    if not call["keepdim"]:
        kept = [layer.reshape([s for d, s in enumerate(layer.shape) if d not in dims]) for layer in kept]
    layers = tuple(kept)
    return layers if isinstance(result, Tensor) else [layers for _ in result]


@rule("_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod sort")
def along_dimension(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    x = call.tensors[0]
    dim, kept = (call["dim"] if call["dim"] is not None else -1) % x.ndim, []
    for layer in tracer.tracked(x).layers:
        if varying(layer) == (dim,):
            tracer.labels.mix(layer)
            kept.append(layer)
        elif (tied := tracer.labels.tie(layer, [dim], tracer.why)) is not None:
            kept.append(tied)
    return tuple(kept) if isinstance(result, Tensor) else [tuple(kept) for _ in result]


@rule(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d "
    "adaptive_max_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d grid_sampler_2d"
)
def neighbourhood(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """Pooling, resizing, mirrored borders: channels pass, positions cannot be removed."""
    x = call.tensors[0]
    sliding = range(2, x.ndim) if x.ndim > 3 or "1d" in call.name else range(x.ndim - 2, x.ndim)
    tied = (tracer.labels.tie(layer, sliding, tracer.why) for layer in tracer.tracked(x).layers)
    layers = tuple(layer for layer in tied if layer is not None)
    return layers if isinstance(result, Tensor) else [layers for _ in result]


@rule("im2col col2im")
def unfolding(tracer: Tracer, call: Call, result: Tensor) -> Layers:
    """(batch, channels, height, width) to (batch, channels × kernel, positions), and back."""
    taps, channels = math.prod(call["kernel_size"]), tracer.vector(call.tensors[0], 1)
    spectators(tracer, call.tensors[0], 1)
    if channels is None:
        return ()
    if call.name == "im2col":
        return (channels.repeat_interleave(taps).reshape(1, -1, 1),)
    by_channel = channels.reshape(-1, taps)
    tracer.labels.unify(by_channel[:, :1], by_channel, tracer.why)
    return (by_channel[:, 0].reshape(1, -1, 1, 1),)
