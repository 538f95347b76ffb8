"""Small real networks that tests share, by name: CNNs with and without SE, concatenations, transformers."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "resnet": ("resnet18", 64, {}),
    "resnext": ("resnext26ts", 64, {}),
    "mobilenetv2": ("mobilenetv2_050", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "densenet": ("densenet121", 64, {"growth_rate": 16, "block_config": (3, 3)}),
    "vit": ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 3}),
    "convnext": ("convnext_atto", 64, {"depths": (2, 2, 2, 2), "dims": (16, 32, 48, 64)}),
    "efficientnet": ("efficientnet_lite0", 64, {}),
    "regnet": ("regnety_002", 64, {}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "dla": ("dla46_c", 64, {}),
    "mixer": ("mixer_s32_224", 64, {"img_size": 64}),
}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with random batch-norm statistics, in evaluation mode, and an example input."""
    architecture, size, arguments = TIMM[name]
    model = timm.create_model(architecture, num_classes=10, **arguments).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # a classifier that begins at zero hides everything
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, torch.randn(2, 3, size, size, generator=generator)


def small(num_classes: int = 10, in_chans: int = 1, last: int = 32) -> nn.Module:
    """Three convolutions with batch norms and a classifier: trained in seconds."""

    def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    features = nn.Sequential(layer(in_chans, 16, 1), layer(16, 32, 2), layer(32, last, 2))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))
