"""Channel labels: which elements of which tensors live and die together.

Every index of every dimension of every parameter gets a number, its label. A tensor carries *layers* of labels: integer
tensors with the tensor's number of dimensions, of size 1 along each dimension in which the label does not vary. Label 0
stands for an index that can never be removed. `Labels` collects what the operators demand of the labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ofa.arrays import IntArray


@dataclass(frozen=True)
class Operand:
    """A tensor as an operator sees it: its shape, its layers, and the dimensions whose size nothing can change."""

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...]
    rigid: frozenset[int]


Pairs = Sequence[tuple[IntArray, IntArray]]


@dataclass(frozen=True)
class Demands:
    """What the operators of a network want of `count` labels: `pairs` are one unit, `frozen` ones must stay (with the
    reason), a statistic is taken over `mixed` ones, `summed` ones are added up by several layers.

    Pairs `across` the groups of a convolution need only be as many of each group. What is kept of `rectangles`, labels
    over several dimensions, must be a block: along one of them alone.
    """

    count: int
    pairs: Pairs
    across: Pairs
    frozen: Sequence[tuple[IntArray, str]]
    mixed: Sequence[IntArray]
    summed: Sequence[IntArray]
    rectangles: Sequence[IntArray]


@dataclass
class Labels:
    """What operators have demanded so far, in the course of a trace."""

    count: int = 1
    pairs: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    across: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    frozen: list[tuple[IntArray, str]] = field(default_factory=list)
    mixed: list[IntArray] = field(default_factory=list)
    summed: list[IntArray] = field(default_factory=list)
    rectangles: list[IntArray] = field(default_factory=list)

    def demands(self) -> Demands:
        """The same as a value."""
        return Demands(
            self.count,
            tuple(self.pairs),
            tuple(self.across),
            tuple(self.frozen),
            tuple(self.mixed),
            tuple(self.summed),
            tuple(self.rectangles),
        )

    def fresh(self, size: int) -> Tensor:
        """`size` new labels, shape (size,)."""
        start, self.count = self.count, self.count + size
        return torch.arange(start, self.count)

    def unify(self, a: Tensor, b: Tensor, why: str, across: bool = False) -> None:
        """Elementwise (broadcast) a and b are the same unit; an index that meets label 0 must stay.

        >>> labels = Labels()
        >>> labels.unify(labels.fresh(3), labels.fresh(3), "add")
        >>> labels.pairs
        [(array([1, 2, 3]), array([4, 5, 6]))]
        """
        left, right = (t.numpy().ravel() for t in torch.broadcast_tensors(a, b))
        different = left != right
        if not different.any():
            return
        left, right = left[different], right[different]
        fixed = (left == 0) | (right == 0)
        if fixed.any():
            self.freeze(np.maximum(left[fixed], right[fixed]), f"{why} meets a size that stays")
        (self.across if across else self.pairs).append((left[~fixed], right[~fixed]))

    def freeze(self, labels: Tensor | IntArray, why: str) -> None:
        """These labels stay, because of `why`.

        >>> labels = Labels()
        >>> labels.freeze(labels.fresh(2), "the network's output")
        >>> labels.frozen
        [(array([1, 2]), "the network's output")]
        """
        array = labels.numpy() if isinstance(labels, Tensor) else labels
        self.frozen.append((np.unique(array), why))

    def mix(self, layer: Tensor) -> None:
        """A statistic is taken over these labels: slicing is no longer the same as zeroing."""
        self.mixed.append(np.unique(layer.numpy()))

    def rectangular(self, layer: Tensor) -> None:
        """What is kept of a layer that varies along several dimensions must be a block: decided after the trace."""
        self.rectangles.append(layer.squeeze().numpy())

    def tie(self, layer: Tensor, dims: Iterable[int], why: str) -> Tensor | None:
        """Make all labels along `dims` one unit and drop these dimensions; None (frozen) if nothing else varies.

        >>> labels = Labels()
        >>> labels.tie(labels.fresh(6).view(3, 2), [1], "add of a fixed size").tolist()  # three units of two are left
        [[1], [3], [5]]
        >>> labels.pairs
        [(array([1, 3, 5]), array([2, 4, 6]))]
        """
        dims = [d for d in dims if layer.shape[d] > 1]
        if not dims:
            return layer
        if set(varying(layer)) <= set(dims):
            self.freeze(layer, why)
            return None
        for d in dims:
            first = layer.narrow(d, 0, 1)
            self.unify(first, layer, why)
            layer = first
        return layer

    def reduce(self, layers: Iterable[Tensor], dims: Iterable[int], why: str, mixing: bool) -> list[Tensor]:
        """Layers of a reduction over `dims` that keeps them with size 1.

        >>> labels = Labels()
        >>> labels.reduce([labels.fresh(3)], [0], "mean", mixing=True), labels.mixed
        ([], [array([1, 2, 3])])
        """
        dims, kept = set(dims), []
        for layer in layers:
            if varying(layer) and set(varying(layer)) <= dims:
                if mixing:
                    self.mix(layer)
                continue
            tied = self.tie(layer, dims, why)
            if tied is not None:
                kept.append(tied)
        return kept

    def merge(self, operands: Sequence[Operand], why: str) -> list[Tensor]:
        """Layers of a pointwise operator: labels that meet are one unit, a fixed size keeps what varies along it.

        >>> labels = Labels()
        >>> a, b = (Operand((3,), (labels.fresh(3),), frozenset()) for _ in range(2))
        >>> labels.merge([a, b], "add"), labels.pairs
        ([tensor([4, 5, 6])], [(array([1, 2, 3]), array([4, 5, 6]))])
        """
        ndim = max(len(o.shape) for o in operands)
        free: list[Tensor] = []
        for i, operand in enumerate(operands):
            rigid = {d + ndim - len(o.shape) for j, o in enumerate(operands) if j != i for d in o.rigid}
            for layer in operand.layers:
                tied = self.tie(broadcast(layer, ndim), rigid, why)
                if tied is not None:
                    free.append(tied)
        merged: list[Tensor] = []
        while free:
            layer = free.pop(0)
            other = next((m for m in merged if set(varying(m)) & set(varying(layer))), None)
            if other is None:
                merged.append(layer)
                continue
            merged = [m for m in merged if m is not other]
            joined = self.join(other, layer, why)
            if joined is not None:
                free.insert(0, joined)
        return merged

    def join(self, a: Tensor, b: Tensor, why: str) -> Tensor | None:
        """One layer for two that overlap.

        Layers that vary along different sets of dimensions agree on the common part. If the smaller one lacks the
        larger one's outermost dimension (a scale per position in a head), it is the smaller one that must stay.
        """
        va, vb = set(varying(a)), set(varying(b))
        if va < vb:
            a, b, va, vb = b, a, vb, va
        common = va & vb
        if vb < va and min(va) not in vb:
            self.freeze(b, why)
            return self.tie(a, common, why)
        tied_a, tied_b = self.tie(a, va - common, why), self.tie(b, vb - common, why)
        if tied_a is None or tied_b is None:
            return tied_a if tied_b is None else tied_b
        self.unify(tied_a, tied_b, why)
        return torch.maximum(*torch.broadcast_tensors(tied_a, tied_b))


def varying(layer: Tensor) -> tuple[int, ...]:
    """Dimensions along which a layer's labels differ.

    >>> varying(torch.arange(6).view(3, 1, 2))
    (0, 2)
    """
    return tuple(d for d, size in enumerate(layer.shape) if size > 1)


def unsqueezed(part: Operand, dim: int) -> Operand:
    """The operand with a new dimension of size 1."""
    return Operand(
        (*part.shape[:dim], 1, *part.shape[dim:]),
        tuple(layer.unsqueeze(dim) for layer in part.layers),
        frozenset(d + (d >= dim) for d in part.rigid),
    )


def fixed(result: Tensor, layers: Sequence[Tensor]) -> frozenset[int]:
    """Dimensions along which no layer varies."""
    labelled = {d for layer in layers for d in varying(layer)}
    return frozenset(d for d, size in enumerate(result.shape) if size > 1 and d not in labelled)


def edge(layer: Tensor, dim: int) -> Tensor:
    """Labels along one dimension at the first index of all others, shape (size,).

    >>> edge(torch.arange(6).view(3, 2), 0).tolist()
    [0, 2, 4]
    """
    for d in range(layer.ndim):
        if d != dim:
            layer = layer.narrow(d, 0, 1)
    return layer.reshape(-1)


def broadcast(layer: Tensor, ndim: int) -> Tensor:
    """The layer with leading dimensions of size 1, as broadcasting aligns it."""
    return layer.reshape((1,) * (ndim - layer.ndim) + tuple(layer.shape))


def compress(layer: Tensor) -> Tensor:
    """The layer with size 1 along every dimension in which its labels do not vary.

    >>> compress(torch.tensor([[1, 2], [1, 2]])).tolist()
    [[1, 2]]
    """
    for d, size in enumerate(layer.shape):
        first = layer.narrow(d, 0, min(size, 1))
        if size > 1 and (layer.stride(d) == 0 or bool((layer == first).all())):
            layer = first
    return layer.contiguous()
