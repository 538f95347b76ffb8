"""Grouped convolutions keep channels of their own in each group, wherever that leaves the network's function alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ofa

NONE: list[int] = []


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *edges = x.shape
        return x.view(batch, 4, channels // 4, *edges).transpose(1, 2).reshape(x.shape)


class Halves(nn.Module):
    """Both halves of the channels meet at equal positions."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat((left + right, left - right), 1)


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups), nn.BatchNorm2d(outputs), nn.ReLU())


NETWORKS: dict[str, tuple[Callable[[], list[nn.Module]], list[int]]] = {  # layers, groups of convolutions
    "on both sides": (lambda: [conv(3, 16), conv(16, 16, 4), conv(16, 4)], [4, 4]),
    "fewer groups": (lambda: [conv(3, 32), conv(32, 32, 8), conv(32, 32, 4), conv(32, 4)], [8, 8, 4]),
    "more groups": (lambda: [conv(3, 32), conv(32, 32, 4), conv(32, 32, 8), conv(32, 4)], [4, 8, 8]),
    "more outputs": (lambda: [conv(3, 16), conv(16, 32, 2), conv(32, 4)], [2, 2]),
    "flattened": (lambda: [conv(3, 16), conv(16, 16, 4), nn.Flatten(), nn.Linear(16 * 64, 10)], [4, 4]),
    "transposed": (
        lambda: [conv(3, 16), nn.ConvTranspose2d(16, 24, 2, 2, groups=4), nn.BatchNorm2d(24), conv(24, 4)],
        [4, 4],
    ),
    "shuffled": (lambda: [conv(3, 16), conv(16, 16, 4), Shuffled(), conv(16, 4)], [4]),
    "halves that meet": (lambda: [conv(3, 16), Halves(), conv(16, 16, 2), Halves(), conv(16, 4)], NONE),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(*NETWORKS[name][0]()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    return model, torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("move", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_sliced_equals_zeroed_wherever_groups_keep_channels_of_their_own(name: str, move: bool) -> None:
    model, x = made(name)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig("multiples", divisor=4, kernel=False, depth=False)).eval()
    assert sorted(supernet.conversion.groups.conv_groups.values()) == sorted(NETWORKS[name][1])
    with torch.no_grad():
        supernet.sort("l2", move=move)
        torch.testing.assert_close(supernet(x), model(x))
        ordered = supernet.model.state_dict() if move else model.state_dict()
        for seed in range(3):
            supernet.activate(supernet.space.sample(np.random.default_rng(seed)))
            zeroed = copy.deepcopy(model)
            zeroed.load_state_dict(supernet.full_size())
            torch.testing.assert_close(supernet(x), zeroed(x))
            for key, tensor in zeroed.state_dict().items():
                assert torch.equal(tensor, torch.where(tensor == 0, tensor, ordered[key])), key


def test_the_weakest_outputs_of_every_group_go() -> None:
    model, x = made("on both sides")
    weak = [0, 5, 10, 15]
    with torch.no_grad():
        for tensor in (model[1][0].weight, model[1][0].bias, model[1][1].weight, model[1][1].bias):
            tensor[weak] = 0
        model[2][0].weight[:, weak] = 0
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(width=(0.75, 1.0), divisor=1, kernel=False, depth=False)).eval()
    supernet.sort(move=False)
    slim = supernet.extract(supernet.space.smallest)
    assert slim[1][0].weight.shape == (12, 3, 3, 3) and bool((slim[1][0].weight.flatten(1) != 0).any(1).all())
