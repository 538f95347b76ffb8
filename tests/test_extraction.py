"""Extraction without a supernet, and weights that go from the slim to the full-size form and back."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import build
from torch import nn

import ofa
from ofa.persistence import plan_from_json, plan_to_json
from ofa.slicing import full_size, put, reduced, take

NETWORKS = ("resnet", "mobilenetv3", "vit", "densenet")
FINE = ofa.SpaceConfig(width="multiples", divisor=4, proof="quick")
each_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def converted(name: str) -> tuple[nn.Module, Any, ofa.Supernet]:
    model, x = build(name)
    return model, x, ofa.Supernet(model, x, FINE).eval()


def middle(supernet: ofa.Supernet) -> ofa.Subnet:
    return supernet.space.sample(np.random.default_rng(0))


@each_network
def test_a_plan_makes_the_same_network_without_tracing(name: str) -> None:
    _, x, supernet = converted(name)
    subnet = middle(supernet)
    plan = plan_from_json(plan_to_json(supernet.plan(subnet), {"macs": 1}))
    net = reduced(supernet.model, plan)
    with torch.no_grad():
        assert torch.equal(net(x), supernet.extract(subnet)(x))
    with pytest.raises(ValueError, match="plan is of another network: it slices"):
        reduced(nn.Linear(2, 2), plan)


@each_network
def test_trained_weights_are_absorbed_and_extracted_again(name: str) -> None:
    _, x, _ = converted(name)
    supernet = ofa.Supernet(build(name)[0], x, FINE).eval()
    supernet.activate(middle(supernet))
    net = supernet.extract()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01)
    outside = supernet.plan(supernet.active)
    before = {k: v.clone() for k, v in supernet.model.state_dict().items()}
    supernet.absorb(net.state_dict())
    with torch.no_grad():
        assert torch.equal(supernet(x), net(x)) and torch.equal(supernet.extract()(x), net(x))
    after = supernet.model.state_dict()
    name, index = next((n, i) for n, i in outside.indices.items() if isinstance(i[0], slice) and before[n].ndim == 4)
    assert index[0] is not None and isinstance(index[0], slice)
    assert torch.equal(after[name][index[0].stop :], before[name][index[0].stop :])  # what is removed stays as it was


def test_full_size_weights_give_the_same_function_in_the_original_network() -> None:
    for name in ("resnet", "mobilenetv3"):
        _, x, supernet = converted(name)
        supernet.activate(middle(supernet))
        other, _ = build(name)
        other.load_state_dict(supernet.full_size())
        with torch.no_grad():
            assert (other.eval()(x) - supernet(x)).abs().max() < 1e-5


@pytest.mark.parametrize("layer", ["transposed", "grouped", "depthwise"])
def test_slim_and_full_size_are_inverse_for_every_kind_of_convolution(layer: str) -> None:
    layers: dict[str, nn.Module] = {
        "transposed": nn.ConvTranspose2d(16, 12, 2, stride=2),
        "grouped": nn.Conv2d(16, 24, 3, groups=4),
        "depthwise": nn.Conv2d(16, 16, 3, groups=16),
    }
    width = {"transposed": 12, "grouped": 24, "depthwise": 16}[layer]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), layers[layer], nn.Conv2d(width, 4, 1)).eval()
    supernet = ofa.Supernet(model, torch.randn(1, 3, 8, 8), ofa.SpaceConfig(width=(0.5, 1.0), divisor=1)).eval()
    supernet.activate(supernet.space.smallest)
    slim = supernet.extract().state_dict()
    whole = full_size(slim, supernet.plan(supernet.active), supernet.model)
    assert {k: v.shape for k, v in whole.items()} == {k: v.shape for k, v in supernet.model.state_dict().items()}
    supernet.model.load_state_dict(whole)
    again = supernet.extract(supernet.space.smallest).state_dict()
    assert all(torch.equal(again[k], slim[k]) for k in slim)
    assert sum(int(v.count_nonzero()) for v in whole.values()) == sum(int(v.count_nonzero()) for v in slim.values())


def test_weights_of_another_subnet_are_refused_and_nothing_is_lost() -> None:
    _, _, supernet = converted("resnet")
    smallest = supernet.extract(supernet.space.smallest).state_dict()
    supernet.activate(middle(supernet))
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    with pytest.raises(ValueError, match=r"not of this subnet: .* is \(.*\), \(.*\) fits"):
        supernet.absorb(smallest)
    assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())


def test_a_transformed_kernel_cannot_be_absorbed() -> None:
    model, x = build("mobilenetv3")
    config = ofa.SpaceConfig(width=(1.0,), depth=False, kernel_transform=True, proof="off")
    supernet = ofa.Supernet(model, x, config)
    supernet.activate(supernet.space.smallest)
    with pytest.raises(ValueError, match="a larger kernel times a matrix, which cannot be undone"):
        supernet.absorb(supernet.extract().state_dict())


def test_a_damaged_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="not a plan of a smaller network"):
        plan_from_json('{"indices": 3}')


def test_a_plan_and_a_weight_file_are_enough_in_a_new_process(tmp_path: Path) -> None:
    _, x, supernet = converted("mobilenetv3")
    subnet = middle(supernet)
    net = supernet.extract(subnet)
    (tmp_path / "plan.json").write_text(plan_to_json(supernet.plan(subnet), {}))
    torch.save({"x": x, "y": net(x).detach(), "state": net.state_dict()}, tmp_path / "net.pt")
    program = f"""
import sys, torch, pathlib
sys.path[:0] = ["tests"]
from networks import build
from ofa.slicing import reduced
from ofa.persistence import plan_from_json
saved = torch.load("{tmp_path}/net.pt")
net = reduced(build("mobilenetv3")[0], plan_from_json(pathlib.Path("{tmp_path}/plan.json").read_text())).eval()
net.load_state_dict(saved["state"])
torch.testing.assert_close(net(saved["x"]), saved["y"])  # another process rounds as it likes
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_sorting_inside_a_subnet_keeps_its_function_and_orders_what_it_keeps() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, FINE).eval()
    subnet = middle(supernet)
    supernet.activate(subnet)
    removed = {k: v.clone() for k, v in supernet.full_size().items()}
    with torch.no_grad():
        before = supernet(x)
        supernet.sort("l2")
        assert (supernet(x) - before).abs().max() < 1e-5 * before.abs().max()
    assert supernet.active == subnet and {k: v.shape for k, v in supernet.full_size().items()} == {
        k: v.shape for k, v in removed.items()
    }
    for name, scores in supernet.importance("l2").items():
        kept = scores[: int(subnet[name])]
        assert (np.diff(kept) <= 1e-5).all() and not scores[int(subnet[name]) :].any(), name


@pytest.mark.parametrize("name", ["mobilenetv3", "resnext", "regnet"])
def test_ranking_moves_no_weight_and_keeps_the_same_units_as_sorting(name: str) -> None:
    model, x = build(name)
    moved, ranked = ofa.Supernet(model, x, FINE).eval(), ofa.Supernet(model, x, FINE).eval()
    subnet = middle(ranked)
    moved.sort("l1")
    ranked.sort("l1", move=False)
    with torch.no_grad():
        assert torch.equal(ranked(x), model(x))  # the largest is the original, bit for bit
        for net in (moved, ranked):
            net.activate(subnet)
        assert (moved(x) - ranked(x)).abs().max() < 1e-5
        assert torch.equal(ranked.extract()(x), ranked(x))
        plan = plan_from_json(plan_to_json(ranked.plan(subnet), {}))
        assert torch.equal(reduced(ranked.model, plan).eval()(x), ranked(x))
    assert all(torch.equal(v, ranked.model.state_dict()[k]) for k, v in model.state_dict().items())
    for name, tensor in ranked.full_size().items():
        kept = tensor != 0
        assert torch.equal(tensor[kept], model.state_dict()[name][kept]), name
    assert any(isinstance(i, torch.Tensor) for index in ranked.plan(subnet).indices.values() for i in index)
    assert ranked.cost(subnet) == moved.cost(subnet)
    with torch.no_grad():
        ranked.sort("l1")  # the active one's units move after all
        assert (ranked(x) - moved(x)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["resnet", "resnext"])
def test_a_scattered_subnet_trains_as_its_extracted_network(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, FINE)
    supernet.sort("l1", move=False)
    supernet.activate(middle(supernet))
    net = supernet.extract().train()
    supernet.train()
    for module in (net, supernet):
        optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    slim = supernet.extract().state_dict()
    for name, tensor in net.state_dict().items():
        assert torch.allclose(slim[name], tensor, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("accumulate", [False, True])
def test_parts_go_back_to_where_they_were_taken(accumulate: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    places = (None, slice(1, 3), torch.tensor([3, 0]), torch.tensor([1, 2, 4]))
    for index in itertools.product(places, repeat=3):
        target = torch.randn(5, 5, 5, generator=generator)
        part = torch.randn(take(target, index).shape, generator=generator)
        wanted = target.clone()
        grid = torch.meshgrid(*(torch.arange(5)[i] if i is not None else torch.arange(5) for i in index), indexing="ij")
        wanted[grid] = wanted[grid] + part if accumulate else part
        put(target, index, part, accumulate)
        assert torch.equal(target, wanted)


@pytest.mark.parametrize("rows", [None, slice(1, 3), torch.tensor([0, 3])])
@pytest.mark.parametrize("edge", [None, slice(0, 1)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_parts_of_blocks_go_back_to_where_they_were_taken(rows: Any, edge: Any, accumulate: bool) -> None:
    """Blocks of two rows, or what is left of them, keep other columns each."""
    target, index = torch.randn(4, 5, 2), (rows, torch.tensor([[0, 3, 4], [1, 2, 3]]), edge)
    wanted = target.clone()
    part = torch.randn(take(target, index).shape)
    every = torch.arange(4) if rows is None else torch.arange(4)[rows]
    for i, row in enumerate(every.tolist()):
        for j, column in enumerate(index[1][0 if i < len(every) // 2 else 1].tolist()):
            place = wanted[row, column] if edge is None else wanted[row, column, edge]
            place.copy_(place + part[i, j] if accumulate else part[i, j])
    put(target, index, part, accumulate)
    assert torch.equal(target, wanted)


def test_what_a_subnet_can_still_be_pruned_to() -> None:
    _, _, supernet = converted("resnet")
    subnet = middle(supernet)
    part = supernet.space.upto(subnet)
    assert part.largest == subnet and supernet.space.canonical(part.smallest) == supernet.space.smallest
    genomes = np.stack([part.encode(part.sample(np.random.default_rng(seed))) for seed in range(5)])
    lifted = supernet.space.lifted(genomes, part)
    assert [supernet.space.decode(g) for g in lifted] == [part.decode(g) for g in genomes]
