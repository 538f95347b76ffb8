"""Pictures in files: folders (ImageNet's layout), and any dataset that timm reads by name."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ofa.train.data.datasets import Labels, stratified
from ofa.train.data.preprocessing import Preprocessing
from ofa.train.data.shards import Shards
from ofa.train.data.splits import LoaderSplit, Splits

CROP = 0.875  # of the shorter edge, in the middle: timm's
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How files become tensors: resizing and augmentation are timm's `create_transform`.

    `auto_augment` takes timm's words (`rand-m9-mstd0.5`, …); `erase` is the share of pictures that lose a rectangle.
    `validation` of the training part are held out of it; `balanced` draws every class equally often. `mean`, `std` and
    `interpolation` are ImageNet's where they are null, or those of the weights that training starts from (`suited`).

    Pictures are (3, size, size): `size` is the edge that they are brought to; `workers` processes read them. Crops in
    training have areas between the shares in `scale`; `flip` is the probability of a mirror image; `seed` decides what
    is held out.

    >>> from ofa.train.data import ImageFolder
    >>> ImageFolder(folder="pictures").suited("vit_tiny_patch16_224").statistics
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """

    size: int = 224
    validation: float = 0.1
    workers: int = 2
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    scale: tuple[float, float] = (0.35, 1.0)
    flip: float = 0.5
    auto_augment: str | None = None
    erase: float = 0.0
    balanced: bool = False
    seed: int = 0

    def suited(self, backbone: str) -> Self:
        """What is null as timm's pretrained weights of `backbone` want it; unchanged where timm has none."""
        from ofa.train.timm_import import timm

        known = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
        if known is None:
            return self
        wanted = timm.data.resolve_data_config({}, pretrained_cfg=known.to_dict())
        null = [name for name in ("mean", "std", "interpolation") if getattr(self, name) is None]
        return replace(self, **{name: wanted[name] for name in null})

    @property
    def preprocessing(self) -> Preprocessing:
        """What becomes of a picture that is not augmented; the crop is timm's."""
        return Preprocessing(self.size, *self.statistics, CROP, self.interpolation or "bicubic")

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that pictures are normalised with."""
        return self.mean or IMAGENET[0], self.std or IMAGENET[1]

    def transform(self, augment: bool) -> Any:
        """timm's transform of a PIL picture."""
        from ofa.train.timm_import import timm

        return timm.data.create_transform(
            (3, self.size, self.size),
            is_training=augment,
            interpolation=self.preprocessing.interpolation,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            crop_pct=CROP,
            scale=self.scale,
            hflip=self.flip,
            auto_augment=self.auto_augment,
            re_prob=self.erase,
        )

    def cut(self, augmented: Any, plain: Any, tested: Any, targets: Labels, classes: tuple[str, ...]) -> Splits:
        """Three splits of two views of the training files and one of the test files."""
        for part, labels in ("training", targets), ("test", targets_of(tested)):
            outside = labels[(labels < 0) | (labels >= len(classes))]
            if len(outside):
                raise ValueError(f"{part} label {outside[0]}; 0 to {len(classes) - 1} are allowed")
        kept, held_out = stratified(targets, self.validation, self.seed)
        balance = torch.from_numpy(targets[kept]) if self.balanced else None
        train = LoaderSplit(augmented, plain, tuple(kept.tolist()), self.workers, balance)
        validation = LoaderSplit(plain, plain, tuple(held_out.tolist()), self.workers)
        test = LoaderSplit(tested, tested, tuple(range(len(tested))), self.workers)
        return Splits(train, validation, test, classes, self.preprocessing)


@dataclass(frozen=True)
class ImageFolder(Pictures):
    """Pictures in `folder`/train/<class>/ and `folder`/test/<class>/ (or val/, as ImageNet is laid out).

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part, number in ("train", 10), ("test", 2):
    ...         for label in ("cats", "dogs"):
    ...             place = Path(folder) / part / label
    ...             place.mkdir(parents=True)
    ...             for i in range(number):
    ...                 Image.new("RGB", (32, 32)).save(place / f"{i}.png")
    ...     splits = ImageFolder(folder=folder, size=32).load()
    >>> splits.classes, len(splits.train), len(splits.validation), len(splits.test)
    (('cats', 'dogs'), 18, 2, 4)
    """

    folder: str

    def load(self) -> Splits:
        """List the files.

        Raises:
            ValueError: a folder is missing or empty, or train/ and test/ hold other classes.
        """
        trained, tested = self._listing("train"), self._listing("test", "val")
        if trained.classes != tested.classes:
            differ = sorted(set(trained.classes) ^ set(tested.classes))
            raise ValueError(f"{self.folder}: train/ and {Path(tested.root).name}/ differ in the classes {differ[:5]}")
        augmented = self._listing("train", augment=True)
        return self.cut(augmented, trained, tested, np.array(trained.targets), tuple(trained.classes))

    def _listing(self, *names: str, augment: bool = False) -> Any:
        """The torchvision dataset of the first of the sub-folders `names` that exists."""
        from torchvision import datasets

        folders = [Path(self.folder) / name for name in names]
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found is None:
            raise ValueError(
                f"no folder {' or '.join(map(str, folders))}; pictures go in <folder>/train/<class>/ and"
                " <folder>/test/<class>/"
            )
        try:
            return datasets.ImageFolder(found, self.transform(augment))
        except FileNotFoundError as error:
            raise ValueError(f"{found}: {error}") from None


@dataclass(frozen=True)
class TimmDataset(Pictures):
    """A dataset by timm's name: `hfds/owner/name`, `wds/name` (tar shards), `torch/cifar10`, or "" for a folder.

    `name` is timm's, `num_classes` how many there are. `train_split` and `test_split` are the parts that are read, and
    `download` fetches what is not here. `folder` is timm's root or cache; `image_key` and `label_key` say where a
    record has its picture and label, if not where timm expects them. Streams without random access (`hfids/…`,
    `tfds/…`) are refused.
    """

    name: str
    num_classes: int
    folder: str | None = None
    train_split: str = "train"
    test_split: str = "validation"
    image_key: str | None = None
    label_key: str | None = None
    download: bool = False

    def load(self) -> Splits:
        """Open the dataset.

        Raises:
            ValueError: there is no such dataset or split, or it can only be streamed.
        """
        plain, tested = self._part(self.train_split), self._part(self.test_split)
        augmented = copy(plain)
        plain.transform = tested.transform = self.transform(augment=False)
        augmented.transform = self.transform(augment=True)
        return self.cut(augmented, plain, tested, targets_of(plain), tuple(map(str, range(self.num_classes))))

    def _part(self, split: str) -> Any:
        if self.name.startswith("wds/"):
            return Shards.open(self.folder, split, self.label_key)
        from ofa.train.timm_import import timm

        keys = {"input_key": self.image_key, "target_key": self.label_key}
        try:
            dataset = timm.data.create_dataset(self.name, self.folder, split, download=self.download, **keys)
        except Exception as error:  # every reader has errors of its own
            raise ValueError(f"timm cannot open {self.name!r}, split {split!r}: {str(error)[:300]}") from None
        if not hasattr(dataset, "__getitem__"):
            raise ValueError(f"{self.name!r} can only be streamed; a dataset with random access is needed")
        return dataset


def targets_of(dataset: Any) -> Labels:
    """All labels, from where the dataset keeps them; read one by one where it keeps them nowhere."""
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(dataset, "targets"):
        return np.array(dataset.targets, dtype=np.int64)
    if hasattr(reader, "samples"):
        return np.array([label for _, label in reader.samples], dtype=np.int64)
    if hasattr(reader, "dataset") and hasattr(reader, "label_key"):  # Hugging Face: a column, no picture is opened
        return np.array(reader.dataset[reader.label_key], dtype=np.int64)
    return np.array([int(torch.as_tensor(dataset[i][1])) for i in range(len(dataset))], dtype=np.int64)
