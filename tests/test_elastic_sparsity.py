"""N:M sparsity as a choice of the space: masks of slices, exact costs, gradients, plain extraction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import build, small
from torch import nn

import ofa
from ofa.persistence import plan_from_json, plan_to_json
from ofa.search import Archive, Evolution, run
from ofa.search.problem import Problem
from ofa.slicing import reduced
from ofa.sparsity import Pattern, input_dim, save_packed, sparsify_inputs
from ofa.sparsity.packing import load_packed, pack
from ofa.train import Digits, Recipe, Sandwich, SandwichRule, fit

TEXTS = ("dense", "2:4", "4:8", "8:16", "12:16")
CONFIG = ofa.SpaceConfig(width=(0.5, 0.75, 1.0), sparsity=TEXTS, proof="quick")
FAMILIES = ("resnet", "mobilenetv3", "vit")
each_family = pytest.mark.parametrize("name", FAMILIES)


def subnets(supernet: ofa.Supernet, number: int = 4) -> list[ofa.Subnet]:
    rng = np.random.default_rng(0)
    return [supernet.space.sample(rng) for _ in range(number)]


def patterns_in(subnet: ofa.Subnet) -> dict[str, Pattern]:
    parsed = {
        name.removesuffix(".sparsity"): Pattern.parse(str(value))
        for name, value in subnet.items()
        if name.endswith(".sparsity")
    }
    return {name: pattern for name, pattern in parsed.items() if pattern is not None}


@each_family
def test_extracted_and_active_agree_and_have_their_zeros(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, CONFIG).eval()
    with torch.no_grad():
        assert torch.equal(supernet(x), model(x))  # the largest is dense
        for subnet in subnets(supernet):
            supernet.activate(subnet)
            net = supernet.extract()
            assert torch.equal(supernet(x), net(x))
            layers = dict(net.named_modules())
            for layer, pattern in patterns_in(subnet).items():
                found = layers.get(layer)
                if isinstance(found, nn.Linear | nn.Conv2d):  # else it was in a block that is skipped
                    assert pattern.fits(found.weight, input_dim(found)), layer
            plan = plan_from_json(plan_to_json(supernet.plan(subnet), {}))
            assert torch.equal(reduced(supernet.model, plan)(x), net(x))


def test_layers_and_their_options_are_those_that_fit() -> None:
    model, x = build("mobilenetv3")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(width=(1.0,), depth=False, sparsity=TEXTS, proof="off"))
    choices = {c.name: c for c in supernet.space.choices if c.kind == "sparsity"}
    layers = dict(supernet.model.named_modules())
    for choice in choices.values():
        layer = layers[choice.name.removesuffix(".sparsity")]
        assert isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1
        densities = [1.0 if o == "dense" else Pattern.parse(str(o)).density for o in choice.options]  # type: ignore[union-attr]
        assert densities == sorted(densities) and choice.largest == "dense"
        assert all(o == "dense" or layer.weight.shape[1] % int(str(o).partition(":")[2]) == 0 for o in choice.options)
    assert "conv_stem.sparsity" not in choices  # one or three input channels
    assert "blocks.0.0.conv_dw.sparsity" not in choices
    kept = ofa.SpaceConfig(sparsity=TEXTS, exclude=("classifier",), proof="off")
    assert "classifier.sparsity" not in {c.name for c in ofa.Supernet(model, x, kept).space.choices}


@each_family
def test_costs_count_what_is_left(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, CONFIG).eval()
    for subnet in subnets(supernet):
        dense = ofa.Subnet({k: "dense" if k.endswith(".sparsity") else v for k, v in subnet.items()})
        cost, whole = supernet.cost(subnet), supernet.cost(dense)
        net = supernet.extract(subnet)
        stored = sum(p.nbytes for p in net.parameters())
        saved = macs_saved(net, x) / len(x)
        for layer, pattern in patterns_in(subnet).items():
            found = dict(net.named_modules()).get(layer)
            if isinstance(found, nn.Linear | nn.Conv2d):
                stored += pack(found.weight, pattern, input_dim(found)).bytes - found.weight.nbytes
        assert cost.macs == pytest.approx(whole.macs - saved, rel=1e-9)
        assert cost.weight_bytes == pytest.approx(stored, abs=len(subnet))  # bits are filled up to bytes in each layer
        assert cost.params == whole.params and cost.peak_bytes == whole.peak_bytes


def macs_saved(net: nn.Module, x: torch.Tensor) -> float:
    """Multiplications with weights that are zero, counted in the layers as they run."""
    counts = []

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(layer.weight, torch.Tensor)
        counts.append(output.numel() / layer.weight.shape[0] * int((layer.weight == 0).sum()))

    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(x)
    return sum(counts)


def test_padding_lets_a_last_block_be_shorter(tmp_path: Path) -> None:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(3, 26, 3), nn.ReLU(), nn.Conv2d(26, 40, 3), pooled, nn.Linear(40, 4))
    x = torch.randn(2, 3, 8, 8)
    config = ofa.SpaceConfig(width=(1.0,), sparsity=("12:16",), proof="quick")
    report = ofa.Supernet(model, x, config).report
    found = {layer.name: layer.reason for layer in report.layers}
    assert not report.elastic and "3 input channels, fewer than a block of 16" in found["0"]
    assert "26 input channels cannot be cut in blocks of 16" in found["2"]
    config = ofa.SpaceConfig(width=(0.5, 1.0), sparsity=("12:16",), sparsity_padding=True, proof="quick")
    supernet = ofa.Supernet(model, x, config).eval()
    assert {c.name for c in supernet.space.choices if c.kind == "sparsity"} == {"2.sparsity", "4.sparsity"}
    sparse = supernet.space.largest.replace(**{"2.sparsity": "12:16", "4.sparsity": "12:16"})
    supernet.activate(sparse)
    net = supernet.extract()
    with torch.no_grad():
        assert torch.equal(supernet(x), net(x))
    kept = (net[2].weight != 0).sum(1), (net[4].weight != 0).sum(1)
    assert (kept[0] == 4 + 4).all() and (kept[1] == 4 + 4 + 4).all()  # of 16 + 10 and of 16 + 16 + 8
    plan = supernet.plan(sparse)
    save_packed(net, plan.patterns, tmp_path / "packed.safetensors")
    load_packed(again := reduced(supernet.model, plan), tmp_path / "packed.safetensors")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in net.state_dict().items())
    for subnet in (sparse, supernet.space.smallest):  # 16 and 24 channels are left in the smallest
        net = supernet.extract(subnet)
        packed = sum(pack(net[i].weight, Pattern(12, 16)).bytes - net[i].weight.nbytes for i in (2, 4))
        assert supernet.cost(subnet).weight_bytes == sum(p.nbytes for p in net.parameters()) + packed
        whole = supernet.cost(subnet.replace(**{"2.sparsity": "dense", "4.sparsity": "dense"})).macs
        assert supernet.cost(subnet).macs == pytest.approx(whole - macs_saved(net, x) / len(x), rel=1e-9)


def test_gradients_reach_what_stays_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(8, 16)
    config = ofa.SpaceConfig(width=(0.5, 1.0), divisor=4, sparsity=("2:4",), proof="off")
    supernet = ofa.Supernet(model, x, config)
    supernet.activate(supernet.space.smallest)
    net = supernet.extract()
    supernet(x).square().sum().backward()
    net(x).square().sum().backward()
    plan = supernet.plan(supernet.active)
    for path, weight in net.named_parameters():
        gradient = dict(supernet.model.named_parameters())[path].grad
        assert gradient is not None and weight.grad is not None
        expected = weight.grad * (weight != 0) if path in plan.zeros else weight.grad
        assert torch.allclose(gradient[tuple(slice(n) for n in weight.shape)], expected, atol=1e-6), path
        assert gradient.count_nonzero() == expected.count_nonzero()


def test_masks_follow_the_weights() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, CONFIG).eval()
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        before = supernet(x)
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        assert not torch.equal(before, supernet(x)) and torch.equal(supernet(x), supernet.extract()(x))


def test_bad_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="a pattern is zeros:block"):
        ofa.SpaceConfig(sparsity=("half",))
    with pytest.raises(ValueError, match="at least one is zero"):
        ofa.SpaceConfig(sparsity=("4:4",))


def test_the_sandwich_trains_it_and_a_search_mixes_it_with_the_other_dimensions(tmp_path: Path) -> None:
    splits = Digits(size=16).load()
    config = ofa.SpaceConfig(width=(0.5, 1.0), divisor=8, sparsity=("2:4", "8:16"), proof="quick")
    supernet = ofa.Supernet(small(), splits.example, config)
    learner = Sandwich(supernet, splits, SandwichRule(), calibration_batches=2)
    before = learner.validate()
    fit(learner, Recipe(epochs=8, batch_size=32, optimizer="sgd", lr=0.1, weight_decay=1e-4))
    after = learner.validate()
    assert after["loss_smallest"] < before["loss_smallest"] - 0.3  # half the widths, and half of their weights zero
    engine = Evolution(population=8, evaluations=24)
    search = engine.start(Problem.parse(supernet.space, ["accuracy", "macs"], supernet.costs, {"weight_bytes": 0.5}), 0)
    with Archive(tmp_path / "archive.sqlite", "test") as archive:
        run(search, learner.evaluate_subnet, archive)
    whole = supernet.cost(supernet.space.largest).weight_bytes
    assert all(metrics["weight_bytes"] <= 0.5 * whole for metrics in search.results.values())
    choices = supernet.space.choices
    kinds = {c.kind for subnet in search.results for c in choices if subnet[c.name] != c.largest}
    assert kinds == {"width", "sparsity"}


@pytest.mark.parametrize("activations", [False, True])
def test_sorting_leaves_the_active_subnets_blocks_alone(activations: bool) -> None:
    model, x = build("resnet")
    config = ofa.SpaceConfig(width=(0.5, 1.0), kernel=False, depth=False, sparsity=("2:4",), proof="off")
    supernet = ofa.Supernet(model, x, config).eval()
    some = [c.name for c in supernet.space.choices if c.kind == "sparsity"][::2]
    if activations:
        sparsify_inputs(supernet.model, dict.fromkeys((n.removesuffix(".sparsity") for n in some), Pattern(2, 4)))
    else:
        supernet.activate(supernet.space.largest.replace(**dict.fromkeys(some, "2:4")))
    supernet.absorb(supernet.extract().state_dict())
    order = [p.clone() for p in supernet.parameters()]
    with torch.no_grad():
        before = supernet(x)
        supernet.sort("l2")
        torch.testing.assert_close(supernet(x), before)
    assert not all(torch.equal(a, b) for a, b in zip(order, supernet.parameters(), strict=True))  # others moved
