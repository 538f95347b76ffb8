"""What a smaller network is compared with: the whole one, in which everything that is removed is zero.

Where a statistic is taken over channels (LayerNorm, a mean, a softmax over them), zeros would count: there the removed
channels, which are zero everywhere, are left out, and what is left is computed by the same operator. Attention that is
scaled by the size of its heads takes the size that is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NORMS = ("native_layer_norm", "_fused_rms_norm")
REDUCTIONS = ("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "prod", "logsumexp")
KEEPING = ("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")


@contextlib.contextmanager
def skipping(modules: Mapping[str, nn.Module], blocks: Sequence[str]) -> Iterator[None]:
    """For a while, let blocks give back what they are given."""
    try:
        for path in blocks:
            modules[path].__dict__["forward"] = first
        yield
    finally:
        for path in blocks:
            modules[path].__dict__.pop("forward", None)


def first(value: Any, *_: Any, **__: Any) -> Any:
    """A block without an effect."""
    return value


@contextlib.contextmanager
def surviving() -> Iterator[None]:
    """Statistics over channels, and scales by their number, leave out those that are zero everywhere."""
    with Scales(), Surviving():
        yield


class Scales(TorchFunctionMode):
    """Attention without a scale of its own is scaled by the channels that are not zero."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None:
            query = args[0] if args else kwargs["query"]
            kept = alive(query, -1)
            kwargs["scale"] = (query.shape[-1] if kept is None else len(kept)) ** -0.5
        return func(*args, **kwargs)


class Surviving(TorchDispatchMode):
    """Statistics over channels leave out those that are zero everywhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name in NORMS:
            return norm(func, name, args)
        if name == "native_group_norm" and args[6] == 1:
            return group_norm(func, args)
        if name in KEEPING:
            return keeping(func, args, kwargs)
        if name in REDUCTIONS:
            return reduction(func, args, kwargs)
        return func(*args, **kwargs)


def alive(x: Tensor, dim: int) -> Tensor | None:
    """The indices along a dimension at which anything is not zero; None if that is all of them, or none."""
    kept = (x.movedim(dim, 0).flatten(1) != 0).any(dim=1) if x.ndim > 1 else x != 0
    return None if bool(kept.all()) or not bool(kept.any()) else kept.nonzero().flatten()


def norm(func: Any, name: str, args: Sequence[Any]) -> Any:
    """Over the last dimensions as one; what is left out gives zero."""
    x, shape, *rest = args
    affine = 2 if name == "native_layer_norm" else 1
    flat = x.flatten(x.ndim - len(shape))
    kept = alive(flat, -1)
    if kept is None:
        return func(*args)
    scales = [None if t is None else t.flatten()[kept] for t in rest[:affine]]
    result = func(flat.index_select(-1, kept), [len(kept)], *scales, *rest[affine:])
    whole = torch.zeros_like(flat).index_copy_(-1, kept, result[0])
    return whole.reshape(x.shape), *result[1:]


def group_norm(func: Any, args: Sequence[Any]) -> Any:
    x, weight, bias, batch, _, positions, groups, eps = args
    kept = alive(x, 1)
    if kept is None:
        return func(*args)
    scales = [None if t is None else t[kept] for t in (weight, bias)]
    result = func(x.index_select(1, kept), *scales, batch, len(kept), positions, groups, eps)
    return torch.zeros_like(x).index_copy_(1, kept, result[0]), *result[1:]


def keeping(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, dim, *rest = args
    kept = alive(x, dim)
    if kept is None:
        return func(*args, **kwargs)
    result = func(x.index_select(dim, kept), dim, *rest, **kwargs)
    return torch.zeros(x.shape, dtype=result.dtype, device=x.device).index_copy_(dim, kept, result)


def reduction(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, rest = args[0], args[1:]
    given = rest[0] if rest and not isinstance(rest[0], Tensor) else kwargs.get("dim")
    if not isinstance(x, Tensor) or not x.is_floating_point() or (rest and isinstance(rest[0], Tensor)):
        return func(*args, **kwargs)
    for dim in [given] if isinstance(given, int) else given or range(x.ndim):
        kept = alive(x, dim)
        if kept is not None and x.shape[dim] > 1:
            x = x.index_select(dim, kept)
    return func(x, *rest, **kwargs)
