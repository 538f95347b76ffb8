"""Contractions: convolutions, matrix products and attention; their costs, and the sizes that their modules repeat."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ofa.tracing.labels import Operand, fixed, unsqueezed, varying
from ofa.tracing.operators import Layers, rule, unknown
from ofa.tracing.tracer import Call, Kernel, Tracer


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
                tracer.add_size_use(role, [layer.reshape(-1)])
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


@rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math "
    "scaled_dot_product_attention"
)
def attention(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    query, *others = (tracer.operand(call[name]) for name in ("query", "key", "value"))
    key, value = (for_queries(operand, query) for operand in others)
    layers = contract(tracer, rows(query), columns(transposed_last(key)), "matmul")
    shape = (*query.shape[:-1], key.shape[-2])
    scores = Operand(shape, tuple(layers), frozenset())
    bias = call["attn_mask"] if call["attn_mask"] is not None else call["attn_bias"]
    if isinstance(bias, Tensor):
        scores = Operand(shape, tuple(tracer.labels.merge([scores, tracer.operand(bias)], tracer.why)), frozenset())
    out = tuple(contract(tracer, rows(scores), columns(value), "matmul"))
    return out if isinstance(result, Tensor) else [out, *(() for _ in list(result)[1:])]


def for_queries(operand: Operand, query: Operand) -> Operand:
    """Keys or values (…, heads, positions, channels), each head as often as queries share it."""
    heads, own = (o.shape[-3] if len(o.shape) > 3 else 1 for o in (query, operand))
    if own in (1, heads):
        return operand
    layers = (e.repeat_interleave(heads // own, -3) if e.shape[-3] > 1 else e for e in operand.layers)
    return Operand((*operand.shape[:-3], heads, *operand.shape[-2:]), tuple(layers), operand.rigid)


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
        unify(x_groups[:1], x_groups, why, across=True)
    if transposed:
        if w_in is not None and x_groups is not None:
            unify(w_in.reshape(groups, -1), x_groups, why)
        if not depthwise:
            return None if w_out is None else in_every_group(tracer, w_out, groups)
        if w_out is not None and w_out.shape[0] > 1:
            tracer.labels.freeze(w_out, f"several outputs a channel: {why}")
        return None if x is None else x.repeat_interleave(c_out // groups)
    if depthwise:
        if w_out is not None and x_groups is not None:
            unify(w_out.reshape(groups, -1), x_groups, why)
        return w_out if w_out is not None else (None if x is None else x.repeat_interleave(c_out // groups))
    if w_in is not None and x_groups is not None and w_in.shape[0] > 1:
        unify(w_in, x_groups[0], why, across=True)
    if w_out is not None:
        by_group = w_out.reshape(groups, -1)
        unify(by_group[:1], by_group, why, across=True)
    return w_out


def in_every_group(tracer: Tracer, labels: Tensor, groups: int) -> Tensor:
    """Labels of the channels of all groups, for those of one that a weight has."""
    channels = tracer.labels.fresh(groups * len(labels))
    tracer.labels.unify(labels, channels.reshape(groups, -1), tracer.why, across=True)
    return channels


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
    tracer.add_size_use("in", [x_in])
    tracer.add_size_use("out", [out])
    if groups > 1 and x_in is not None:
        tracer.add_size_use("groups", [x_in.reshape(groups, -1)[:, 0]])
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
    tracer.kernels.append(Kernel(tracer.module, edges[0].numpy(), padded))
    tracer.add_size_use("kernel", list(edges))
    # Where the input was padded before (mirrored borders), attributes repeat the padding all the same.
    tracer.add_size_use("padding", list(edges), scale=dilation[0] / 2, offset=-dilation[0] / 2)
    tracer.add_size_use("padding", list(edges) * 2, scale=dilation[0] / 2, offset=-dilation[0] / 2)


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
