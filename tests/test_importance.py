"""Importance: every measure, summed over the coupled group, sorts without changing the function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import build

import ofa
from ofa.importance import MEASURES, importance


@pytest.mark.parametrize("measure", MEASURES)
def test_sorting_by_any_measure_keeps_the_function_and_orders_the_units(measure: str) -> None:
    model, x = build("mobilenetv3")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off")).eval()
    with torch.no_grad():
        expected = model(x)
    supernet(x).square().mean().backward()
    twin = {name: p.grad.clone() for name, p in supernet.model.named_parameters() if p.grad is not None}
    supernet.sort(measure)
    assert all(p.grad is None for p in supernet.parameters()) and twin
    with torch.no_grad():
        assert (supernet(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    if measure != "taylor":
        for group, scores in zip(
            supernet._groups.groups,
            importance(supernet.model, supernet._groups, supernet._vectors, measure),
            strict=True,
        ):
            assert group.kind == "kernel" or (np.diff(scores) <= 1e-9).all(), group.name


def test_importance_is_summed_over_the_whole_group() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].expand(4, 3))
        model[1].weight.copy_(torch.tensor([10.0, 1.0, 1.0, 1.0]).expand(2, 4))
    supernet = ofa.Supernet(model, torch.randn(1, 3), ofa.SpaceConfig(width=(0.25, 1.0), divisor=1))
    supernet.sort()
    kept = supernet.extract(supernet.space.smallest)
    assert kept[0].weight[0, 0] == 1.0  # weakest in the first layer, but by far the strongest in the second


def test_bad_measures_are_refused() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off"))
    with pytest.raises(ValueError, match="unknown importance 'l3'; allowed: l1, l2, scale, taylor"):
        supernet.sort("l3")
    with pytest.raises(ValueError, match="run a loss backward"):
        supernet.sort("taylor")
