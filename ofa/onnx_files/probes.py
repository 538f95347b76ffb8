"""Probes: networks whose graphs show which number follows which size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.conversion import Conversion
from ofa.interruptions import interrupts
from ofa.onnx_files.comparison import run
from ofa.slicing import make_plan, reduced
from ofa.supernet import Supernet


def probes(supernet: Supernet, example: Any) -> Iterator[nn.Module]:
    """The whole network, then others with all its blocks in which every size that may change is another.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    >>> found = probes(Supernet(network, torch.zeros(1, 4)), torch.zeros(1, 4))
    >>> [[layer.out_features for layer in next(found)] for _ in range(3)]
    [[16, 16, 2], [14, 12, 2], [12, 9, 2]]
    """
    found, rng = supernet.conversion, np.random.default_rng(0)
    depths = np.array([len(stage.blocks) for stage in found.stages], dtype=np.int64)

    def network(sizes: IntArray) -> nn.Module:
        return reduced(supernet.model, make_plan(found.slicer, found.bindings, found.stages, sizes, depths))

    yield network(found.groups.full)
    while True:
        odd = network(distinct_sizes(found, rng))
        yield odd if runs(odd, example) else network(distinct_sizes(found, rng, options=True))


def distinct_sizes(found: Conversion, rng: np.random.Generator, options: bool = False) -> IntArray:
    """Smaller sizes of every group that may change; groups of one size are told apart as far as they go.

    Any sizes, but for those of kernels; or, for networks that run on those alone, the space's `options`.
    """
    sizes = np.array(found.groups.full)
    taken: set[tuple[int, int]] = set()
    for one in found.choices:
        for group, units in one.sizes.items():
            full = int(sizes[group])
            free = not options and one.choice.kind != "kernel"
            smaller = range(max(1, full // 2), full) if free else units[:-1]
            if len(smaller):
                sizes[group] = rng.choice([size for size in smaller if (full, size) not in taken] or smaller)
                taken.add((full, int(sizes[group])))
    return sizes


def runs(network: nn.Module, example: Any) -> bool:
    """Whether a network takes an example."""
    try:
        run(network, example)
    except Exception as error:
        if interrupts(error):
            raise
        return False
    return True
