"""A Keras network on the torch backend reads its weights past its modules: it is frozen, and the report says why."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch import nn

import ofa

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in Keras itself


def network() -> nn.Module:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    ).eval()


@pytest.mark.parametrize("proof", ["full", "off"])
def test_a_keras_network_does_not_convert_vacuously(proof: str) -> None:
    """Either choices change the output and what is extracted is smaller, or there are none and the report says why."""
    model, x = network(), torch.randn(2, 16, 16, 3)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof=proof)).eval()
    with torch.no_grad():
        whole = supernet(x)
        assert torch.equal(whole, model(x))
        if supernet.space.choices:
            supernet.activate(supernet.space.smallest)
            net = supernet.extract()
            assert not torch.allclose(supernet(x), whole) and torch.equal(net(x), supernet(x))
            assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in model.parameters())
            return
    reasons = [layer.reason for layer in supernet.report.layers]
    assert all(reasons) and any(reason.startswith("read through ") for reason in reasons)
