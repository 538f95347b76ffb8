"""Importance: every measure, summed over the coupled group, sorts without changing the function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import build

import ofa
from ofa.slicing import importance_of, importances, unit_scores
from ofa.slicing.importance import Random


@pytest.mark.parametrize("measure", importances())
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
    if measure not in ("taylor", "fisher", "random"):  # gradients are dropped; random scores stay at their place
        for group, scores in zip(
            supernet.conversion.groups.groups,
            unit_scores(supernet.model, supernet.conversion.groups, supernet.conversion.trace.parameters, measure),
            strict=True,
        ):
            assert group.kind == "kernel" or (np.diff(scores) <= 1e-4 * scores.max()).all(), group.name


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
    with pytest.raises(
        ValueError, match="unknown importance 'l3'; allowed: l1, l2, scale, taylor, fisher, fpgm, random or a function"
    ):
        supernet.sort("l3")
    with pytest.raises(ValueError, match="run a loss backward"):
        supernet.sort("taylor")


def test_measures_equal_their_formulas() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    weight.grad = torch.randn_like(weight)
    rows = [weight[:, i].detach().flatten() for i in range(3)]
    gradients = [weight.grad[:, i].flatten() for i in range(3)]
    change = torch.stack([(w * g).sum() for w, g in zip(rows, gradients, strict=True)])
    distances = torch.stack([sum((a - b).norm() for b in rows) for a in rows])
    expected = {
        "l1": torch.stack([w.abs().mean() for w in rows]),
        "l2": torch.stack([w.square().mean().sqrt() for w in rows]),
        "taylor": change.abs(),
        "fisher": change.square() / 2,
        "fpgm": distances,
    }
    with torch.no_grad():
        for name, values in expected.items():
            found = importance_of(name)(weight, 1)
            assert found is not None and torch.allclose(found, values, rtol=1e-4), name


def test_random_importance_is_repeatable_and_depends_on_the_seed() -> None:
    weight = torch.nn.Parameter(torch.zeros(40, 3))
    drawn = [Random(seed)(weight, 0) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["resnext", "regnet"])
def test_channels_of_grouped_convolutions_are_ranked_inside_each_group(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off")).eval()
    with torch.no_grad():
        expected = supernet(x)
        supernet.sort("l2")
        assert (supernet(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all((np.diff(rows, axis=1) <= 1e-5).all() for rows in apart_of(supernet))


def apart_of(supernet: ofa.Supernet) -> list[Any]:
    """The importance of every channel inside its group of a grouped convolution."""
    rows = unit_scores(supernet.model, supernet.conversion.groups, supernet.conversion.trace.parameters, "l2")
    convolutions = [m for m in supernet.modules() if isinstance(m, torch.nn.Conv2d) and 1 < m.groups < m.in_channels]
    found = [row for row in rows if len(row) > 1]
    assert len(found) >= len(convolutions) > 2
    return found


@pytest.mark.parametrize("move", [True, False])
def test_each_group_of_a_convolution_keeps_its_own_best_channels(move: bool) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1, bias=False), torch.nn.Conv2d(8, 8, 3, groups=2, bias=False), torch.nn.Conv2d(8, 2, 1)
    )
    strengths = torch.tensor([1.0, 9.0, 2.0, 8.0, 7.0, 3.0, 6.0, 4.0])
    with torch.no_grad():
        model[0].weight.copy_(strengths[:, None, None, None].expand(8, 3, 1, 1))
        model[1].weight.fill_(1.0)
    supernet = ofa.Supernet(model, torch.randn(1, 3, 8, 8), ofa.SpaceConfig(width=(0.5, 1.0), divisor=1)).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = supernet(x)
        supernet.sort(move=move)
        assert torch.allclose(supernet(x), expected, rtol=1e-4)
        supernet.activate(supernet.space.smallest)
        kept = supernet.extract()
        assert torch.equal(kept(x), supernet(x))
    assert kept[0].weight[:, 0, 0, 0].tolist() == [9.0, 8.0, 7.0, 6.0]  # the best two of each group of four
    assert kept[1].weight.shape == (4, 2, 3, 3)


def test_gradients_go_along_when_channels_are_ranked_inside_groups() -> None:
    model, x = build("resnext")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off")).eval()
    with torch.no_grad():
        expected = supernet(x)
    supernet(x).square().mean().backward()
    before = first_order(supernet)
    supernet.sort("taylor")
    with torch.no_grad():
        assert (supernet(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    supernet(x).square().mean().backward()  # the same function, so the same gradients, at their weights' new places
    for name, rows in first_order(supernet).items():
        ordered = -np.sort(-before[name], axis=1)  # up to rounding: units that nearly tie may stand either way
        assert np.allclose(rows, ordered, rtol=0, atol=1e-4 * ordered.max()), name


def first_order(supernet: ofa.Supernet) -> dict[str, Any]:
    """The importance by gradients of the channels of every group of widths, (groups of a convolution, units)."""
    rows = unit_scores(supernet.model, supernet.conversion.groups, supernet.conversion.trace.parameters, "taylor")
    return {g.name: row for g, row in zip(supernet.conversion.groups.groups, rows, strict=True) if g.kind == "width"}


@pytest.mark.parametrize("measure", ["taylor", "fisher"])
def test_parameters_that_do_not_learn_do_not_count_in_gradients(measure: str) -> None:
    model, x = build("resnext")
    list(model.parameters())[3].requires_grad_(False)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off")).eval()
    with pytest.raises(ValueError, match="run a loss backward"):
        supernet.importance(measure)
    supernet(x).square().mean().backward()
    assert all(np.isfinite(scores).all() and scores.any() for scores in supernet.importance(measure).values())
