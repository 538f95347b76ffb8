"""What any network costs, counted in one pass by its operators; nothing of it need be elastic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ofa.backbone import as_call, unwrapped
from ofa.costs.features import FeatureModel
from ofa.tracing import CostTerm, trace


@dataclass(frozen=True)
class TypeCost:
    """How many modules of a type a network has, and what they cost: functional code counts for the module it is in."""

    type: str
    modules: int
    macs: int
    params: int


@dataclass(frozen=True)
class Complexity:
    """Costs of a network, and their parts by type of module, the costliest first.

    Multiply–accumulates of convolutions and matrix products (1 MAC = 2 FLOPs) and activation bytes alive at once are
    per sample of the `batch` that was given. Shared parameters count once; `trainable` are those that want a gradient.
    `modules` has the MACs of each module that runs some itself, by its name; `features` are what a latency follows
    from, as `FeatureModel` lists them.

    >>> found = complexity(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4))
    >>> [(row.type, row.modules, row.macs, row.params) for row in found.types[:1]]
    [('Linear', 2, 18, 23)]
    >>> found.modules
    {'0': 12, '2': 6}
    """

    macs: int
    params: int
    trainable: int
    peak_bytes: int
    batch: int
    types: tuple[TypeCost, ...]
    modules: Mapping[str, int]
    features: Mapping[str, float]

    @property
    def flops(self) -> int:
        return 2 * self.macs


def complexity(model: nn.Module, inputs: Any) -> Complexity:
    """Count a network on example inputs: a tensor, a tuple of positional inputs, or a dict of keyword ones.

    >>> found = complexity(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 16, 16))
    >>> found.macs, found.flops, found.params  # 16 × 16 × 3 × 8 × 9 a picture
    (55296, 110592, 224)

    Raises:
        ValueError: it does not run on them.
    """
    model = unwrapped(model)
    args, kwargs = as_call(inputs)
    flow = trace(model, args, kwargs)
    buffers = [size(product) / flow.batch for product in flow.bytes]
    peak = max((sum(b for b, alive in zip(buffers, row, strict=True) if alive) for row in flow.alive[1]), default=0)
    macs: dict[str, float] = {}
    for product in flow.macs:
        macs[product.module] = macs.get(product.module, 0) + size(product) / flow.batch
    params, trainable = (sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (1, 0))
    total, modules = round(sum(macs.values())), {name: round(cost) for name, cost in macs.items()}
    features = FeatureModel(flow).network()
    return Complexity(total, params, trainable, round(peak), flow.batch, by_type(model, macs), modules, features)


def size(product: CostTerm) -> int:
    """The value of a cost while everything is kept."""
    return product.constant * math.prod(len(vector) for vector in product.vectors)


def by_type(model: nn.Module, macs: dict[str, float]) -> tuple[TypeCost, ...]:
    """Costs of modules, without those of the modules inside them, added up by type."""
    rows: dict[str, tuple[int, float, int]] = {}
    counted: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = set(module.parameters(recurse=False)) - counted
        counted |= own
        modules, cost, params = rows.get(type(module).__name__, (0, 0.0, 0))
        rows[type(module).__name__] = modules + 1, cost + macs.get(name, 0), params + sum(p.numel() for p in own)
    found = [TypeCost(name, modules, round(cost), params) for name, (modules, cost, params) in rows.items()]
    return tuple(sorted(found, key=lambda row: (-row.macs, -row.params, row.type)))
