"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from the files that torchvision downloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ofa.train.data.augmentation import ShiftFlip
from ofa.train.data.datasets import in_memory, stratified
from ofa.train.data.splits import Splits


@dataclass(frozen=True)
class CIFAR:
    """50,000 + 10,000 pictures 32×32; `validation` of the first are held out of training.

    `folder` holds `cifar-10-batches-py` or `cifar-100-python`; `download` fetches them through torchvision; `classes`
    says which of the two. `size` is the edge in pixels that pictures are brought to; `shift` is the share of it that
    they move by at most in training; `flip` mirrors half of them. `balanced` draws every class equally often; `seed`
    decides what is held out.
    """

    folder: str
    classes: Literal[10, 100] = 10
    size: int = 32
    validation: float = 0.1
    shift: float = 0.125
    flip: bool = True
    balanced: bool = False
    download: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes not in (10, 100):
            raise ValueError(f"classes is 10 or 100, got {self.classes}")

    def load(self) -> Splits:
        """Read the files.

        Raises:
            ValueError: a file is missing or damaged.
        """
        train, test = self._part(train=True), self._part(train=False)
        images, labels = pictures(train)
        kept, held_out = stratified(labels.numpy(), self.validation, self.seed)
        parts = [(images[kept], labels[kept]), (images[held_out], labels[held_out]), pictures(test)]
        return in_memory(parts, tuple(train.classes), self.size, ShiftFlip(self.shift, self.flip), self.balanced)

    def _part(self, train: bool) -> Any:
        from torchvision import datasets

        kind = datasets.CIFAR10 if self.classes == 10 else datasets.CIFAR100
        try:
            return kind(self.folder, train=train, download=self.download)
        except (RuntimeError, OSError) as error:
            hint = "data.download=true fetches it" if not self.download else "it cannot be downloaded"
            raise ValueError(f"CIFAR-{self.classes} is not whole in {self.folder}: {hint} ({error})") from None


def pictures(dataset: Any) -> tuple[Tensor, Tensor]:
    """uint8 (samples, 3, 32, 32) and labels of a torchvision CIFAR."""
    images = torch.from_numpy(np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2)))
    return images, torch.tensor(dataset.targets)
