"""A network of your own: change it as you like, or replace it by yours."""

from torch import nn


def make(num_classes: int, in_chans: int = 3, width: int = 32) -> nn.Module:
    """Three convolutions that halve the picture, and a classifier; `width` and the like are settings."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [*block(in_chans, width), *block(width, 2 * width), *block(2 * width, 4 * width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
