"""Small networks that tests of pruning share, by what is particular about them, and functions that score them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Two convolutions and a residual sum; a buffer whose name ends as those of Vitis' masks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.conv4, self.fc = nn.Conv2d(2 * width, 3 * width, 3, padding=1), nn.Linear(3 * width, 10)
        self.register_buffer("attn_mask", torch.arange(3.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.fc(self.conv4(x + self.conv3(x)).relu().mean((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        """A method besides forward."""
        return self.bn1(self.conv1(x))


class Depthwise(nn.Module):
    """An inverted residual with a gate, reflecting borders."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8))
        self.expand = nn.Sequential(nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.depth = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2, groups=32, bias=False), nn.BatchNorm2d(32))
        self.squeeze, self.gate = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.project, self.bn = nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.depth(self.expand(x).relu()).relu()
        y = y * self.gate(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.fc((x + self.bn(self.project(y))).mean((2, 3)))


class Grouped(nn.Module):
    """A convolution in groups between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.grouped, self.last = nn.Conv2d(24, 48, 3, padding=1, groups=4), nn.Conv2d(48, 16, 3)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.grouped(self.bn(self.first(x)).relu()).relu()).relu().mean((2, 3)))


class Transposed(nn.Module):
    """Down, up again by a transposed convolution, and a concatenation; the output is a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 16, 3, padding=1), nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.middle, self.bn = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).relu()
        y = self.bn(self.middle(nn.functional.max_pool2d(x, 2))).relu()
        return self.out(torch.cat([x, self.up(y).relu()], 1))


class TwoInputs(nn.Module):
    """Keyword inputs, and outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(1, 16, 1)
        self.mix, self.fc = nn.Conv2d(16, 32, 3), nn.Linear(32, 10)

    def forward(self, pixels: Tensor, context: Tensor) -> dict[str, Tensor]:
        hidden = self.mix((self.left(pixels) + self.right(context)).relu()).relu().mean((2, 3))
        logits = self.fc(hidden)
        return {"logits": logits, "probabilities": logits.softmax(1)}


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "transposed": Transposed,
    "two_inputs": TwoInputs,
}


def make(name: str) -> tuple[nn.Module, Any]:
    """A network with random batch statistics and nonzero biases, in evaluation mode, and example inputs (batch 4)."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias):
                    tensor.copy_(0.1 * torch.randn(module.num_features))
                for tensor in (module.running_var, module.weight):
                    tensor.copy_(0.5 + torch.rand(module.num_features))
    x = torch.randn(4, 1, 8, 8)
    return model, {"pixels": x, "context": torch.randn(4, 1, 8, 8)} if name == "two_inputs" else x


def outputs(model: nn.Module, inputs: Any) -> Tensor:
    """All outputs in one vector."""
    found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return torch.cat([t.flatten() for t in found.values()]) if isinstance(found, dict) else found.flatten()


class Likeness:
    """Scores a network by how like the outputs are to those of a first one, and counts its calls."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.inputs, self.calls = inputs, 0
        with torch.no_grad():
            self.target = outputs(model, inputs)

    def __call__(self, model: nn.Module, scale: float = 1.0) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            return 100 - scale * (outputs(model, self.inputs) - self.target).square().mean()
