"""How much a unit matters: one number per unit of every group, aggregated over all that is coupled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ofa.arrays import FloatArray, IntArray
from ofa.groups import FIXED, Groups
from ofa.slicing.slices import Index, take

Vectors = Mapping[str, Sequence[IntArray | None]]
Measure = Callable[[Tensor, int], Tensor | None]
"""Scores along one dimension of one parameter, shape (size,); None if the parameter does not count. An `Importance`, or
a function."""


class Importance(ABC):
    """Scores of the indices along one dimension of one parameter: one class, ours by its name in small letters.

    `gradients` says that a loss is run backward before. Other kinds, `class Mine(Importance)`, are given as objects, or
    in YAML by `sort: {_target_: package.Mine}`.

    >>> class Largest(Importance):
    ...     def __call__(self, parameter, dim):
    ...         return parameter.abs().amax(others(parameter, dim)) if parameter.ndim > 1 else None
    >>> Largest()(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), 0).tolist()
    [3.0, 2.0]
    """

    gradients: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        """Scores, (parameter.shape[dim],), none negative; None if the parameter does not count.

        Raises:
            ValueError: it needs gradients and there are none.
        """


@dataclass(frozen=True)
class L1(Importance):
    """Mean magnitude of the weights of each index (Li et al., 2017).

    >>> L1()(torch.tensor([[1.0, -3.0], [0.0, 0.0]]), 0).tolist()
    [2.0, 0.0]
    """

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        return None if parameter.ndim < 2 else parameter.abs().mean(others(parameter, dim))


@dataclass(frozen=True)
class L2(Importance):
    """Root mean square of the weights of each index.

    >>> L2()(torch.tensor([[1.0, -7.0], [0.0, 0.0]]), 0).tolist()
    [5.0, 0.0]
    """

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        return None if parameter.ndim < 2 else parameter.square().mean(others(parameter, dim)).sqrt()


@dataclass(frozen=True)
class Scale(Importance):
    """Magnitude of one-dimensional parameters: scales (and shifts) of normalisations (Liu et al., 2017).

    >>> Scale()(torch.tensor([0.5, -2.0]), 0).tolist()
    [0.5, 2.0]
    """

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        return parameter.abs() if parameter.ndim == 1 else None


@dataclass(frozen=True)
class Taylor(Importance):
    """|sum of weight × gradient|: the first-order change of the loss if the index were removed.

    Molchanov et al., 2019.
    >>> weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> weight.grad = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    >>> Taylor()(weight, 0).tolist()
    [1.0, 0.0]

    Raises a ValueError where there is no gradient; run a backward pass before.
    """

    gradients: ClassVar[bool] = True

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        product = first_order(parameter, dim)
        return None if product is None else product.abs()


@dataclass(frozen=True)
class Fisher(Importance):
    """Half the square of the sum of weight × gradient: the second-order change, by the empirical Fisher information of
    what was run backward (Theis et al., 2018).

    >>> weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> weight.grad = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    >>> Fisher()(weight, 0).tolist()
    [0.5, 0.0]

    Raises a ValueError where there is no gradient; run a backward pass before.
    """

    gradients: ClassVar[bool] = True

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        product = first_order(parameter, dim)
        return None if product is None else product.square() / 2


@dataclass(frozen=True)
class FPGM(Importance):
    """Sum of the distances to all other indices' weights: what lies near the geometric median is replaceable.

    He et al., 2019.

    >>> FPGM()(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 0).tolist()
    [5.0, 5.0]
    """

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        if parameter.ndim < 2:
            return None
        rows = parameter.movedim(dim, 0).flatten(1)
        return torch.cdist(rows, rows).sum(1)


@dataclass(frozen=True)
class Random(Importance):
    """Scores drawn at random, the baseline; the same for the same `seed` and shape.

    >>> Random(seed=1)(torch.zeros(3, 2), 0).shape
    torch.Size([3])
    """

    seed: int = 0

    def __call__(self, parameter: Tensor, dim: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, dim, *parameter.shape)) % 2**63)
        return torch.rand(parameter.shape[dim], generator=generator)


def importances() -> dict[str, type[Importance]]:
    """The classes of this file by name: l1, l2, scale, taylor, fisher, fpgm, random.

    >>> ", ".join(importances())
    'l1, l2, scale, taylor, fisher, fpgm, random'
    """
    own = (cls for cls in globals().values() if isinstance(cls, type) and issubclass(cls, Importance))
    return {cls.__name__.lower(): cls for cls in own if cls is not Importance}


def importance_of(measure: str | Measure) -> Measure:
    """The importance of a name; a function is one already.

    >>> importance_of("l1")
    L1()

    Raises:
        ValueError: there is none of that name, or it is no function.
    """
    if callable(measure):
        return measure
    if measure not in list(importances()):
        raise ValueError(f"unknown importance {measure!r}; allowed: {', '.join(importances())} or a function")
    return importances()[measure]()


def first_order(parameter: Tensor, dim: int) -> Tensor | None:
    """The sum of weight × gradient of each index; None for a parameter that does not learn."""
    if parameter.grad is None and not parameter.requires_grad:
        return None
    if parameter.grad is None:
        raise ValueError("this importance needs gradients: run a loss backward through the largest subnet first")
    product = parameter * parameter.grad
    return product if parameter.ndim == 1 else product.sum(others(parameter, dim))


def others(parameter: Tensor, dim: int) -> list[int]:
    """All dimensions of a parameter but one.

    >>> others(torch.zeros(8, 3, 5, 5), 1)
    [0, 2, 3]
    """
    return [d for d in range(parameter.ndim) if d != dim]


def unit_scores(
    model: nn.Module,
    groups: Groups,
    vectors: Vectors,
    measure: str | Measure = "l1",
    indices: Mapping[str, Sequence[Index]] | None = None,
) -> list[FloatArray]:
    """For each group the importance of its channels, shape (groups of a grouped convolution, units), whose mean over
    the first is that of its units; one where there is no such convolution.

    That is the measure, scaled to mean 1 a parameter, averaged over all that is coupled; so units of different groups
    compare. `indices` are the parts of parameters that count.

    >>> from ofa import Supernet
    >>> network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> for layer in network:
    ...     layer.weight = nn.Parameter(torch.tensor([1.0, 3.0]).view_as(layer.weight))
    >>> found = Supernet(network, torch.zeros(1, 1)).conversion
    >>> [scores.tolist() for scores in unit_scores(network, found.groups, found.trace.parameters)]
    [[[0.5, 1.5]]]

    Raises:
        ValueError: no measure of that name, or it needs something that is missing.
    """
    function = importance_of(measure)
    scores = [np.zeros((groups.conv_groups.get(g, 1), group.units)) for g, group in enumerate(groups.groups)]
    members = [0] * len(scores)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            index = (indices or {}).get(name, ())
            part = kept_part(parameter, index)
            for dim, vector in enumerate(vectors[name]):
                if vector is not None and (groups.group_of[vector] != FIXED).any():
                    labels = groups.labels_along(name, dim, vector)
                    values = measured(function, name, part, dim, len(labels))
                    if values is not None:
                        collect(scores, members, groups, kept_labels(labels, index[dim] if index else None), values)
    return [score / max(number, 1) for score, number in zip(scores, members, strict=True)]


def measured(function: Measure, name: str, part: Tensor, dim: int, number: int) -> FloatArray | None:
    """Scores along a dimension of a parameter's part, of one block of rows after the other."""
    try:
        found = [function(block, dim) for block in blocks(part, number)]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    values = [v.double().cpu().numpy() for v in found if v is not None]
    return np.concatenate(values) if values else None


def kept_part(parameter: Tensor, index: Sequence[Index]) -> Tensor:
    """A parameter's part with its gradient's, learning if the parameter does."""
    part = take(parameter.detach(), index).requires_grad_(parameter.requires_grad)
    if parameter.grad is not None:
        part.grad = take(parameter.grad, index)
    return part


def blocks(part: Tensor, number: int) -> list[Tensor]:
    """Blocks of rows, with their gradients."""
    if number == 1:
        return [part]
    parts = [block.requires_grad_(part.requires_grad) for block in part.detach().chunk(number)]
    if part.grad is not None:
        for block, gradient in zip(parts, part.grad.chunk(number), strict=True):
            block.grad = gradient
    return parts


def kept_labels(labels: IntArray, index: Index) -> IntArray:
    """What stays of labels (blocks of rows, places), one block after the other.

    >>> labels = np.array([[1, 2, 3], [4, 5, 6]])  # of a convolution of two groups
    >>> kept_labels(labels, slice(0, 2)).tolist(), kept_labels(labels, torch.tensor([[0, 1], [1, 2]])).tolist()
    ([1, 2, 4, 5], [1, 2, 5, 6])
    """
    if index is None:
        return labels.ravel()
    if isinstance(index, slice):
        return labels[:, index].ravel()
    positions = index.numpy()
    return (labels[:, positions] if positions.ndim == 1 else np.take_along_axis(labels, positions, axis=1)).ravel()


def collect(
    scores: Sequence[FloatArray], members: list[int], groups: Groups, labels: IntArray, values: FloatArray
) -> None:
    """Add one parameter's scores to the units that own its indices, and count it as a member of their groups."""
    values = values / max(float(values.mean()), 1e-12)
    for g in np.unique(groups.group_of[labels]).tolist():
        if g != FIXED:
            mine = groups.group_of[labels] == g
            places = groups.conv_group_of[labels[mine]] * scores[g].shape[1] + groups.rank_of[labels[mine]]
            np.add.at(scores[g].reshape(-1), places, values[mine] * (len(np.unique(places)) / len(places)))
            members[g] += 1
