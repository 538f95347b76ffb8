"""Pictures in files: own ones in folders or by a table, and any dataset that timm reads by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from ofa.train.collection import PARTS, Collection, Overview, Rules, overview, read
from ofa.train.data.datasets import Labels, stratified
from ofa.train.data.preprocessing import Preprocessing
from ofa.train.data.shards import Shards
from ofa.train.data.splits import LoaderSplit, Splits

CROP, LARGEST, STEP = 0.875, 224, 32
"""timm's crop; sizes that follow the pictures are multiples of a step, up to the usual one."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLE = 64
"""Pictures of a data set of timm's that are opened to see how large they are."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How files become tensors: resizing and augmentation are timm's `create_transform`.

    `auto_augment` takes timm's words (`rand-m9-mstd0.5`, …); `erase` is the share of pictures that lose a rectangle.
    `validation` of the training part are held out of it; `balanced` draws every class equally often. `size`, `crop`,
    `mean`, `std` and `interpolation` are, where they are null, those of the weights that training starts from
    (`suited`); without such weights, `size` follows the pictures, and the others are ImageNet's.

    Pictures are (3, size, size): `size` is the edge that they are brought to, `crop` the share of the shorter edge that
    is seen where nothing is augmented; `workers` processes read them. Crops in training have areas between the shares
    in `scale`; `flip` is the probability of a mirror image; `seed` decides what is held out.

    >>> from ofa.train.data import ImageFolder
    >>> suited = ImageFolder(folder="pictures").suited("vit_tiny_patch16_224")
    >>> suited.mean, suited.size, suited.crop
    ((0.5, 0.5, 0.5), 224, 0.9)
    """

    size: int | None = None
    crop: float | None = None
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
    _reason: str = field(default="as data.size says", repr=False)

    def suited(self, backbone: str) -> Self:
        """What is null as timm's pretrained weights of `backbone` want it; unchanged where timm has none."""
        from ofa.train.timm_import import timm

        known = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
        if known is None:
            return self
        wanted = timm.data.resolve_data_config({}, pretrained_cfg=known.to_dict())
        wanted |= {"size": wanted["input_size"][-1], "crop": wanted["crop_pct"]}
        null = [n for n in ("size", "crop", "mean", "std", "interpolation") if getattr(self, n) is None]
        reason = f"as the weights of {backbone} want it" if "size" in null else self._reason
        return replace(self, **{name: wanted[name] for name in null}, _reason=reason)

    def following(self, edge: int) -> Self:
        """With a size; where it is null, that of pictures whose shorter edge has so many pixels, or a little less.

        >>> [Pictures().following(edge).size for edge in (20, 64, 100, 640)]
        [32, 64, 96, 224]
        """
        if self.size is not None:
            return self
        size = min(LARGEST, max(STEP, edge // STEP * STEP))
        return replace(self, size=size, _reason="as it follows the pictures; data.size=… for another")

    @property
    def preprocessing(self) -> Preprocessing:
        """What becomes of a picture that is not augmented.

        Raises:
            ValueError: the size is not known yet, or something is out of range.
        """
        if self.size is None:
            raise ValueError("size is the edge of a picture in pixels, got None; `following` gives one")
        mean, std = self.mean or IMAGENET[0], self.std or IMAGENET[1]
        return Preprocessing(
            self.size, mean, std, CROP if self.crop is None else self.crop, self.interpolation or "bicubic"
        )

    def words(self, edge: int) -> str:
        """What the network sees of pictures whose shorter edge has so many pixels."""
        wanted = self.preprocessing
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (wanted.mean, wanted.std))
        larger = f"; pictures of {edge} pixels are enlarged" if edge < wanted.size else ""
        return (
            f"sees {wanted.size} x {wanted.size} pixels, {self._reason}{larger}; the middle {wanted.crop:.3g} of the"
            f" shorter edge, {wanted.interpolation}, less {mean}, divided by {std}"
        )

    def transform(self, augment: bool) -> Any:
        """timm's transform of a PIL picture."""
        from ofa.train.timm_import import timm

        wanted = self.preprocessing
        return timm.data.create_transform(
            (3, wanted.size, wanted.size),
            is_training=augment,
            interpolation=wanted.interpolation,
            mean=wanted.mean,
            std=wanted.std,
            crop_pct=wanted.crop,
            scale=self.scale,
            hflip=self.flip,
            auto_augment=self.auto_augment,
            re_prob=self.erase,
        )

    def cut(self, augmented: Any, plain: Any, tested: Any, targets: Labels, classes: tuple[str, ...]) -> Splits:
        """Three splits of two views of the training files and one of the test files."""
        last = targets_of(tested)
        for part, labels in ("training", targets), ("test", last):
            outside = labels[(labels < 0) | (labels >= len(classes))]
            if len(outside):
                raise ValueError(f"{part} label {outside[0]}; 0 to {len(classes) - 1} are allowed")
        kept, held_out = stratified(targets, self.validation, self.seed)
        numbers = [np.bincount(labels, minlength=len(classes)) for labels in (targets[kept], targets[held_out], last)]
        counts = {name: tuple(int(n[i]) for n in numbers) for i, name in enumerate(classes)}
        views = (augmented, plain, kept), (plain, plain, held_out), (tested, tested, np.arange(len(tested)))
        return self.splits(views, targets[kept], classes, Overview(counts))

    def splits(
        self,
        views: Sequence[tuple[Any, Any, Iterable[int]]],
        trained: Labels,
        classes: tuple[str, ...],
        overview: Overview,
    ) -> Splits:
        """Three splits, each of an augmented view, a plain one and positions; `trained` are the first one's labels."""
        balance = torch.from_numpy(trained) if self.balanced else None
        train, validation, test = (
            LoaderSplit(augmented, plain, tuple(map(int, positions)), self.workers, None if i else balance)
            for i, (augmented, plain, positions) in enumerate(views)
        )
        return Splits(train, validation, test, classes, self.preprocessing, overview)


@dataclass(frozen=True)
class ImageFolder(Pictures):
    """Own pictures: in `folder`/<class>/, in `folder`/train/<class>/ and test/<class>/ (or val/), or as `table` says.

    What is not given as a part is cut by the content of each file: `validation` and `test` are shares of what is cut.
    A picture stays in its part when others are added, and copies of it never stand in two. A table is a CSV or Parquet
    file with the columns path (below the folder), label and, in all rows or none, split. All files are read once before
    anything is made with them: `broken` ones are left out or refused (skip, refuse), and so are `empty` classes.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for label, red in ("cats", 0), ("dogs", 128):
    ...         (Path(folder) / label).mkdir()
    ...         for i in range(40):
    ...             Image.new("RGB", (40, 50), (red, i, 0)).save(Path(folder) / label / f"{i}.png")
    ...     splits = ImageFolder(folder=folder).load()
    >>> splits.classes, splits.preprocessing.size, len(splits.train) + len(splits.validation) + len(splits.test)
    (('cats', 'dogs'), 32, 80)
    """

    folder: str
    table: str | None = None
    validation: float = field(default=0.15, kw_only=True)
    test: float = 0.15
    broken: Literal["skip", "refuse"] = "skip"
    empty: Literal["skip", "refuse"] = "refuse"

    @cached_property
    def rules(self) -> Rules:
        return Rules(self.validation, self.test, self.seed, self.broken, self.empty)

    def __post_init__(self) -> None:
        assert self.rules  # they are checked when they are made

    @cached_property
    def collection(self) -> Collection:
        """The pictures, looked at once.

        Raises:
            ValueError: the folder or the table is missing or has no pictures, there are fewer than two classes, or
                something is refused that could be skipped.
        """
        table = None if self.table is None else Path(self.table).expanduser()
        return Collection.of(Path(self.folder).expanduser(), table, self.rules)

    def contents(self) -> dict[str, str]:
        """What each part holds: how many pictures, and a digest of their names, classes and contents."""
        return self.collection.contents

    def load(self) -> Splits:
        """Check and cut the files, if that was not done yet.

        Raises:
            ValueError: as for `collection`.
        """
        pictures, classes = self.collection.pictures, self.collection.classes
        edge = int(np.median([picture.seen.edge for picture in pictures]))
        sized, places = self.following(edge), {name: number for number, name in enumerate(classes)}
        paths = tuple(picture.entry.path for picture in pictures)
        labels = np.array([places[picture.entry.label] for picture in pictures], dtype=np.int64)
        augmented, plain = (Files(paths, labels, sized.transform(augment)) for augment in (True, False))
        parts = [[i for i, picture in enumerate(pictures) if picture.part == name] for name in PARTS]
        views = [(plain if i else augmented, plain, positions) for i, positions in enumerate(parts)]
        told = overview(self.collection, sized.words(edge), sized.preprocessing.to_json())
        return sized.splits(views, labels[parts[0]], classes, told)


@dataclass(frozen=True, eq=False)
class Files(Dataset[tuple[Any, int]]):
    """Files with their labels; one that cannot be read any more is named."""

    paths: tuple[Path, ...]
    targets: Labels
    transform: Any

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            picture = read(self.paths[index])
        except Exception as error:  # every decoder has errors of its own
            raise ValueError(
                f"{self.paths[index]} could be read when the run began, and cannot now ({error}); mend it and go on, or"
                " begin anew without it"
            ) from None
        return self.transform(picture), int(self.targets[index])


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
        targets, edge = targets_of(plain), edge_of(plain)
        augmented, sized = copy(plain), self.following(edge)
        plain.transform = tested.transform = sized.transform(augment=False)
        augmented.transform = sized.transform(augment=True)
        splits = sized.cut(augmented, plain, tested, targets, tuple(map(str, range(self.num_classes))))
        assert splits.overview is not None
        return replace(splits, overview=replace(splits.overview, lines=(("network", sized.words(edge)),)))

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


def edge_of(dataset: Any) -> int:
    """The median shorter edge in pixels of a few pictures, from the whole of a data set without a transform."""
    positions = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(int)).tolist()
    return int(np.median([min(dataset[i][0].size) for i in positions]))


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
