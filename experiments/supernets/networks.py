"""Two backbones for 28×28 pictures: ResNet-20-like (He et al., 2016), MobileNetV2-like (Sandler et al., 2018)."""

from __future__ import annotations

from torch import Tensor, nn


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity, or a 1×1 convolution where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(inputs, outputs, 3, stride), nn.ReLU(), unit(outputs, outputs))
        self.shortcut = nn.Identity() if (inputs, stride) == (outputs, 1) else unit(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = nn.functional.relu(self.body(x) + self.shortcut(x))
        return result


class Inverted(nn.Module):
    """Expansion, 5×5 depthwise convolution, projection; a residual where the size stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        middle = inputs * expansion
        expand, depthwise = unit(inputs, middle, 1), unit(middle, middle, 5, stride, groups=middle)
        self.body = nn.Sequential(expand, nn.ReLU6(), depthwise, nn.ReLU6(), unit(middle, outputs, 1))
        self.residual = (inputs, stride) == (outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return x + result if self.residual else result


class Network(nn.Module):
    """A stem, three stages of three blocks, a classifier."""

    def __init__(self, block: type[Residual] | type[Inverted], widths: tuple[int, int, int], classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(1, widths[0], 3, 2), nn.ReLU())
        stages, inputs = [], widths[0]
        for i, width in enumerate(widths):
            blocks = [block(inputs, width, 2 if i else 1), block(width, width, 1), block(width, width, 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return result


def build(name: str) -> Network:
    """`resnet20` or `mobilenetv2`."""
    return {"resnet20": Network(Residual, (16, 32, 64)), "mobilenetv2": Network(Inverted, (16, 24, 40))}[name]
