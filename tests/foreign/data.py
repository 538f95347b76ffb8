"""A data set: stripes in four directions."""

from dataclasses import dataclass

import torch

from ofa.train.data import Splits, in_memory


@dataclass(frozen=True)
class Stripes:
    pictures: int = 512
    seed: int = 0

    def load(self) -> Splits:
        generator, place = torch.Generator().manual_seed(self.seed), torch.arange(16) * 1.5
        labels = torch.arange(self.pictures) % 4
        across, down = (f(labels * torch.pi / 4)[:, None, None] for f in (torch.cos, torch.sin))
        waves = torch.sin(across * place + down * place[:, None])[:, None]  # (pictures, 1, 16, 16)
        noise = torch.randn(waves.shape, generator=generator)
        images = (128 + 40 * waves + 20 * noise).clamp(0, 255).byte()
        sizes = [self.pictures // 2, self.pictures // 4, self.pictures // 4]  # training, validation, test
        parts = list(zip(images.split(sizes), labels.split(sizes), strict=True))
        return in_memory(parts, ("upright", "rising", "level", "falling"), size=16)
