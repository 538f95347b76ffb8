"""Every way in which channels can be coupled converts: sliced = zeroed, extracted = active, largest = original."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from patterns import PATTERNS
from torch import nn
from torch.utils._pytree import tree_leaves

import ofa


@cache
def converted(name: str) -> tuple[nn.Module, Any, ofa.Supernet]:
    model, inputs = PATTERNS[name].build()
    return model, inputs, ofa.Supernet(model, inputs, ofa.SpaceConfig(divisor=4)).eval()


def run(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return tree_leaves(model(**inputs) if isinstance(inputs, dict) else model(*inputs))


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pattern_is_elastic(name: str) -> None:
    _, _, supernet = converted(name)
    elastic = {choice.name.removesuffix(".width") for choice in supernet.space.choices if choice.kind == "width"}
    reasons = [(layer.name, layer.reason) for layer in supernet.report.layers if layer.reason]
    assert set(PATTERNS[name].elastic) <= elastic, (elastic, reasons)
    assert supernet.report.error < 1e-4


@pytest.mark.parametrize("name", PATTERNS)
def test_the_largest_is_the_original_and_what_is_extracted_is_what_was_active(name: str) -> None:
    model, inputs, supernet = converted(name)
    rng = np.random.default_rng(0)
    supernet.activate(supernet.space.largest)
    assert equal(run(supernet, inputs), run(model, inputs))
    for subnet in (supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(3))):
        supernet.activate(subnet)
        net = supernet.extract(subnet)
        assert equal(run(net, inputs), run(supernet, inputs))
        assert sum(p.numel() for p in net.parameters()) == supernet.cost(subnet).params
