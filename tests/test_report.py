"""The report: every layer is in it, elastic or with a reason that names the operator, the module and the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from networks import TIMM, build
from torch import nn

import ofa


@pytest.mark.parametrize("name", sorted(TIMM))
def test_every_layer_is_elastic_or_has_a_reason(name: str) -> None:
    model, x = build(name)
    report = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick")).report
    expected = [n for n, m in model.named_modules() if list(m.parameters(recurse=False))]
    assert [layer.name for layer in report.layers] == expected
    assert all(bool(layer.choices) != bool(layer.reason) for layer in report.layers)
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
