"""Tar shards: what was put in comes out, at random, and what does not fit is named."""

import gzip
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_files import write_shard, write_shards
from sklearn.datasets import load_digits

from ofa.train.data.pictures import TimmDataset
from ofa.train.data.shards import Shards, expanded
from ofa.train.data.splits import LoaderSplit


def test_shards_hold_the_pictures_and_labels_that_were_put_in(tmp_path: Path) -> None:
    write_shards(tmp_path)
    pixels, targets = load_digits(return_X_y=True)
    read = Shards.open(str(tmp_path), "train")
    assert [len(read), len(Shards.open(str(tmp_path), "digits-train-{0..1}.tar::digits-train-2.tar|9"))] == [120, 120]
    for i in (119, 0, 57):
        picture, label = read[i]
        assert label == targets[i] and picture.mode == "RGB"
        assert np.array_equal(np.array(picture)[..., 0], pixels[i].reshape(8, 8) * 15)
    assert Shards.open(str(tmp_path), "validation").targets.tolist() == targets[120:150].tolist()


def test_training_pictures_are_held_out_of_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    given = TimmDataset("wds/digits", 10, str(tmp_path), size=16, validation=0.25, workers=0)
    splits = given.load()
    train, validation = splits.train, splits.validation
    assert isinstance(train, LoaderSplit) and isinstance(validation, LoaderSplit)
    assert sorted(train.subset + validation.subset) == list(range(120)) and len(splits.test) == 30
    again = replace(given, workers=1).load()
    for drawn, same in (
        (train.shuffled(6, 0, 0), again.train.shuffled(6, 0, 0)),
        (
            validation.ordered(6),
            again.validation.ordered(6),
        ),
    ):
        for (images, labels), (others, targets) in zip(drawn, same, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, targets)


def test_braces_are_expanded() -> None:
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    assert expanded("a.tar") == ["a.tar"]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("tain", r"_info\.json has no split 'tain'; there are train, validation"),
        ("digits-train-{0..3}.tar", r"digits-train-3\.tar cannot be read: No such file"),
        ("cut.tar", r"cut\.tar is no whole, uncompressed tar file: unexpected end of data"),
        ("small.tar.gz", r"small\.tar\.gz is no whole, uncompressed tar file"),
        ("bare.tar", r"bare\.tar: sample sub\.dir/000000 has no label in \.cls: KeyError\('cls'\)"),
        ("digits-test.tar", r"sample sub\.dir/000120 has no label in \.cls: ValueError"),
        ("labels.tar", r"labels\.tar: sample 0 has no picture \(jpg, png, webp, jpeg\), only \['cls'\]"),
        ("empty.tar", r"no pictures in the shards of split 'empty\.tar'"),
    ],
)
def test_shards_that_do_not_fit_are_named(tmp_path: Path, split: str, message: str) -> None:
    write_shards(tmp_path)
    content = (tmp_path / "digits-test.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes((tmp_path / "digits-train-0.tar").read_bytes()[:5000])
    (tmp_path / "small.tar.gz").write_bytes(gzip.compress(content))
    write_shard(tmp_path / "bare.tar", 0, 1)
    for name in "empty", "labels":
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            if name == "labels":
                archive.addfile(tarfile.TarInfo("0.cls"))
    with pytest.raises(ValueError, match=message):
        Shards.open(str(tmp_path), split)


def test_shards_without_a_description_or_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no _info\.json to look 'train' up in; name the shards, as in data.train_s"
    ):
        Shards.open(str(tmp_path), "train")
    (tmp_path / "info.json").write_text('{"parts": 3}')
    with pytest.raises(ValueError, match=r"info\.json does not describe shards: KeyError\('splits'\)"):
        Shards.open(str(tmp_path), "train")
    with pytest.raises(ValueError, match=r"tar shards lie in a folder on disk, got None; give data\.folder"):
        TimmDataset("wds/digits", 10).load()


def test_a_picture_that_is_none_is_named_with_its_shard(tmp_path: Path) -> None:
    write_shards(tmp_path)
    read = Shards.open(str(tmp_path), "train")
    content = bytearray(read.paths[0].read_bytes())
    content[read.places[3, 1] : read.places[3, 1] + 8] = bytes(8)
    read.paths[0].write_bytes(content)
    assert read[2][1] == read.targets[2]
    with pytest.raises(ValueError, match=r"digits-train-0\.tar: no whole picture at byte \d+"):
        read[3]
