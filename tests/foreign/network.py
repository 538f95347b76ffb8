"""A backbone: any function that makes a network."""

from torch import nn


def small(num_classes: int, in_chans: int, width: int = 16) -> nn.Module:
    def block(inputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    return nn.Sequential(
        *block(in_chans), *block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )
