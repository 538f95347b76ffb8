"""Expansion: channels filled up with zeros compute the same function, in every pattern that couples channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from networks import build
from patterns import PATTERNS
from torch import nn
from torch.utils import _pytree as pytree

from ofa.backbone import as_call
from ofa.expansion import expanded
from ofa.export import export_onnx


def outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        return pytree.tree_leaves(model(*args, **kwargs))


@pytest.mark.parametrize("name", [name for name in PATTERNS if "weight norm" not in name])
def test_every_pattern_computes_the_same_with_more_channels(name: str) -> None:
    model, inputs = PATTERNS[name].build()
    wide = expanded(model, inputs, 12)
    assert type(wide) is type(model)
    for a, b in zip(outputs(model, inputs), outputs(wide, inputs), strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["mobilenetv3", "densenet"])
def test_hidden_widths_of_real_networks_are_multiples_and_outputs_stay(name: str, tmp_path: Path) -> None:
    model, x = build(name)
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wide = expanded(model, x, 32)
    narrow, widths = ([m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (model, wide))
    assert all(w % 32 == 0 and w >= n for w, n in zip(widths, narrow, strict=True)) and widths != narrow
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(wide(x), expected, 1e-5, 1e-5)
    export_onnx(wide, x, tmp_path / "wide.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "wide.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.allclose(found, expected.numpy(), 1e-3, 1e-4)


def test_excluded_modules_keep_their_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    x = torch.randn(2, 3, 12, 12)
    assert [m.out_channels for m in expanded(model, x, 8) if isinstance(m, nn.Conv2d)] == [16, 8, 2]
    kept = expanded(model, x, 8, exclude=["2"])
    assert [m.out_channels for m in kept if isinstance(m, nn.Conv2d)] == [10, 6, 2]  # its inputs are its channels, too


def test_what_cannot_be_expanded_says_why() -> None:
    model, x = build("ghostnet")
    with pytest.raises(ValueError, match="expanded network does not run, exclude the modules whose code holds a size"):
        expanded(model, x, 32)
    with pytest.raises(ValueError, match="multiple of at least 1, got 0"):
        expanded(model, x, 0)
    with pytest.raises(ValueError, match=r"computes something else \(nan\)"):  # a norm of zero
        expanded(*PATTERNS["weight norm"].build(), 12)
