"""How much a unit matters: one number per unit of every group, aggregated over all that is coupled.

Sources: L1 (Li et al., 2017), batch-norm scale (Liu et al., 2017), first-order Taylor (Molchanov et al., 2019), Fisher
(Theis et al., 2018), distance to the geometric median (FPGM, He et al., 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ofa.arrays import FloatArray, IntArray
from ofa.groups import FIXED, Groups
from ofa.slicing.slices import Index, take

Vectors = Mapping[str, Sequence[IntArray | None]]
Measure = Callable[[Tensor, int], Tensor | None]
"""Scores along one dimension of one parameter, shape (size,); None if the parameter does not count."""


def l1(parameter: Tensor, dim: int) -> Tensor | None:
    """Mean magnitude of the weights of each index."""
    return None if parameter.ndim < 2 else parameter.abs().mean(others(parameter, dim))


def l2(parameter: Tensor, dim: int) -> Tensor | None:
    """Root mean square of the weights of each index."""
    return None if parameter.ndim < 2 else parameter.square().mean(others(parameter, dim)).sqrt()


def scale(parameter: Tensor, dim: int) -> Tensor | None:
    """Magnitude of one-dimensional parameters: the scales of normalisations (and their shifts)."""
    return parameter.abs() if parameter.ndim == 1 else None


def taylor(parameter: Tensor, dim: int) -> Tensor | None:
    """|sum of weight × gradient|: the first-order change of the loss if the index were removed.

    Raises:
        ValueError: there is no gradient; run a backward pass before.
    """
    product = first_order(parameter, dim)
    return None if product is None else product.abs()


def fisher(parameter: Tensor, dim: int) -> Tensor | None:
    """Half the square of the sum of weight × gradient: the second-order change, by the empirical Fisher information of
    what was run backward.

    Raises:
        ValueError: there is no gradient; run a backward pass before.
    """
    product = first_order(parameter, dim)
    return None if product is None else product.square() / 2


def first_order(parameter: Tensor, dim: int) -> Tensor | None:
    """The sum of weight × gradient of each index; None for a parameter that does not learn."""
    if parameter.grad is None and not parameter.requires_grad:
        return None
    if parameter.grad is None:
        raise ValueError("this importance needs gradients: run a loss backward through the largest subnet first")
    product = parameter * parameter.grad
    return product if parameter.ndim == 1 else product.sum(others(parameter, dim))


def fpgm(parameter: Tensor, dim: int) -> Tensor | None:
    """Sum of the distances to all other indices' weights: what lies near the geometric median is replaceable."""
    if parameter.ndim < 2:
        return None
    rows = parameter.movedim(dim, 0).flatten(1)
    return torch.cdist(rows, rows).sum(1)


@dataclass(frozen=True)
class Random:
    """Scores drawn at random, the baseline; the same for the same seed and shape."""

    seed: int = 0

    def __call__(self, parameter: Tensor, dim: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, dim, *parameter.shape)) % 2**63)
        return torch.rand(parameter.shape[dim], generator=generator)


MEASURES: dict[str, Measure] = {
    "l1": l1,
    "l2": l2,
    "scale": scale,
    "taylor": taylor,
    "fisher": fisher,
    "fpgm": fpgm,
    "random": Random(),
}

FIRST_ORDER = ("taylor", "fisher")  # these need gradients


def named(measure: str | Measure) -> Measure:
    """The function of a measure's name.

    Raises:
        ValueError: there is none.
    """
    if isinstance(measure, str) and measure not in MEASURES:
        raise ValueError(f"unknown importance {measure!r}; allowed: {', '.join(MEASURES)} or a function")
    return MEASURES[measure] if isinstance(measure, str) else measure


def others(parameter: Tensor, dim: int) -> list[int]:
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

    Raises:
        ValueError: no measure of that name, or it needs something that is missing.
    """
    function = named(measure)
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
    """What stays of labels (blocks of rows, places), one block after the other."""
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
