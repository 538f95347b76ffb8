"""Datasets: scikit-learn's handwritten digits, Fashion-MNIST (Xiao et al., 2017), folders of pictures."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.train.data.augmentation import ShiftFlip
from ofa.train.data.preprocessing import Preprocessing
from ofa.train.data.splits import Splits, TensorSplit

Labels = npt.NDArray[np.int64]


def stratified(labels: Labels, share: float, seed: int) -> tuple[Labels, Labels]:
    """Cut positions in two, (1 - share, share), with every class in the same proportion.

    >>> kept, held_out = stratified(np.array([0, 0, 0, 0, 1, 1, 1, 1]), share=0.25, seed=0)
    >>> len(kept), sorted((held_out > 3).tolist())  # one of each class
    (6, [False, True])

    Raises:
        ValueError: a class has too few pictures to be in both parts.
    """
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(labels))
    try:
        kept, held_out = train_test_split(positions, test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise ValueError(f"{len(labels)} pictures cannot be split {1 - share:.0%} / {share:.0%}: {error}") from None
    return np.sort(kept), np.sort(held_out)


@dataclass(frozen=True)
class Digits:
    """1797 handwritten digits, 8×8, cut about 60/20/20 (scikit-learn, UCI).

    Pictures are (1, size, size): `size` is the edge that they are brought to. In training each is moved by up to the
    share `shift` of its edge. `seed` decides how they are cut.

    >>> splits = Digits(size=16).load()
    >>> [len(split) for split in (splits.train, splits.validation, splits.test)], splits.example.shape
    ([1077, 360, 360], torch.Size([1, 1, 16, 16]))

    Raises:
        ValueError: (when loaded) a size below 1.
    """

    size: int = 32
    shift: float = 0.1
    seed: int = 0

    def load(self) -> Splits:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)  # values 0 to 16
        images = torch.from_numpy(np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8))
        labels = digits.astype(np.int64)
        rest, test = stratified(labels, 0.2, self.seed)
        train, validation = stratified(labels[rest], 0.25, self.seed)
        parts = rest[train], rest[validation], test
        names = tuple(str(digit) for digit in range(10))
        return in_memory(
            [(images[p], torch.from_numpy(labels[p])) for p in parts], names, self.size, ShiftFlip(self.shift)
        )


@dataclass(frozen=True)
class FashionMNIST:
    """60,000 + 10,000 articles of clothing, 28×28 grey; `validation` of the first are held out of training.

    `folder` holds the idx files, gzipped (Debian's dataset-fashion-mnist) or not (torchvision's raw folder). `size` is
    the edge in pixels that pictures are brought to; `shift` is the share of it that they move by at most in training;
    `flip` mirrors half of them. `balanced` draws every class equally often; `seed` decides what is held out.

    >>> FashionMNIST(folder="nowhere").load()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: train-images-idx3-ubyte[.gz] is not in nowhere; ...
    """

    folder: str = "/usr/share/datasets/fashion-mnist"
    size: int = 32
    validation: float = 0.1
    shift: float = 0.1
    flip: bool = True
    balanced: bool = False
    seed: int = 0

    def load(self) -> Splits:
        """Read the files.

        Raises:
            ValueError: a file is missing or damaged.
        """
        images, labels = self._part("train")
        train, validation = stratified(labels.numpy(), self.validation, self.seed)
        parts = [(images[train], labels[train]), (images[validation], labels[validation]), self._part("t10k")]
        names = (
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )
        return in_memory(parts, names, self.size, ShiftFlip(self.shift, self.flip), self.balanced)

    def _part(self, prefix: str) -> tuple[Tensor, Tensor]:
        images = read_idx(self._find(f"{prefix}-images-idx3-ubyte"))[:, None]
        labels = read_idx(self._find(f"{prefix}-labels-idx1-ubyte")).long()
        if len(images) != len(labels):
            raise ValueError(f"{self.folder}: {len(images)} {prefix} pictures but {len(labels)} labels")
        return images, labels

    def _find(self, name: str) -> Path:
        for folder in (Path(self.folder), Path(self.folder) / "FashionMNIST" / "raw"):
            for path in (folder / f"{name}.gz", folder / name):
                if path.is_file():
                    return path
        raise ValueError(
            f"{name}[.gz] is not in {self.folder}; `apt-get install dataset-fashion-mnist`"
            " brings it, or torchvision.datasets.FashionMNIST(folder, download=True)"
        )


def read_idx(path: Path) -> Tensor:
    """An idx file of bytes, gzipped or not, as a uint8 tensor (byte 3 is the number of dimensions).

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        dimensions = content[3]
        sizes = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
        return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes).copy())
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is not a whole idx file: {error}") from None


def in_memory(
    parts: Sequence[tuple[Tensor, Tensor]],
    classes: tuple[str, ...],
    size: int,
    augment: ShiftFlip | None = None,
    balanced: bool = False,
) -> Splits:
    """Three parts of pictures, normalised with the training part's mean and standard deviation of each channel.

    `parts` are training, validation and test: uint8 images (samples, channels, height, width), and labels (samples,).

    >>> parts = [(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.arange(n) % 2) for n in (6, 2, 2)]
    >>> splits = in_memory(parts, ("even", "odd"), size=8)
    >>> len(splits.train), splits.num_classes, splits.preprocessing.size
    (6, 2, 8)

    Raises:
        ValueError: `size`, to which pictures are brought, is below 1, or a label is of no class.
    """
    channels = [parts[0][0][:, c].double() / 255 for c in range(parts[0][0].shape[1])]
    mean = tuple(round(float(pixels.mean()), 4) for pixels in channels)
    std = tuple(round(float(pixels.std()), 4) for pixels in channels)
    preprocessing = Preprocessing(size, mean, std)
    train, validation, test = (
        TensorSplit(images, labels, preprocessing, augment if i == 0 else None, balanced and i == 0)
        for i, (images, labels) in enumerate(parts)
    )
    return Splits(train, validation, test, classes, preprocessing).check()
