"""Light augmentation of pictures in memory: a random shift, and a mirror where that means the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ShiftFlip:
    """Move each picture by up to `shift` of its edge, filling with zeros; mirror half of them if `flip`."""

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
        return moved.permute(0, 3, 1, 2).contiguous()  # (batch, channels, height, width)
