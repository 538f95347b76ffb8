"""Datasets: what every split promises, and what each reader refuses."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import write_shard, write_shards
from torch import Tensor
from torchvision import datasets

from ofa.train.data import Digits, FashionMNIST, ImageFolder, Mixing, Preprocessing, Splits
from ofa.train.data.augmentation import ShiftFlip
from ofa.train.data.cifar import CIFAR
from ofa.train.data.datasets import read_idx
from ofa.train.data.pictures import TimmDataset
from ofa.train.data.splits import Split, TensorSplit
from ofa.train.randomness import seeded


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion_mnist(folder: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    for prefix, count in ("train", 100), ("t10k", 20):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{ending}", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{ending}", np.arange(count) % 10)


def write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in ("train", 12), ("val", 3):
        for name in "cat", "dog":
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


def digits(folder: Path) -> Splits:
    return Digits().load()


def fashion_mnist(folder: Path) -> Splits:
    write_fashion_mnist(folder, ".gz")
    return FashionMNIST(str(folder)).load()


def image_folder(folder: Path) -> Splits:
    write_pictures(folder)
    return ImageFolder(str(folder), size=16, validation=0.25, workers=0).load()


def shards(folder: Path) -> Splits:
    write_shards(folder)
    return TimmDataset("wds/digits", 10, str(folder), size=16, validation=0.25, workers=0).load()


@pytest.fixture(params=[digits, fashion_mnist, image_folder, shards], ids=lambda make: make.__name__)
def splits(request: pytest.FixtureRequest, tmp_path: Path) -> Splits:
    make: Callable[[Path], Splits] = request.param
    return make(tmp_path)


def equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def parts(splits: Splits) -> tuple[Split, Split, Split]:
    return splits.train, splits.validation, splits.test


def test_pictures_have_the_announced_shape(splits: Splits) -> None:
    for split in parts(splits):
        images, labels = next(split.ordered(4))
        assert images.shape[1:] == splits.example.shape[1:]
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert labels.min() >= 0 and labels.max() < splits.num_classes


def test_ordered_gives_every_picture_once(splits: Splits) -> None:
    for split in parts(splits):
        sizes = [len(labels) for _, labels in split.ordered(5)]
        assert sum(sizes) == len(split)
        assert all(size == 5 for size in sizes[:-1])


def test_an_epoch_is_a_function_of_seed_and_epoch(splits: Splits) -> None:
    first = list(splits.train.shuffled(6, seed=1, epoch=2))
    torch.manual_seed(99)
    assert equal(first, list(splits.train.shuffled(6, seed=1, epoch=2)))
    for other in splits.train.shuffled(6, 1, 3), splits.train.shuffled(6, 2, 2):
        assert not equal(first, list(other))


def test_an_epoch_goes_on_in_its_middle(splits: Splits) -> None:
    whole = list(splits.train.shuffled(6, seed=1, epoch=2))
    assert equal(whole[2:], list(splits.train.shuffled(6, seed=1, epoch=2, start=2)))


def test_batches_leave_the_global_generators_alone(splits: Splits) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(splits.train.shuffled(6, seed=1, epoch=0))
    list(splits.test.ordered(6))
    assert torch.equal(torch.rand(3), expected)


def test_short_last_batches_are_left_out_of_training(splits: Splits) -> None:
    size = len(splits.train) // 2 - 1
    assert [len(labels) for _, labels in splits.train.shuffled(size, 0, 0)] == [size, size]
    assert splits.train.steps(size) == 2


def test_a_split_smaller_than_a_batch_is_refused(splits: Splits) -> None:
    with pytest.raises(ValueError, match=f"asked of {len(splits.train)} pictures"):
        splits.train.steps(len(splits.train) + 1)


def test_calibration_pictures_are_always_the_same(splits: Splits) -> None:
    first, second = (splits.train.calibration(4, 2, seed=0) for _ in range(2))
    assert [len(images) for images in first] == [4, 4]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_digits_are_cut_into_three_stratified_parts() -> None:
    splits = Digits().load()
    assert [len(split) for split in parts(splits)] == [1077, 360, 360]
    pixels = set[bytes]()
    for split in parts(splits):
        assert isinstance(split, TensorSplit)
        counts = torch.bincount(split.labels)
        assert counts.max() - counts.min() <= 0.06 * len(split)
        pixels |= {image.numpy().tobytes() for image in split.images}
    assert len(pixels) == 1797  # nothing is in two parts
    images = torch.cat([images for images, _ in splits.train.ordered(500)])
    assert abs(images.mean()) < 0.01 and 0.8 < images.std() < 1.1


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw"])
def test_fashion_mnist_reads_both_layouts(tmp_path: Path, place: str) -> None:
    write_fashion_mnist(tmp_path / place, "" if place else ".gz")
    splits = FashionMNIST(str(tmp_path)).load()
    assert [len(split) for split in parts(splits)] == [90, 10, 20]


def test_a_missing_fashion_mnist_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}.*apt-get install dataset-fashion-mnist"):
        FashionMNIST(str(tmp_path)).load()


DAMAGED = {"empty": b"", "no gzip": b"\x1f\x8b broken", "too short": gzip.compress(b"\0\0\x08\x03\0\0\0\x09")}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_idx_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.gz is not a whole idx file"):
        read_idx(path)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pictures in .*; pictures go in <folder>/<class>/"):
        ImageFolder(str(tmp_path)).load()
    write_pictures(tmp_path)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "cow")
    with pytest.raises(ValueError, match=r"no pictures of class cow in train, dog in test; data\.empty=skip"):
        ImageFolder(str(tmp_path)).load()


def test_workers_do_not_change_the_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    alone, helped = (ImageFolder(str(tmp_path), size=16, workers=n).load() for n in (0, 1))
    assert equal(list(alone.train.shuffled(6, 0, 0)), list(helped.train.shuffled(6, 0, 0)))


def test_shift_moves_and_flip_mirrors_each_picture() -> None:
    picture = torch.zeros(64, 1, 10, 10)
    picture[:, :, 4, 2] = 1
    moved = ShiftFlip(shift=0.2, flip=True)(picture, torch.Generator().manual_seed(0))
    assert moved.shape == picture.shape
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(64))
    columns = {int(image.flatten().argmax()) % 10 for image in moved}
    assert columns <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9} and min(columns) < 2 and max(columns) > 7
    assert torch.equal(ShiftFlip(shift=0)(picture, torch.Generator()), picture)


def write_cifar(folder: Path, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files as torchvision unpacks them, a few pictures each, whose checksums it is told."""
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    key = "labels" if classes == 10 else "fine_labels"
    generator = np.random.default_rng(0)
    base = folder / kind.base_folder
    base.mkdir(parents=True)

    def written(name: str, content: Any) -> str:
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    lists = {}
    for part in ("train_list", "test_list"):
        rows = []
        for name, _ in getattr(kind, part):
            pixels = generator.integers(0, 256, (4 * classes, 3072), dtype=np.uint8)
            rows.append([name, written(name, {"data": pixels, key: list(range(classes)) * 4})])
        lists[part] = rows
    meta = written(kind.meta["filename"], {kind.meta["key"]: [str(i) for i in range(classes)]})
    for part, rows in lists.items():
        monkeypatch.setattr(kind, part, rows)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: Literal[10, 100]) -> None:
    write_cifar(tmp_path, classes, monkeypatch)
    splits = CIFAR(str(tmp_path), classes, validation=0.25).load()
    whole = 4 * classes * (5 if classes == 10 else 1)
    assert [len(split) for split in parts(splits)] == [whole * 3 // 4, whole // 4, 4 * classes]
    assert (splits.num_classes, splits.in_chans, len(splits.preprocessing.mean)) == (classes, 3, 3)
    images, _ = next(splits.train.shuffled(8, 0, 0))
    assert images.shape == (8, 3, 32, 32)


def test_a_missing_cifar_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"CIFAR-10 is not whole in {tmp_path}: data.download=true fetches it"):
        CIFAR(str(tmp_path)).load()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm's reader leaves files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["", "torch/image_folder"])
def test_timm_reads_datasets_by_name(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path)
    given = TimmDataset(name, 2, str(tmp_path), test_split="val", size=16, validation=0.25, workers=0)
    splits, folder = given.load(), ImageFolder(str(tmp_path), size=16, validation=0.25, workers=0).load()
    assert [len(split) for split in parts(splits)] == [18, 6, 6]
    assert equal(list(splits.test.ordered(4)), list(folder.test.ordered(4)))
    with pytest.raises(ValueError, match=r"training label 1; 0 to 0 are allowed"):
        replace(given, num_classes=1).load()


def test_a_dataset_that_timm_cannot_open_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timm cannot open 'torch/no_such_set', split 'train'"):
        TimmDataset("torch/no_such_set", 2, str(tmp_path)).load()


def test_test_labels_out_of_range_are_refused_at_once(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_shard(tmp_path / "digits-test.tar", 0, 2, json=lambda _: '{"digit": -1}')
    with pytest.raises(ValueError, match=r"test label -1; 0 to 9 are allowed"):
        TimmDataset("wds/digits", 10, str(tmp_path)).load()


def test_balanced_classes_come_equally_often() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 180 + [1] * 20)
    images, preprocessing = torch.zeros(200, 1, 4, 4, dtype=torch.uint8), Preprocessing(4, (0.0,), (1.0,))
    split = TensorSplit(images, labels, preprocessing, balanced=True)
    drawn = torch.cat([y for epoch in range(10) for _, y in split.shuffled(50, 0, epoch)])
    assert 0.45 < float(drawn.float().mean()) < 0.55
    plain = torch.cat([y for _, y in replace(split, balanced=False).shuffled(50, 0, 0)])
    assert plain.sum() == 20
    again = torch.cat([y for epoch in range(10) for _, y in split.shuffled(50, 0, epoch)])
    assert torch.equal(drawn, again)


def test_parts_of_a_batch_are_the_batch() -> None:
    split = Digits(shift=0.0).load().train
    whole = next(iter(split.shuffled(8, 0, 0, start=2)))
    assert torch.equal(list(split.shuffled(8, 0, 0))[2][1], whole[1])
    shares = [next(iter(split.shuffled(8, 0, 0, 2, (rank, 2)))) for rank in (0, 1)]
    assert torch.equal(torch.stack([share[1] for share in shares], 1).flatten(), whole[1])


@pytest.mark.parametrize("wrong", [-1, 10])
def test_labels_out_of_range_are_refused(wrong: int) -> None:
    splits = Digits().load()
    assert isinstance(splits.validation, TensorSplit)
    splits.validation.labels[3] = wrong
    with pytest.raises(ValueError, match=rf"validation split: label {wrong}; 0 to 9 are allowed"):
        splits.check()


@pytest.mark.parametrize("mixing", [Mixing(0.4), Mixing(0.0, 1.0), Mixing(0.4, 1.0)], ids=str)
@pytest.mark.parametrize("batch", [1, 6, 7])
def test_mixed_labels_are_probabilities_and_repeatable(mixing: Mixing, batch: int) -> None:
    images, labels = torch.rand(batch, 1, 8, 8), torch.arange(batch) % 5
    with seeded(1):
        mixed, soft = mixing(images, labels, 5)
    with seeded(1):
        again, _ = mixing(images, labels, 5)
    assert torch.equal(mixed, again) and mixed.shape == images.shape
    assert torch.allclose(soft.sum(1), torch.ones(batch)) and soft.min() >= 0
    assert torch.equal(soft.argmax(1)[-1:], labels[-1:]) or batch % 2 == 0


def test_pictures_are_normalised_as_the_pretrained_weights_want_them(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    folder = ImageFolder(str(tmp_path), size=16, validation=0.25, workers=0)
    assert folder.load().preprocessing.mean == (0.485, 0.456, 0.406)
    suited = folder.suited("tf_efficientnet_lite0")
    wanted = suited.load().preprocessing
    assert (wanted.mean, wanted.std, wanted.interpolation, wanted.crop) == ((0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
    own = replace(folder, mean=(0.1, 0.2, 0.3)).suited("tf_efficientnet_lite0")
    assert own.load().preprocessing.mean == (0.1, 0.2, 0.3) and own.std == (0.5,) * 3
    assert folder.suited("package.module.make") == folder


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_pictures_have_the_strides_of_the_default_format(channels: int) -> None:
    images = ShiftFlip(0.1, True)(torch.rand(2, channels, 8, 8), torch.Generator().manual_seed(0))
    assert images.stride() == (64 * channels, 64, 8, 1)
