"""Normalisations, reductions, and operators that slide over neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ofa.tracing.labels import Operand, edge, fixed, varying
from ofa.tracing.operators import Layers, pointwise, rule
from ofa.tracing.tracer import Call, Tracer


@rule("_weight_norm_interface _weight_norm")
def weight_norm(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """v · g / |v|: one scale for each index along `dim`; a sum of squares does not change where zeros leave it."""
    layers = tuple(tracer.labels.merge([tracer.operand(t) for t in call.tensors[:2]], tracer.why))
    return layers if isinstance(result, Tensor) else [layers, tracer.tracked(call.tensors[1]).layers]


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
    tracer.add_size_use("out", [channels])
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
    tracer.add_size_use("sizes", sizes)
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
        tracer.add_size_use("groups", [by_group[:, 0]])
    for tensor in call.tensors[1:]:
        if (vector := tracer.vector(tensor, 0)) is not None:
            tracer.labels.unify(vector, channels, tracer.why)
    tracer.add_size_use("out", [channels])
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
