"""Small networks, one for each way in which channels can be coupled: what every pattern must convert to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Pattern:
    """A network, its inputs, and the width groups that must be elastic (by name, without `.width`)."""

    model: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...] | dict[str, tuple[int, ...]]
    elastic: tuple[str, ...]

    def build(self) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = self.model().eval()
        if isinstance(self.inputs, dict):
            return model, {name: torch.randn(shape) for name, shape in self.inputs.items()}
        return model, tuple(torch.randn(shape) for shape in self.inputs)


class Net(nn.Module):
    """Layers by name, and a function that is their forward."""

    def __init__(self, run: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.run(self, *args, **kwargs)


def conv(c_in: int, c_out: int, kernel: int = 3, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, **arguments)


def net(run: Callable[..., Any], **layers: Any) -> Callable[[], nn.Module]:
    """A network with three input channels: `a` and `b` after the image, `out` at the end, others as given."""
    return lambda: Net(
        run, **{n: v() if callable(v) and not isinstance(v, nn.Module) else v for n, v in layers.items()}
    )


IMAGE = ((2, 3, 12, 12),)


def around(norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A layer between two convolutions."""
    return lambda: nn.Sequential(conv(3, 16), norm(), nn.ReLU(), conv(16, 4))


def normalised(conv_class: type[nn.Module], norm: Callable[[], nn.Module], up: bool) -> Callable[[], nn.Module]:
    """Convolutions of one, two or three dimensions, or their transposes."""

    def build() -> nn.Module:
        return nn.Sequential(conv_class(3, 16, 3, padding=1), norm(), nn.ReLU(), conv_class(16, 4, 2, stride=2))

    return build


class UNet(nn.Module):
    """Two levels with transposed convolutions and concatenated skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(3, 16), conv(16, 24), conv(24, 32)
        self.up2, self.merge2 = nn.ConvTranspose2d(32, 24, 2, stride=2), conv(48, 24)
        self.up1, self.merge1 = nn.ConvTranspose2d(24, 16, 2, stride=2), conv(32, 16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x).relu()
        second = self.down2(F.max_pool2d(first, 2)).relu()
        x = self.bottom(F.max_pool2d(second, 2)).relu()
        x = self.merge2(torch.cat([self.up2(x), second], 1)).relu()
        x = self.merge1(torch.cat([self.up1(x), first], 1)).relu()
        return self.out(x)


class Pyramid(nn.Module):
    """A detector's shape: three levels, lateral 1×1 convolutions, top-down sums, heads shared by all levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 16, stride=2), conv(16, 24, stride=2), conv(24, 32, stride=2)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, 16, 1) for c in (16, 24, 32)])
        self.tower, self.norm = conv(16, 16), nn.GroupNorm(4, 16)
        self.classes, self.boxes = conv(16, 6), conv(16, 4)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        levels: list[Tensor] = []
        for stage in self.stages:
            x = stage(x).relu()
            levels.append(x)
        merged = self.lateral[2](levels[2])
        outputs = []
        for i in (2, 1, 0):
            if i < 2:
                merged = self.lateral[i](levels[i]) + F.interpolate(merged, size=levels[i].shape[-2:])
            tower = self.norm(self.tower(merged)).relu()
            outputs.append({"classes": self.classes(tower), "boxes": self.boxes(tower).exp()})
        return outputs


class SuperResolution(nn.Module):
    """PixelShuffle inside (a group of r² channels) and at the end (fixed)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.up = conv(3, 16), conv(16, 16), conv(16, 64)
        self.after, self.last, self.shuffle = conv(16, 16), conv(16, 12), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.body(x.relu())
        x = self.after(self.shuffle(self.up(x))).relu()
        return self.shuffle(self.last(x))


class Attention(nn.Module):
    """`nn.MultiheadAttention` between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(6, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(x.mean(1))


class Encoder(nn.Module):
    """`nn.TransformerEncoder` as users write it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embed, self.encoder = nn.Linear(6, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.embed(x)).mean(1))


class Qkv(nn.Module):
    """Self-attention with one projection for query, key and value, written with a reshape and literal heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.project = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.heads, self.out = 4, nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, positions, _ = x.shape
        qkv = self.qkv(x).reshape(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        scores = (query @ key.transpose(-2, -1) / 2.8).softmax(-1)
        x = x + self.project((scores @ value).transpose(1, 2).reshape(batch, positions, -1))
        return self.out(x.mean(1))


class Positions(nn.Module):
    """A table of biases for pairs of positions that is read by a method, never by a call."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.shape = nn.Parameter(torch.randn(49, 4)), (7, 7, 4)

    def bias(self) -> Tensor:
        return self.table.view(self.shape).permute(2, 0, 1)


class TalkingHeads(nn.Module):
    """Attention whose heads are mixed, whose code takes the input's width for the heads', with a bias for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.project = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.heads, self.mix, self.positions, self.out = 4, nn.Linear(4, 4), Positions(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, positions, width = x.shape
        qkv = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-2, -1) + self.positions.bias()
        scores = self.mix(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.out(self.project((scores @ qkv[2]).transpose(1, 2).reshape(batch, positions, width)).mean(1))


class Einsum(nn.Module):
    """Attention by einsum, with the sizes of heads kept as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 8
        self.query, self.key, self.value = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(6, 32)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).view(x.shape[0], x.shape[1], self.heads, self.head_dim)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key).softmax(-1)
        x = torch.einsum("bhqk,bkhd->bqhd", scores, value).flatten(2)
        return self.out(x.mean(1))


class Split(nn.Module):
    """A projection whose parts have sizes kept as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.sizes = conv(3, 48), [16, 32]
        self.left, self.right = conv(16, 8), conv(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.first(x), self.sizes, dim=1)
        return self.left(left) + self.right(right)


class WeightStandardised(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def standardised_by_batch_norm() -> nn.Module:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
            return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)

    return nn.Sequential(conv(3, 16), Standardised(16, 24, 3, padding=1), nn.ReLU(), conv(24, 4))


def shuffled(net: nn.Module, x: Tensor) -> Tensor:
    x = net.a(x)
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    return net.out(net.grouped(x).relu())


def looped(net: nn.Module, x: Tensor) -> Tensor:
    x, steps = net.a(x), 0
    while float(x.abs().mean()) > 0 and steps < 3:
        x, steps = x + net.b(x).tanh(), steps + 1
    return net.out(x)


def old_weight_norm() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(conv(3, 16)), nn.ReLU(), nn.utils.weight_norm(conv(16, 4)))


def weight_norm() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(conv(3, 16)), nn.ReLU(), norm(conv(16, 4)))


def tied_autoencoder(net: nn.Module, x: Tensor) -> Tensor:
    hidden = net.b(net.a(x).relu()).relu()
    return F.linear(F.linear(hidden, net.b.weight.t()).relu(), net.a.weight.t())


PATTERNS: dict[str, Pattern] = {
    "unet": Pattern(UNet, ((1, 3, 16, 16),), ("down1", "down2", "bottom", "up2", "up1", "merge2", "merge1")),
    "pyramid": Pattern(Pyramid, ((1, 3, 32, 32),), ("stages.0", "stages.1", "stages.2", "lateral.0", "tower")),
    "super resolution": Pattern(SuperResolution, ((1, 3, 8, 8),), ("first", "up", "after")),
    "multihead attention": Pattern(Attention, ((2, 7, 6),), ("embed",)),
    "transformer encoder": Pattern(
        Encoder, ((2, 7, 6),), ("embed", "encoder.layers.0.linear1")
    ),
    "qkv": Pattern(Qkv, ((2, 7, 6),), ("embed", "qkv")),
    "talking heads": Pattern(TalkingHeads, ((2, 7, 6),), ("embed",)),
    "einsum": Pattern(Einsum, ((2, 7, 6),), ("query",)),
    "split with sizes": Pattern(Split, IMAGE, ("first", "first.width2")),
    "chunk": Pattern(
        net(lambda n, x: n.out(torch.mul(*n.a(x).chunk(2, 1))), a=lambda: conv(3, 32), out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "slice": Pattern(
        net(lambda n, x: n.out(n.a(x)[:, ::2]), a=lambda: conv(3, 32), out=lambda: conv(16, 4)), IMAGE, ("a",)
    ),
    "channel shuffle": Pattern(
        net(shuffled, a=lambda: conv(3, 32), grouped=lambda: conv(32, 32, groups=2), out=lambda: conv(32, 4)),
        IMAGE, ("a", "grouped"),
    ),
    "weight tying": Pattern(
        net(tied_autoencoder, a=lambda: nn.Linear(6, 32, bias=False), b=lambda: nn.Linear(32, 16, bias=False)),
        ((2, 6),), ("a", "b"),
    ),
    "control flow": Pattern(
        net(looped, a=lambda: conv(3, 16), b=lambda: conv(16, 16), out=lambda: conv(16, 4)), IMAGE, ("a",)
    ),
    "functional convolution": Pattern(
        net(
            lambda n, x: n.out(F.conv2d(n.a(x), n.w, padding=1).relu()),
            a=lambda: conv(3, 16), w=lambda: nn.Parameter(torch.randn(24, 16, 3, 3)), out=lambda: conv(24, 4),
        ),
        IMAGE, ("a", "w"),
    ),
    "weight standardised": Pattern(
        lambda: nn.Sequential(conv(3, 16), WeightStandardised(16, 24, 3, padding=1), nn.ReLU(), conv(24, 4)),
        IMAGE, ("0", "1"),
    ),
    "standardised by batch norm": Pattern(standardised_by_batch_norm, IMAGE, ("0", "1")),
    "weight norm": Pattern(weight_norm, IMAGE, ("0.parametrizations.weight",)),
    "old weight norm": Pattern(old_weight_norm, IMAGE, ("0",)),
    "several inputs": Pattern(
        net(lambda n, x, y: n.out(n.a(x) + n.b(y)), a=lambda: conv(3, 16), b=lambda: conv(5, 16),
            out=lambda: conv(16, 4)),
        ((2, 3, 8, 8), (2, 5, 8, 8)), ("a",),
    ),
    "dictionaries": Pattern(
        net(lambda n, image, depth: {"logits": n.out(n.a(image) * n.b(depth)), "list": [n.c(n.a(image))]},
            a=lambda: conv(3, 16), b=lambda: conv(1, 16), c=lambda: conv(16, 2), out=lambda: conv(16, 4)),
        {"image": (2, 3, 8, 8), "depth": (2, 1, 8, 8)}, ("a",),
    ),
    "conv1d": Pattern(normalised(nn.Conv1d, lambda: nn.BatchNorm1d(16), False), ((2, 3, 12),), ("0",)),
    "conv3d": Pattern(normalised(nn.Conv3d, lambda: nn.BatchNorm3d(16), False), ((2, 3, 6, 6, 6),), ("0",)),
    "transposed 1d": Pattern(normalised(nn.ConvTranspose1d, lambda: nn.BatchNorm1d(16), True), ((2, 3, 8),), ("3",)),
    "transposed 2d": Pattern(normalised(nn.ConvTranspose2d, lambda: nn.BatchNorm2d(16), True), ((2, 3, 8, 8),), ("3",)),
    "transposed 3d": Pattern(
        normalised(nn.ConvTranspose3d, lambda: nn.BatchNorm3d(16), True), ((2, 3, 4, 4, 4),), ("3",)
    ),
    "depthwise with multiplier": Pattern(around(lambda: nn.Sequential(
        conv(16, 32, groups=16), nn.Conv2d(32, 16, 1))), IMAGE, ("0", "1.1")),
    "grouped": Pattern(around(lambda: conv(16, 16, groups=2)), IMAGE, ("0", "1")),
    "transposed and grouped": Pattern(
        around(lambda: nn.ConvTranspose2d(16, 16, 2, stride=2, groups=2)), IMAGE, ("0",)),
    "group norm": Pattern(around(lambda: nn.GroupNorm(4, 16)), IMAGE, ("0",)),
    "group norm of one": Pattern(around(lambda: nn.GroupNorm(1, 16)), IMAGE, ("0",)),
    "instance norm": Pattern(around(lambda: nn.InstanceNorm2d(16, affine=True)), IMAGE, ("0",)),
    "layer norm": Pattern(
        net(lambda n, x: n.out(n.norm(n.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), a=lambda: conv(3, 16),
            norm=lambda: nn.LayerNorm(16), out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "rms norm": Pattern(lambda: nn.Sequential(nn.Linear(6, 16), nn.RMSNorm(16), nn.Linear(16, 4)), ((2, 6),), ("0",)),
    "prelu": Pattern(around(lambda: nn.PReLU(16)), IMAGE, ("0",)),
    "concatenation into a sum": Pattern(
        net(lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 1) + n.c(x)), a=lambda: conv(3, 16), b=lambda: conv(3, 8),
            c=lambda: conv(3, 24), out=lambda: conv(24, 4)),
        IMAGE, ("a", "b"),
    ),
    "concatenation of positions": Pattern(
        net(lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 2)), a=lambda: conv(3, 16), b=lambda: conv(3, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "gate": Pattern(
        net(lambda n, x: n.out(n.a(x) * n.b(x).sigmoid()), a=lambda: conv(3, 16), b=lambda: conv(3, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "squeeze and excitation": Pattern(
        net(lambda n, x: n.out(n.a(x) * n.up(n.down(n.a(x).mean((2, 3))).relu()).sigmoid()[:, :, None, None]),
            a=lambda: conv(3, 16), down=lambda: nn.Linear(16, 8), up=lambda: nn.Linear(8, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "maximum": Pattern(
        net(lambda n, x: n.out(torch.max(n.a(x), n.b(x))), a=lambda: conv(3, 16), b=lambda: conv(3, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "difference": Pattern(
        net(lambda n, x: n.out(n.a(x) - n.b(x)), a=lambda: conv(3, 16), b=lambda: conv(3, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "reflected border": Pattern(
        around(lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")), IMAGE, ("0", "1")),
    "flatten by view": Pattern(
        net(lambda n, x: n.out(n.a(x).view(x.shape[0], -1)), a=lambda: conv(3, 16), out=lambda: nn.Linear(16 * 144, 4)),
        IMAGE, ("a",),
    ),
    "interpolation": Pattern(
        net(lambda n, x: n.out(F.interpolate(n.a(x), scale_factor=2, mode="bilinear")), a=lambda: conv(3, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "positions from a table": Pattern(
        net(lambda n, x: n.out(n.a(x) + n.table(torch.arange(x.shape[1]))), a=lambda: nn.Linear(6, 16),
            table=lambda: nn.Embedding(9, 16), out=lambda: nn.Linear(16, 4)),
        ((2, 7, 6),), ("a",),
    ),
    "class token": Pattern(
        net(lambda n, x: n.out(torch.cat([n.token.expand(x.shape[0], -1, -1), n.a(x)], 1)[:, 0]),
            a=lambda: nn.Linear(6, 16), token=lambda: nn.Parameter(torch.randn(1, 1, 16)),
            out=lambda: nn.Linear(16, 4)),
        ((2, 7, 6),), ("a",),
    ),
    "unfolding": Pattern(
        net(lambda n, x: n.out(F.fold(F.unfold(n.a(x), 3, padding=1), 12, 3, padding=1)), a=lambda: conv(3, 16),
            out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
    "rolled positions": Pattern(
        net(lambda n, x: n.out(torch.roll(n.a(x), (2, 1), (2, 3))), a=lambda: conv(3, 16), out=lambda: conv(16, 4)),
        IMAGE, ("a",),
    ),
}  # fmt: skip
