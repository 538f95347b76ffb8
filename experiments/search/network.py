"""A backbone like MobileNetV3 (Howard et al., 2019) for 28×28 pictures: inverted bottlenecks, some with squeezes."""

from __future__ import annotations

from torch import Tensor, nn

from experiments.supernets.networks import unit

STAGES = ((16, 2, 5, False), (24, 4, 5, True), (40, 4, 7, False), (64, 4, 7, True))  # width, blocks, kernel, squeeze
EXPANSION = 4


class Squeeze(nn.Module):
    """Channels weighted by what all of them see (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 8)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.hardsigmoid(self.weigh(x))


class Bottleneck(nn.Module):
    """Expansion, depthwise convolution, squeeze, projection; a residual where the size stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        middle = inputs * EXPANSION
        parts = [unit(inputs, middle, 1), nn.Hardswish(), unit(middle, middle, kernel, stride, groups=middle)]
        parts += [*([Squeeze(middle)] if squeeze else []), nn.Hardswish(), unit(middle, outputs, 1)]
        self.body = nn.Sequential(*parts)
        self.residual = (inputs, stride) == (outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return x + result if self.residual else result


class MobileNetV3(nn.Module):
    """A stem, four stages, a classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(1, 16, 3, 1), nn.Hardswish())
        stages, inputs = [], 16
        for width, blocks, kernel, squeeze in STAGES:
            first = Bottleneck(inputs, width, kernel, 2, squeeze)
            rest = (Bottleneck(width, width, kernel, 1, squeeze) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *rest))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return result
