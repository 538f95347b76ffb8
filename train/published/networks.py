"""The largest networks of published search spaces, of which all their subnets are parts.

Those of inverted residuals are made by timm's builder from its words for blocks: `ir_r4_k7_s2_e6_c24` are four with
kernels of 7, stride 2 in the first, expansion 6 and 24 channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ofa.train.timm_import import timm


def ofa_mobilenet_v3(num_classes: int = 1000, in_chans: int = 3, width: float = 1.0, depth: int = 4) -> nn.Module:
    """Once-for-all's MobileNetV3: kernels of 7, expansions of 6, four blocks a stage (Cai et al., 2020).

    >>> import torch
    >>> ofa_mobilenet_v3(num_classes=10, width=0.25).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """
    stages = ["s2_e6_c24_nre", "s2_e6_c40_se0.25_nre", "s2_e6_c80", "s1_e6_c112_se0.25", "s2_e6_c160_se0.25"]
    blocks = ["ds_r1_k3_s1_e1_c16_nre", *(f"ir_r{depth}_k7_{stage}" for stage in stages), "cn_r1_k1_s1_c960"]
    network: nn.Module = timm.models.mobilenetv3.MobileNetV3(
        **_built(blocks, width),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=16,
        num_features=_divisible(1280, width),
        head_bias=False,
        act_layer=nn.Hardswish,
        se_layer=_squeeze(),
    )
    return network


def ofa_proxyless(num_classes: int = 1000, in_chans: int = 3, width: float = 1.3, depth: int = 4) -> nn.Module:
    """Once-for-all's space of ProxylessNAS: kernels of 7, expansions of 6, four blocks a stage (Cai et al., 2020).

    >>> import torch
    >>> ofa_proxyless(num_classes=10, width=0.25).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """
    stages = ["s2_e6_c24", "s2_e6_c40", "s2_e6_c80", "s1_e6_c96", "s2_e6_c192"]
    blocks = ["ds_r1_k3_s1_e1_c16", *(f"ir_r{depth}_k7_{stage}" for stage in stages), "ir_r1_k7_s1_e6_c320"]
    network: nn.Module = timm.models.efficientnet.EfficientNet(
        **_built(blocks, width),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=32,
        num_features=_divisible(1280, width),
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    )
    return network


def ofa_resnet(
    num_classes: int = 1000,
    in_chans: int = 3,
    width: float = 1.0,
    depths: Sequence[int] = (4, 4, 6, 4),
    expansion: float = 0.35,
) -> nn.Module:
    """Once-for-all's ResNet-50: bottlenecks of 0.35 of their outputs, two blocks a stage more, a deep stem.

    >>> import torch
    >>> ofa_resnet(num_classes=10, width=0.125).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """
    outputs = _divisible(64, width)
    network = nn.Sequential()
    middle = _divisible(outputs // 2)
    first, second, third = _unit(in_chans, middle, 3, 2), _unit(middle, middle, 3), _unit(middle, outputs, 3)
    network.stem = nn.Sequential(first, _Residual(second), third, nn.MaxPool2d(3, 2, 1))
    for stage, depth in enumerate(depths):
        inputs, outputs = outputs, _divisible(256 * 2**stage, width)
        blocks = nn.Sequential()
        for i in range(depth):
            blocks.append(_Bottleneck(outputs if i else inputs, outputs, expansion, 2 if stage and not i else 1))
        network.add_module(f"layer{stage + 1}", blocks)
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.classifier = nn.Linear(outputs, num_classes)
    return network


def attentive_nas(
    num_classes: int = 1000, in_chans: int = 3, depths: Sequence[int] = (2, 5, 6, 6, 8, 8, 2)
) -> nn.Module:
    """The largest network of AttentiveNAS' space (Wang et al., 2021), which is AlphaNet's, too.

    Theirs goes around a block by a 1×1 convolution wherever the active numbers of channels differ, and by nothing where
    they agree; here that is settled by the largest network.

    >>> import torch
    >>> attentive_nas(num_classes=10, depths=[1] * 7).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """
    widths, strides = (24, 32, 40, 72, 128, 216, 224), (1, 2, 2, 2, 1, 2, 1)
    squeezed = (False, False, True, False, True, True, True)
    network = nn.Sequential()
    network.stem = _unit(in_chans, 24, 3, 2, act=nn.SiLU)
    inputs = 24
    for stage, (outputs, depth, stride, se) in enumerate(zip(widths, depths, strides, squeezed, strict=True)):
        blocks = nn.Sequential()
        for i in range(depth):
            blocks.append(_Inverted(outputs if i else inputs, outputs, 6 if stage else 1, 1 if i else stride, se))
        network.add_module(f"layer{stage + 1}", blocks)
        inputs = outputs
    network.expand = _unit(inputs, 6 * inputs, 1, act=nn.SiLU)
    network.pool = nn.AdaptiveAvgPool2d(1)
    network.mix = nn.Sequential(nn.Conv2d(6 * inputs, 1984, 1, bias=False), nn.SiLU(), nn.Flatten())
    network.classifier = nn.Linear(1984, num_classes)
    return network


def cifar_resnet(num_classes: int = 10, in_chans: int = 3, depth: int = 20) -> nn.Module:
    """The ResNet for pictures of 32 pixels: three stages of 16, 32 and 64 channels (He et al., 2016, section 4.2).

    >>> import torch
    >>> cifar_resnet(in_chans=1).eval()(torch.zeros(1, 1, 32, 32)).shape
    torch.Size([1, 10])

    Raises:
        ValueError: `depth` is not 6n + 2.
    """
    blocks = (depth - 2) // 6
    if depth != 6 * blocks + 2 or blocks < 1:
        raise ValueError(f"depth is 6n + 2: 20, 32, 44, 56, 110; got {depth}")
    network, inputs = nn.Sequential(_unit(in_chans, 16, 3)), 16
    for stage, outputs in enumerate((16, 32, 64)):
        layer = nn.Sequential()
        for i in range(blocks):
            layer.append(_Basic(outputs if i else inputs, outputs, 2 if stage and not i else 1))
        network.add_module(f"layer{stage + 1}", layer)
        inputs = outputs
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.classifier = nn.Linear(inputs, num_classes)
    return network


def _built(blocks: Iterable[str], width: float) -> dict[str, Any]:
    """What timm's classes want of blocks in its words."""
    return {
        "block_args": timm.models._efficientnet_builder.decode_arch_def([[block] for block in blocks]),
        "round_chs_fn": partial(timm.models._efficientnet_builder.round_channels, multiplier=width),
    }


def _divisible(channels: float, width: float = 1.0) -> int:
    rounded: int = timm.models._efficientnet_builder.round_channels(channels, width)
    return rounded


def _squeeze() -> Any:
    """MobileNetV3's squeeze-and-excitation, of a quarter of the channels."""
    return partial(
        timm.models._efficientnet_blocks.SqueezeExcite,
        rd_ratio=0.25,
        gate_layer="hard_sigmoid",
        force_act_layer=nn.ReLU,
        rd_round_fn=_divisible,
    )


def _unit(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), act())


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Nothing, or where the size changes an average and a 1×1 convolution (ResNet-D)."""
    if (inputs, stride) == (outputs, 1):
        return nn.Identity()
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
    return nn.Sequential(pool, *_unit(inputs, outputs, 1, act=nn.Identity))


class _Residual(nn.Module):
    """What goes around a layer is added to it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layer(x)
        return result


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, expansion: float, stride: int) -> None:
        super().__init__()
        middle = _divisible(round(outputs * expansion))
        self.conv1 = _unit(inputs, middle, 1)
        self.conv2 = _unit(middle, middle, 3, stride)
        self.conv3 = _unit(middle, outputs, 1, act=nn.Identity)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))
        return result


class _Basic(nn.Module):
    """Two 3×3 convolutions, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _unit(inputs, outputs, 3, stride)
        self.conv2 = _unit(outputs, outputs, 3, act=nn.Identity)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.conv2(self.conv1(x)) + self.shortcut(x))
        return result


class _Inverted(nn.Module):
    """AttentiveNAS' block: an inverted residual of kernel 5, with something to go around it always."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, squeezed: bool) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = _unit(inputs, middle, 1, act=nn.SiLU) if expansion > 1 else nn.Identity()
        self.depthwise = _unit(middle, middle, 5, stride, groups=middle, act=nn.SiLU)
        self.squeeze = _squeeze()(middle) if squeezed else nn.Identity()
        self.project = _unit(middle, outputs, 1, act=nn.Identity)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.stride == 1 else avg_pool2d(x, self.stride, padding=x.shape[-1] % 2)
        result: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x)))) + self.shortcut(around)
        return result
