"""Strands: the channels of a unit that runs through every group of a grouped convolution, ranked inside each group.

A grouped convolution loses equal positions of all its groups. Which channel stands at a position is free in each group;
so before units are sorted each group's channels are, and the first unit then holds the best channel of every group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ofa.arrays import FloatArray, IntArray
from ofa.groups import Groups
from ofa.importance import Measure, Vectors, kept_part
from ofa.slicing import Index, permute


@dataclass(frozen=True)
class Braid:
    """A channel group whose units have one channel in each of `strands` strands.

    `whole` tensors hold strand after strand along a dimension; `folded` ones are weights of grouped convolutions, with
    one strand's channels along the second dimension in each block of rows.
    """

    group: int
    strands: int
    units: int
    whole: tuple[tuple[str, int], ...]
    folded: tuple[str, ...]

    def scores(
        self, tensors: Mapping[str, Tensor], measure: Measure, indices: Mapping[str, Sequence[Index]]
    ) -> FloatArray:
        """The importance of every kept channel, shape (strands, units kept)."""
        rows = []
        for name, dim in (*self.whole, *((name, 1) for name in self.folded)):
            if isinstance(tensors[name], nn.Parameter):
                part = kept_part(tensors[name], indices.get(name, ()))
                parts = blocks(part, self.strands) if name in self.folded else [part]
                found = [values for p in parts if (values := measure(p, dim)) is not None]
                if found:
                    row = torch.cat(found).double().cpu().numpy().reshape(self.strands, -1)
                    rows.append(row / max(float(row.mean()), 1e-12))
        return np.mean(rows, axis=0) if rows else np.zeros((self.strands, 0))

    def move(self, tensors: Mapping[str, Tensor], orders: IntArray) -> None:
        """Put the first channels of each strand, and their gradients, in `orders`, shape (strands, channels)."""
        source = np.tile(np.arange(self.units), (self.strands, 1))
        source[:, : orders.shape[1]] = orders
        along = (source + self.units * np.arange(self.strands)[:, None]).ravel()
        for tensor, dim in with_gradients((tensors[name], dim) for name, dim in self.whole):
            permute(tensor, dim, along)
        for tensor, dim in with_gradients((tensors[name], 1) for name in self.folded):
            for block, row in zip(tensor.chunk(self.strands), source, strict=True):
                permute(block, dim, row)


def align(
    model: nn.Module,
    groups: Groups,
    vectors: Vectors,
    measure: Measure,
    indices: Mapping[str, Sequence[Index]],
) -> set[int]:
    """Let the channels of each strand descend in importance, in place; the network computes the same function.

    `indices` are the parts of the tensors that count; what is outside keeps its place. Gives the groups whose units are
    in order by that.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        braids = list(find_braids(model, groups, vectors))
        orders = [np.argsort(-braid.scores(tensors, measure, indices), axis=1, kind="stable") for braid in braids]
        for braid, order in zip(braids, orders, strict=True):
            braid.move(tensors, order)
    return {braid.group for braid in braids}


def find_braids(model: nn.Module, groups: Groups, vectors: Vectors) -> Iterator[Braid]:
    """The groups whose tensors all hold their channels strand by strand, in order; where a channel shuffle or another
    layout lies between, units are ranked as wholes."""
    for g, group in enumerate(groups.groups):
        whole: list[tuple[str, int]] = []
        folded: list[str] = []
        strands = max((count for _, _, count in group.members), default=1)
        for name, dim, count in group.members:
            vector = vectors[name][dim]
            assert vector is not None
            ordered = np.array_equal(groups.rank_of[vector], np.tile(np.arange(group.units), count))
            if not ordered or (groups.group_of[vector] != g).any():
                break
            if count == strands:
                whole.append((name, dim))
            elif (count, dim, conv_groups(model, name)) == (1, 1, strands):
                folded.append(name)
            else:
                break
        else:
            if folded and strands > 1 and group.kind == "width":
                yield Braid(g, strands, group.units, tuple(whole), tuple(folded))


def conv_groups(model: nn.Module, name: str) -> int:
    """The number of groups of the convolution that a tensor belongs to; 1 if it is none."""
    return int(getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1))


def blocks(tensor: Tensor, number: int) -> list[Tensor]:
    """Blocks of rows, with their gradients."""
    parts = list(tensor.chunk(number))
    if tensor.grad is not None:
        for part, gradient in zip(parts, tensor.grad.chunk(number), strict=True):
            part.grad = gradient
    return parts


def with_gradients(tensors: Iterable[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, int]]:
    for tensor, dim in tensors:
        yield tensor, dim
        if tensor.grad is not None:
            yield tensor.grad, dim
