"""Policies and overrides: what each lets be elastic; `auto` gives the Vitis AI Optimizer's widths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from networks import build

import ofa

VITIS = ofa.SpaceConfig(width=(0.5, 0.75, 1.0), kernel=False, depth=False, policy="auto", proof="off")


@pytest.mark.parametrize(
    ("name", "groups", "largest", "smallest"),
    [("resnet50", 35, 4111, 1938), ("mobilenet_v2", 16, 314, 180), ("densenet121", None, 2866, 1348)],
)
def test_auto_offers_what_vitis_offers(name: str, groups: int | None, largest: int, smallest: int) -> None:
    model = torchvision.models.get_model(name).eval()
    supernet = ofa.Supernet(model, torch.randn(1, 3, 224, 224), VITIS)
    if groups is not None:
        assert len(supernet.space) == groups
    # Their counter adds batch norms and the like: a few per cent.
    assert supernet.cost(supernet.space.largest).macs / 1e6 == pytest.approx(largest, rel=0.05)
    assert supernet.cost(supernet.space.smallest).macs / 1e6 == pytest.approx(smallest, rel=0.05)


def test_auto_keeps_the_ends_unless_told_otherwise() -> None:
    model, x = build("resnet")
    both = [ofa.Supernet(model, x, ofa.SpaceConfig(policy="auto", keep_ends=k, proof="off")) for k in (True, False)]
    names = [{choice.name for choice in supernet.space.choices} for supernet in both]
    assert {"conv1.width", "layer4.0.conv2.width"} <= names[1] - names[0]


def test_hidden_keeps_residual_streams() -> None:
    model, x = build("mobilenetv2")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(policy="hidden"))
    values = {c.name: c.largest if c.kind == "depth" else c.smallest for c in supernet.space.choices}
    net = supernet.extract(ofa.Subnet(values))
    assert net.blocks[1][1].conv_pw.in_channels == model.blocks[1][1].conv_pw.in_channels
    assert net.blocks[1][1].conv_pw.out_channels < model.blocks[1][1].conv_pw.out_channels


def test_block_and_stage_give_one_ratio_to_what_lies_within_blocks() -> None:
    model, x = build("mobilenetv3")
    hidden, block, stage = (
        ofa.Supernet(model, x, ofa.SpaceConfig(width=(0.5, 1.0), policy=p, proof="off"))
        for p in ("hidden", "block", "stage")
    )
    net = block.extract(block.space.largest.replace(**{"blocks.2.1.width": 50}))
    whole = model.blocks[2][1]
    assert net.blocks[2][1].conv_pw.out_channels == whole.conv_pw.out_channels // 2
    assert net.blocks[2][1].se.conv_reduce.out_channels < whole.se.conv_reduce.out_channels
    assert net.blocks[2][1].conv_pwl.out_channels == whole.conv_pwl.out_channels
    assert net.blocks[2][0].conv_pw.out_channels == model.blocks[2][0].conv_pw.out_channels
    both = stage.extract(stage.space.largest.replace(**{"blocks.2.width": 50}))
    assert [b.conv_pw.out_channels * 2 for b in both.blocks[2]] == [b.conv_pw.out_channels for b in model.blocks[2]]
    assert both.conv_head.out_channels == model.conv_head.out_channels
    assert len(stage.space) < len(block.space) < len(hidden.space)


def test_one_ratio_for_the_whole_network_is_a_slimmable_one() -> None:
    model, x = build("resnet")
    config = ofa.SpaceConfig(width=(0.25, 0.5, 1.0), policy="network", depth=False, kernel=False)
    supernet = ofa.Supernet(model, x, config).eval()
    assert [(c.name, c.options) for c in supernet.space.choices] == [("width", (25, 50, 100))]
    half = supernet.extract(ofa.Subnet({"width": 50}))
    assert (half.conv1.out_channels, half.layer4[1].conv2.out_channels) == (32, 256)
    assert supernet.cost(ofa.Subnet({"width": 50})).macs < 0.35 * supernet.cost(supernet.space.largest).macs


def test_compound_gives_each_stage_one_ratio() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(policy="compound")).eval()
    widths = [choice for choice in supernet.space.choices if choice.kind == "width"]
    assert {"layer1.width", "layer2.width", "layer3.width", "layer4.width"} <= {c.name for c in widths}
    assert all(c.options == (25, 50, 75, 100) for c in widths if c.name.startswith("layer"))
    half = supernet.space.largest.replace(**{"layer3.width": 50})
    net = supernet.extract(half)
    assert (net.layer3[0].conv1.out_channels, net.layer3[1].conv2.out_channels) == (128, 128)
    assert net.layer4[0].conv1.out_channels == 512
    supernet.activate(half)
    with torch.no_grad():
        assert torch.equal(net(x), supernet(x))
    subnet = supernet.space.sample(np.random.default_rng(0))
    assert supernet.space.decode(supernet.space.encode(subnet)) == subnet


def test_overrides_by_glob() -> None:
    model, x = build("mobilenetv3")
    config = ofa.SpaceConfig(
        overrides={"blocks.2.*": {"width": [0.5], "kernel": [5]}, "conv_stem": {"units": [8]}}, proof="off"
    )
    space = ofa.Supernet(model, x, config).space
    assert space["conv_stem.width"].options == (8, 16)
    inside = [c for c in space.choices if c.name.startswith("blocks.2.")]
    assert inside and all(len(c.options) == 2 for c in inside if c.kind == "width")
    assert not any(c.kind == "kernel" for c in inside)
    assert any(c.kind == "kernel" for c in space.choices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "all"}, "unknown policy 'all'; allowed: everything, hidden, block, stage, compound, network, auto"),
        ({"overrides": {"conv1": {"channels": [8]}}}, r"may hold width, units and kernel, got \['channels'\]"),
        ({"overrides": {"conv1": {"width": [2.0]}}}, r"overrides\['conv1'\]\.width ratios lie in \(0, 1\]"),
        ({"overrides": {"conv1": {"units": [65]}}}, r"conv1\.width: units \[65\] asked by 'conv1'; it has 64"),
        ({"overrides": {"convl": {"width": [0.5]}}}, "matches no elastic layer; close names: conv1"),
    ],
)
def test_bad_policies_and_overrides_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ofa.Supernet(*build("resnet"), ofa.SpaceConfig(proof="off", **arguments))  # type: ignore[arg-type]
