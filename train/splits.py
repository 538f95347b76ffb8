"""The three parts of a dataset, each giving batches that are a pure function of a seed and an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.augmentation import ShiftFlip
from train.randomness import mix, seeded

Batch = tuple[Tensor, Tensor]
"""Images, (batch, channels, height, width) and normalised; labels, (batch,)."""


class Split(ABC):
    """One part of a dataset.

    `shuffled` is for training: augmented, without a last short batch (its few pictures would weigh more than
    the others, and one alone has no batch statistics). `ordered` is for evaluation: every picture, as it is.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _batches(self, indices: Tensor, batch_size: int, seed: int | None) -> Iterator[Batch]:
        """The pictures of `indices` in that order, augmented with `seed` unless it is None."""

    def steps(self, batch_size: int) -> int:
        """Number of batches of `shuffled`.

        Raises:
            ValueError: not even one batch.
        """
        if batch_size < 1 or len(self) < batch_size:
            raise ValueError(f"batch_size {batch_size} asked of {len(self)} pictures; 1 to {len(self)} are allowed")
        return len(self) // batch_size

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The augmented batches of an epoch; the same ones whenever asked with the same arguments."""
        kept = self.steps(batch_size) * batch_size
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mix(seed, epoch)))
        return self._batches(order[:kept], batch_size, mix(seed, epoch, 1))

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """Every picture once, not augmented; the last batch may be short."""
        return self._batches(torch.arange(len(self)), batch_size, None)

    def calibration(self, batch_size: int, batches: int, seed: int) -> list[Tensor]:
        """Images alone, not augmented, drawn once: what batch statistics are recalibrated from."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mix(seed)))
        return [images for images, _ in self._batches(order[: batch_size * batches], batch_size, None)]


@dataclass(frozen=True, eq=False)
class TensorSplit(Split):
    """Pictures in memory, uint8 (samples, channels, height, width), resized to `size` batch by batch."""

    images: Tensor
    labels: Tensor
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: ShiftFlip | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def _batches(self, indices: Tensor, batch_size: int, seed: int | None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed or 0)
        for chosen in torch.split(indices, batch_size):
            images = self.images[chosen].float() / 255
            if images.shape[-2:] != (self.size, self.size):
                images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
            if seed is not None and self.augment is not None:
                images = self.augment(images, generator)
            yield (images - _channelwise(self.mean)) / _channelwise(self.std), self.labels[chosen]


def _channelwise(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


@dataclass(frozen=True, eq=False)
class LoaderSplit(Split):
    """Pictures on disk, read by `workers` processes: two views of the same files, `augmented` and `plain`.

    `subset` holds the positions in the datasets that belong to this part. Both datasets give (image, label).
    """

    augmented: Dataset[Any]
    plain: Dataset[Any]
    subset: tuple[int, ...]
    workers: int = 0

    def __len__(self) -> int:
        return len(self.subset)

    def _batches(self, indices: Tensor, batch_size: int, seed: int | None) -> Iterator[Batch]:
        positions = [self.subset[i] for i in indices.tolist()]
        dataset = self.plain if seed is None else self.augmented
        pictures = SeededPictures(dataset, positions, mix(seed or 0))
        # A generator of its own keeps the loader from drawing worker seeds from the global one.
        loader = DataLoader(
            pictures, batch_size, num_workers=self.workers, generator=torch.Generator().manual_seed(seed or 0)
        )
        return iter(loader)


@dataclass(frozen=True, eq=False)
class SeededPictures(Dataset[tuple[Tensor, int]]):
    """A dataset read in a given order; its augmentation depends on seed and position, not on the worker."""

    dataset: Dataset[Any]
    positions: Sequence[int]
    seed: int

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with seeded(self.seed, index):
            image, label = self.dataset[self.positions[index]]
        return image, label


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset cut in three, and what a backbone must know about its pictures."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    in_chans: int
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def example(self) -> Tensor:
        """A picture of the right shape, (1, channels, height, width), to trace a network with."""
        return torch.zeros(1, self.in_chans, self.input_size, self.input_size)
