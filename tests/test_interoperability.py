"""Extracted networks are plain PyTorch: they compile, export, trace, copy, pickle, move, and keep what was set."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from networks import build
from torch import nn

import ofa

FAMILIES = ("resnet", "mobilenetv3", "densenet", "vit", "convnext")


@cache
def extracted(name: str) -> tuple[nn.Module, torch.Tensor]:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick"))
    return supernet.extract(supernet.space.sample(np.random.default_rng(3))).eval(), x


def exported(net: nn.Module, x: torch.Tensor) -> Any:
    return torch.export.export(net, (x,)).module()


def traced(net: nn.Module, x: torch.Tensor) -> Any:
    return torch.jit.trace(net, x)


def compiled(net: nn.Module, x: torch.Tensor) -> Any:
    torch.compiler.reset()
    return torch.compile(net, backend="aot_eager", fullgraph=True)


def pickled(net: nn.Module, x: torch.Tensor) -> Any:
    return pickle.loads(pickle.dumps(net))


def saved(net: nn.Module, x: torch.Tensor) -> Any:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def copied(net: nn.Module, x: torch.Tensor) -> Any:
    return copy.deepcopy(net)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("way", [exported, traced, compiled, pickled, saved, copied])
def test_an_extracted_network_goes_wherever_pytorch_goes(name: str, way: Callable[..., Any]) -> None:
    net, x = extracted(name)
    with torch.no_grad():
        expected = net(x)
        other = way(net, x)
        torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_supernet_moves_to_another_dtype(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick")).eval().double()
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        assert supernet(x.double()).dtype == torch.float64
        assert torch.equal(supernet(x.double()), supernet.extract()(x.double()))


def test_what_was_set_on_a_network_survives() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 5, padding=2, padding_mode="reflect")
            self.second = nn.Conv2d(16, 4, 3, padding=1, padding_mode="replicate")
            self.register_buffer("attn_mask", torch.arange(4.0))
            self.register_buffer("scratch", torch.zeros(3), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).relu()) * self.attn_mask[:, None, None]

    calls: list[int] = []
    model, x = Kept(), torch.randn(1, 3, 12, 12)
    model.first.requires_grad_(False)
    model.second.register_forward_hook(lambda *_: calls.append(1))
    model.first.train()
    model.second.eval()
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(divisor=1))
    assert {c.kind for c in supernet.space.choices} == {"width", "kernel"}
    assert (supernet.model.first.training, supernet.model.second.training) == (True, False)
    net = supernet.extract(supernet.space.smallest)
    assert (net.first.kernel_size, net.first.padding, net.first.padding_mode) == ((3, 3), (1, 1), "reflect")
    assert not net.first.weight.requires_grad and net.second.weight.requires_grad
    assert torch.equal(net.attn_mask, model.attn_mask) and "scratch" not in net.state_dict()
    assert (net.first.training, net.second.training) == (True, False)
    calls.clear()
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        assert torch.equal(net(x), supernet(x))
    assert len(calls) == 2


def test_wrapped_networks_are_unwrapped() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(nn.DataParallel(model), x, ofa.SpaceConfig(proof="off"))
    assert type(supernet.extract()) is type(model)


def test_inputs_of_another_dtype_are_named() -> None:
    model, x = build("resnet")
    with pytest.raises(ValueError, match=r"does not run on the example inputs"):
        ofa.Supernet(model, x.double())
    with pytest.raises(ValueError, match=r"the model's device is cpu, that of the inputs meta; bring them together"):
        ofa.Supernet(nn.Linear(3, 4), torch.randn(1, 3, device="meta"))
    with pytest.raises(ValueError, match=r"the model's type is torch.float32, that of the inputs torch.float64"):
        ofa.Supernet(nn.Linear(3, 4), torch.randn(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"meta device"):
        ofa.Supernet(nn.Linear(3, 4, device="meta"), torch.randn(1, 3))
