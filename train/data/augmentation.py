"""Light augmentation of pictures in memory: a random shift, and a mirror where that means the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ShiftFlip:
    """Move each picture by up to `shift` of its edge, filling with zeros; mirror half of them if `flip`.

    >>> picture = torch.arange(4.0).view(1, 1, 2, 2)
    >>> ShiftFlip(shift=0.0)(picture, torch.Generator()).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]

    Raises:
        ValueError: the shift is no fraction.
    """

    shift: float = 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise ValueError(f"shift is a fraction of the edge in [0, 1), got {self.shift}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment `images`, (batch, channels, height, width), each in its own way."""
        batch, _, height, width = images.shape
        reach = round(self.shift * max(height, width))
        padded = F.pad(images, (reach, reach, reach, reach))
        offsets = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)
        rows = offsets[0] + torch.arange(height)  # (batch, height)
        columns = offsets[1] + torch.arange(width)  # (batch, width)
        if self.flip:
            mirrored = torch.rand(batch, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        picture = torch.arange(batch)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
        # A copy: one channel passes for contiguous with the strides of channels last. Torch then takes that format for
        # the whole network, in which its backward pass of some convolutions on a CPU writes where it must not.
        pictures = moved.permute(0, 3, 1, 2)  # (batch, channels, height, width)
        return pictures.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) as timm does them: pictures mixed with another's, labels
    in proportion. `mixup` and `cutmix` are the alphas of their Beta distributions, 0 for none.

    `share` is the probability that a batch is mixed at all, `switch` that it is by CutMix where both are given.

    >>> images, labels = Mixing(mixup=0.2)(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), classes=2)
    >>> images.shape, labels.sum(1).round(decimals=3).tolist()
    (torch.Size([4, 1, 8, 8]), [1.0, 1.0, 1.0, 1.0])

    Raises:
        ValueError: a negative alpha, none above 0, or a share that is no probability.
    """

    mixup: float = 0.2
    cutmix: float = 0.0
    share: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0 or not self.mixup + self.cutmix:
            raise ValueError(f"mixup and cutmix are at least 0, one of them above, got {self.mixup} and {self.cutmix}")
        if not 0 <= self.share <= 1 or not 0 <= self.switch <= 1:
            raise ValueError(f"share and switch are probabilities, got {self.share} and {self.switch}")

    def __call__(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Mixed images, and labels as probabilities (batch, classes); draws from numpy's global generator."""
        from ofa.train.timm_import import timm

        mix = timm.data.Mixup(self.mixup, self.cutmix, None, self.share, self.switch, "batch", True, 0.0, classes)
        spare = len(images) % 2  # timm pairs them off
        mixed, soft = mix(images[: len(images) - spare].clone(), labels[: len(images) - spare])
        if not spare:
            return mixed, soft
        return torch.cat([mixed, images[-1:]]), torch.cat([soft, F.one_hot(labels[-1:], classes).to(soft)])
