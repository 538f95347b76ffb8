"""The report: every layer is in it, elastic or with a reason that names the operator, the module and the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from networks import TIMM, build
from torch import nn

import ofa


@pytest.mark.parametrize("name", sorted(TIMM))
def test_every_layer_is_elastic_or_has_a_reason(name: str) -> None:
    model, x = build(name)
    report = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick")).report
    expected = [n for n, m in model.named_modules() if list(m.parameters(recurse=False))]
    assert [layer.name for layer in report.layers] == expected
    rows = [row for layer in report.layers for row in layer.dimensions]
    assert rows and all(bool(row.choices) != bool(row.reason) for row in rows)
    assert all(layer.choices or layer.reason for layer in report.layers)
    assert sum(report.shares) == pytest.approx(1) and report.shares[0] < 1  # the output stays, at least
    assert sum(layer.params for layer in report.layers) == report.ranges["params"][1]
    assert all(row.layers and len(row.options) > 1 for row in report.elastic)


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.linalg.matrix_exp(torch.diag_embed(self.a(x))).sum(1)
        return self.c(self.b(x).relu())


def test_reasons_and_files(tmp_path: Path) -> None:
    report = ofa.Supernet(Strange(), torch.randn(2, 8), ofa.SpaceConfig(divisor=1)).report
    (frozen,) = [layer for layer in report.layers if not layer.choices]
    assert frozen.name == "a"
    assert "tests/test_report.py:" in frozen.reason and "not understood" in frozen.reason
    for name in ("report.json", "report.html", "report.txt"):
        report.save(tmp_path / name)
    assert json.loads((tmp_path / "report.json").read_text())["layers"][0]["name"] == "a"
    assert "b.width" in (tmp_path / "report.txt").read_text() and "<html>" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"\.json, \.html, \.txt, got report\.pdf"):
        report.save(tmp_path / "report.pdf")


def test_a_layer_with_a_choice_says_what_stays_in_it() -> None:
    """A first convolution's inputs are the picture's channels; a last layer's outputs are given."""
    report = ofa.Supernet(torchvision.models.resnet18(), torch.randn(2, 3, 64, 64)).report
    layers = {layer.name: layer for layer in report.layers}
    assert [(row.name, row.size) for row in layers["conv1"].dimensions] == [
        ("outputs", 64),
        ("inputs", 3),
        ("kernel", 7),
    ]
    assert layers["conv1"].dimensions[0].choices == ("conv1.width",)
    assert layers["conv1"].why("inputs").startswith("convolution in conv1 (models/resnet.py:")
    assert layers["fc"].why() == "the network's output" and not layers["fc"].why("inputs")
    assert layers["layer1.0.conv1"].dimensions[1].choices == ("conv1.width",)
    said = report.explain("conv1")
    assert "outputs (64): the choice conv1.width: 16, 32, 48, 64, with bn1" in said and "conv1.kernel: 3, 5, 7" in said
    with pytest.raises(ValueError, match=r"no layer 'layer1.0'.*there are layer1.0.conv1, layer1.0.bn1"):
        report.explain("layer1.0")
    with pytest.raises(ValueError, match=r"no layer 'layer1.0.conf1'.*there are layer1.0.conv1"):
        report.explain("layer1.0.conf1")


def test_every_layer_of_a_swin_transformer_says_why_it_stays() -> None:
    """Layers with one choice and one dimension that stays were said to be elastic, and that was all."""
    model = torchvision.models.swin_transformer.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=10)
    report = ofa.Supernet(model, torch.randn(2, 3, 64, 64)).report
    partly = [layer for layer in report.layers if layer.choices and layer.staying]
    assert partly and all(row.reason for layer in partly for row in layer.staying)
    assert report.shares[1] > 0


def test_too_few_channels_for_the_divisor_are_said_to_be() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 1), nn.ReLU(), nn.Conv2d(4, 32, 1), nn.Conv2d(32, 8, 3))
    report = ofa.Supernet(net, torch.randn(2, 3, 16, 16)).report
    layers = {layer.name: layer for layer in report.layers}
    assert layers["1"].why() == "4 channels have no smaller multiple of the divisor 8 in the ratios given"
    assert layers["3"].why("inputs") == layers["1"].why()
    hidden = ofa.Supernet(net, torch.randn(2, 3, 16, 16), ofa.SpaceConfig(kernel=False, width=(1.0,))).report
    assert not hidden.elastic and hidden.shares == (0.0, 0.0, 1.0)
