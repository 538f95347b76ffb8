"""The three parts of a dataset, each giving batches that are a pure function of a seed and an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.util import get_temp_dir
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ofa.signals import follow, shielded
from ofa.train.collection import Overview
from ofa.train.data.augmentation import ShiftFlip
from ofa.train.data.preprocessing import Preprocessing
from ofa.train.randomness import mix, seeded

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
    def _batches(self, batches: Sequence[Tensor], seeds: Sequence[int] | None) -> Iterator[Batch]:
        """The pictures of each batch of indices in that order, augmented with its seed if there are any."""

    def steps(self, batch_size: int) -> int:
        """Number of batches of `shuffled`.

        Raises:
            ValueError: not even one batch.
        """
        if batch_size < 1 or len(self) < batch_size:
            raise ValueError(f"batch_size {batch_size} asked of {len(self)} pictures; 1 to {len(self)} are allowed")
        return len(self) // batch_size

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """The augmented batches of an epoch from number `start` on; the same ones for the same arguments.

        `part` = (rank, processes) is every `processes`-th picture of each batch: what one of several processes reads.
        """
        steps, (rank, processes) = self.steps(batch_size), part
        order = self._order(torch.Generator().manual_seed(mix(seed, epoch)))
        batches = order[: steps * batch_size].view(steps, batch_size)[start:, rank::processes]
        return self._batches(list(batches), [mix(seed, epoch, 1, k, rank) for k in range(start, steps)])

    def _order(self, generator: torch.Generator) -> Tensor:
        """Every picture once; where classes are balanced, every class equally often, rare ones several times."""
        targets = self.targets
        if targets is None:
            return torch.randperm(len(self), generator=generator)
        weights = 1 / torch.bincount(targets)[targets].double()
        return torch.multinomial(weights, len(self), replacement=True, generator=generator)

    @property
    def targets(self) -> Tensor | None:
        """The labels to balance the classes by, (samples,); None where every picture counts the same."""
        return None

    def ordered(self, batch_size: int, part: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every picture once, not augmented; the last batch may be short. `part` is every n-th batch."""
        return self._batches(torch.arange(len(self)).split(batch_size)[part[0] :: part[1]], None)

    def calibration(self, batch_size: int, batches: int, seed: int) -> list[Tensor]:
        """Images alone, not augmented, drawn once: what batch statistics are recalibrated from."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mix(seed)))
        return [images for images, _ in self._batches(order[: batch_size * batches].split(batch_size), None)]


@dataclass(frozen=True, eq=False)
class TensorSplit(Split):
    """Pictures in memory, uint8 (samples, channels, height, width), preprocessed batch by batch."""

    images: Tensor
    labels: Tensor
    preprocessing: Preprocessing
    augment: ShiftFlip | None = None
    balanced: bool = False

    @property
    def targets(self) -> Tensor | None:
        return self.labels if self.balanced else None

    def __len__(self) -> int:
        return len(self.labels)

    def _batches(self, batches: Sequence[Tensor], seeds: Sequence[int] | None) -> Iterator[Batch]:
        wanted = self.preprocessing
        for i, chosen in enumerate(batches):
            images = self.images[chosen].float() / 255
            if images.shape[-2:] != (wanted.size, wanted.size):
                images = F.interpolate(images, (wanted.size, wanted.size), mode="bilinear", antialias=True)
            if seeds is not None and self.augment is not None:
                images = self.augment(images, torch.Generator().manual_seed(seeds[i]))
            yield (images - _channelwise(wanted.mean)) / _channelwise(wanted.std), self.labels[chosen]


def _channelwise(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


@dataclass(frozen=True, eq=False)
class LoaderSplit(Split):
    """Pictures on disk, read by `workers` processes: two views of the same files, `augmented` and `plain`.

    `subset` holds the positions in the datasets that belong to this part. Both datasets give (image, label). `balance`
    holds the labels of the part's pictures, if its classes are to be balanced.
    """

    augmented: Dataset[Any]
    plain: Dataset[Any]
    subset: tuple[int, ...]
    workers: int = 0
    balance: Tensor | None = None

    @property
    def targets(self) -> Tensor | None:
        return self.balance

    def __len__(self) -> int:
        return len(self.subset)

    def _batches(self, batches: Sequence[Tensor], seeds: Sequence[int] | None) -> Iterator[Batch]:
        if not batches:
            return iter(())
        dataset = self.plain if seeds is None else self.augmented
        positions = [self.subset[i] for batch in batches for i in batch.tolist()]
        size = len(batches[0])
        pictures = SeededPictures(dataset, positions, [0] * len(batches) if seeds is None else seeds, size)
        # A generator of its own keeps the loader from drawing worker seeds from the global one.
        drawn = torch.Generator().manual_seed(0)
        loader = DataLoader(pictures, size, num_workers=self.workers, generator=drawn, worker_init_fn=begin)
        get_temp_dir()  # made before the workers it is theirs, too: their sockets lie there, and go with this process
        with shielded():
            return in_one_line(iter(loader))


def begin(worker: int) -> None:
    """What a loader's process does first."""
    follow()


def in_one_line(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; a mistake that a worker tells with its traceback is told by its last line, which names the file."""
    try:
        yield from batches
    except ValueError as error:
        lines = str(error).strip().splitlines() or [""]
        raise ValueError(lines[-1].partition("ValueError: ")[2] or lines[-1]) from None


@dataclass(frozen=True, eq=False)
class SeededPictures(Dataset[tuple[Tensor, int]]):
    """A dataset read in a given order; its augmentation depends on the batch's seed and the place in it, alone."""

    dataset: Dataset[Any]
    positions: Sequence[int]
    seeds: Sequence[int]
    batch_size: int

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = self.positions[index]
        with seeded(self.seeds[index // self.batch_size], index % self.batch_size):
            try:
                image, label = self.dataset[position]
            except OSError as error:  # of a reader that names no file
                raise ValueError(f"picture {position} of the data set cannot be read: {error}") from None
        return image, label


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset cut in three, and what a backbone must know about its pictures.

    >>> from ofa.train.data import Digits
    >>> splits = Digits().load()
    >>> images, labels = next(splits.train.shuffled(batch_size=4, seed=0, epoch=0))
    >>> images.shape, labels.shape, splits.num_classes
    (torch.Size([4, 1, 32, 32]), torch.Size([4]), 10)
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    overview: Overview | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_chans(self) -> int:
        return self.preprocessing.channels

    def check(self) -> Splits:
        """The splits themselves, if a label of every class stands where it may.

        Raises:
            ValueError: a label is below 0 or above the number of classes.
        """
        for name, split in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            if isinstance(split, TensorSplit) and len(split.labels):
                low, high = int(split.labels.min()), int(split.labels.max())
                if low < 0 or high >= self.num_classes:
                    wrong = low if low < 0 else high
                    raise ValueError(f"{name} split: label {wrong}; 0 to {self.num_classes - 1} are allowed")
        return self

    @property
    def example(self) -> Tensor:
        """A picture of the right shape, (1, channels, height, width), to trace a network with."""
        return torch.zeros(1, self.in_chans, self.preprocessing.size, self.preprocessing.size)


def contents(data: DataSet) -> dict[str, str]:
    """What the pictures of a data set are, by part; empty where it has no method `contents` that tells.

    Where these words change, what was made with the pictures before is not taken for what would be made now.

    >>> from ofa.train.data import Digits
    >>> contents(Digits())
    {}
    """
    told: Callable[[], Mapping[str, str]] = getattr(data, "contents", dict)
    return dict(told())


class DataSet(Protocol):
    """Where labelled pictures come from: a class with this one method, named in `conf/data/NAME.yaml`.

    Its fields are its settings. Pictures in memory are cut and normalised by `ofa.train.data.in_memory`.
    docs/extending.md shows one of one's own.

    >>> from ofa.train.data import Digits
    >>> data: DataSet = Digits()
    >>> data.load().num_classes
    10
    """

    def load(self) -> Splits:
        """The three parts: training, validation for every choice, and test for the last word.

        Raises:
            ValueError: something is missing or damaged, and what mends it.
        """
