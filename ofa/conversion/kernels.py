"""Kernel transform matrices: a smaller kernel is the larger one's centre times a learned matrix (Cai et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ofa.conversion.choices import ElasticChoice
from ofa.groups import Groups
from ofa.slicing import Index


class KernelTransforms(nn.Module):
    """For each layer and each step down (7 → 5 → 3) one matrix, shared by its channels; the identity at the start.

    `edges` maps a weight's name to its kernel's edge and number of spatial dimensions.

    >>> transforms = KernelTransforms({"conv.weight": (7, 2)})
    >>> {name: tuple(matrix.shape) for name, matrix in transforms.matrices.items()}
    {'conv/weight:3': (9, 9), 'conv/weight:5': (25, 25)}
    """

    def __init__(self, edges: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.edges = dict(edges)
        self.matrices = nn.ParameterDict(
            {
                key(name, size): nn.Parameter(torch.eye(size**dims))
                for name, (edge, dims) in edges.items()
                for size in range(edge - 2, 2, -2)
            }
        )

    def smaller(self, name: str, index: Sequence[Index]) -> bool:
        """Whether `index` takes a smaller kernel of a weight whose kernel is transformed."""
        return name in self.edges and bool(index) and isinstance(index[2], slice)

    def part(self, name: str, index: Sequence[Index], slice_of: Callable[[Sequence[Index]], Tensor]) -> Tensor:
        """What `slice_of` gives for `index`, with a smaller kernel transformed step by step."""
        if not self.smaller(name, index):
            return slice_of(index)
        assert isinstance(index[2], slice)
        edge, dims = self.edges[name]
        weight = slice_of([*index[:2], *[None] * dims])  # (out, in, edge, edge)
        for size in range(edge - 2, index[2].stop - index[2].start - 1, -2):
            for dim in range(2, 2 + dims):
                weight = weight.narrow(dim, 1, size)
            weight = (weight.flatten(2) @ self.matrices[key(name, size)]).reshape(*weight.shape[:2], *[size] * dims)
        return weight


def kernel_edges(
    choices: Sequence[ElasticChoice], groups: Groups, tensor: Callable[[str], Tensor]
) -> dict[str, tuple[int, int]]:
    """Edge and spatial dimensions of every weight whose kernel is a choice, by name.

    >>> from ofa import Supernet
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(2, 1, 1))
    >>> found = Supernet(network, torch.zeros(1, 1, 9, 9)).conversion
    >>> kernel_edges(found.choices, found.groups, network.get_parameter)
    {'0.weight': (5, 2)}
    """
    chosen = {g for one in choices if one.choice.kind == "kernel" for g in one.sizes}
    names = {(name, groups.groups[g].units) for g in chosen for name, _, _ in groups.groups[g].members}
    return {name: (edge, tensor(name).ndim - 2) for name, edge in sorted(names)}


def key(name: str, size: int) -> str:
    """A parameter dictionary's keys hold no dots."""
    return f"{name.replace('.', '/')}:{size}"
