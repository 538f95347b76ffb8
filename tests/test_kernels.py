"""Kernel transform matrices: the centre crop at the start, trainable, and part of what is extracted."""

from __future__ import annotations

import torch
from networks import build

import ofa

CONFIG = ofa.SpaceConfig(kernel_transform=True, proof="quick", depth=False)


def test_transforms_start_as_the_crop_and_learn() -> None:
    model, x = build("mobilenetv3")
    crop = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick", depth=False)).eval()
    supernet = ofa.Supernet(model, x, CONFIG).eval()
    assert supernet.transforms is not None and all("conv_dw.weight" in name for name in supernet.transforms.edges)
    subnet = supernet.space.smallest
    for net in (crop, supernet):
        net.activate(subnet)
    with torch.no_grad():
        before = supernet(x)
        assert torch.equal(before, crop(x))
    supernet(x).square().mean().backward()
    matrices = list(supernet.transforms.parameters())
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in matrices if m.shape[0] == 9)
    with torch.no_grad():
        for matrix in matrices:
            matrix -= 10 * matrix.grad if matrix.grad is not None else 0
        after = supernet(x)
        assert not torch.equal(after, before)
        assert torch.equal(supernet.extract()(x), after)
        supernet.activate(supernet.space.largest)
        assert torch.equal(supernet(x), model(x))


def test_a_seven_steps_down_twice() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 7, padding=3), torch.nn.Conv2d(8, 3, 1))
    supernet = ofa.Supernet(model, torch.randn(1, 2, 9, 9), CONFIG)
    with torch.no_grad():
        for matrix in supernet.transforms.parameters():  # type: ignore[union-attr]
            matrix.copy_(torch.randn_like(matrix))
    weights = {}
    for size in (7, 5, 3):
        net = supernet.extract(supernet.space.largest.replace(**{"0.kernel": size}))
        weights[size] = net[0].weight.detach()
    five, three = (supernet.transforms.matrices[f"0/weight:{n}"] for n in (5, 3))  # type: ignore[union-attr]
    expected = (weights[7][:, :, 1:6, 1:6].flatten(2) @ five).reshape(8, 2, 5, 5)
    torch.testing.assert_close(weights[5], expected)
    torch.testing.assert_close(weights[3], (expected[:, :, 1:4, 1:4].flatten(2) @ three).reshape(8, 2, 3, 3))
