"""A user's own pictures: layouts, kinds of pixels, what is broken, copied or missing, and what is said of it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composition import composed
from networks import small
from own_pictures import CLASSES, write_broken, write_classes, write_odd, write_own_pictures
from PIL import Image
from rich.console import Console
from torch import nn

from ofa.conf.program.command import execute
from ofa.search import Front
from ofa.train import ImageFolder
from ofa.train.collection import Overview, inspection, memory, read
from ofa.train.data import Splits, contents
from ofa.train.data.splits import LoaderSplit


def parts(data: ImageFolder) -> dict[str, str]:
    """The part of each picture by its name."""
    return {picture.entry.name: picture.part for picture in data.collection.pictures}


def counts(data: ImageFolder) -> dict[str, tuple[int, ...]]:
    return data.collection.counts


def shown(overview: Overview, width: int = 80) -> str:
    """What a console of that width shows, blanks as one."""
    console = Console(width=width, soft_wrap=True, highlight=False)
    with console.capture() as capture:
        console.print(overview, markup=False)
    assert max(len(line.rstrip()) for line in capture.get().splitlines()) < min(80, width + 1)
    return " ".join(capture.get().split())


# ------------------------------------------------------------ layouts and parts


def test_class_folders_are_cut_by_content_and_stay_when_files_are_added(tmp_path: Path) -> None:
    write_classes(tmp_path)
    before = parts(ImageFolder(str(tmp_path)))
    assert len(before) == 120 and set(before.values()) == {"train", "validation", "test"}
    assert sum(part == "train" for part in before.values()) == pytest.approx(0.7 * 120, abs=12)
    for path in sorted((tmp_path / "sky").iterdir())[:9]:
        path.rename(path.with_name(f"renamed-{path.name}"))
    write_classes(tmp_path, dict.fromkeys(CLASSES, 60))
    after = parts(ImageFolder(str(tmp_path)))
    assert len(after) == 189 and after.items() >= {n: p for n, p in before.items() if "sky/00" not in n}.items()
    for number in range(9):
        assert after[f"sky/renamed-00{number}.jpg"] == before[f"sky/00{number}.jpg"]
    assert parts(ImageFolder(str(tmp_path), seed=1)) != after


def test_the_pictures_of_each_part_are_a_table_that_gives_the_same_parts(tmp_path: Path) -> None:
    write_own_pictures(pictures := tmp_path / "my pictures")
    data = ImageFolder(str(pictures), empty="skip")
    run(tmp_path / "run", pictures, "data.empty=skip", "stages=[teacher]")
    table = tmp_path / "run" / "pictures.csv"
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label", "split"]
    assert {path: part for path, _, part in rows[1:]} == parts(data) and "sky/cut.jpg" not in parts(data)
    again = replace(data, table=str(table))
    assert again.contents() == data.contents() and again.collection.listing.cut == ()


def test_files_are_checked_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, by = inspection.inspect, set[int]()

    def watched(path: Path) -> inspection.Inspected:
        by.add(threading.get_ident())
        time.sleep(0.01)
        return checked(path)

    monkeypatch.setattr(inspection, "inspect", watched)
    monkeypatch.setattr(inspection, "threads", lambda: 3)
    write_classes(tmp_path)
    assert len(parts(ImageFolder(str(tmp_path)))) == 120 and len(by) == 3


LAYOUTS: dict[Sequence[str], dict[str, str]] = {
    ("train", "test"): {"train": "train|validation", "test": "test"},
    ("train", "val"): {"train": "train|validation", "val": "test"},
    ("train", "val", "test"): {"train": "train", "val": "validation", "test": "test"},
    ("train",): {"train": "train|validation|test"},
}


@pytest.mark.parametrize("folders", LAYOUTS, ids="+".join)
def test_parts_that_are_given_are_kept(tmp_path: Path, folders: Sequence[str]) -> None:
    for seed, name in enumerate(folders):
        write_classes(tmp_path / name, dict.fromkeys(CLASSES, 20), seed=seed)
    found = parts(ImageFolder(str(tmp_path)))
    for name, wanted in LAYOUTS[folders].items():
        assert {part for path, part in found.items() if path.startswith(f"{name}/")} == set(wanted.split("|"))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for old, new in ("flower", "plane"), ("sky", "train"):
        write_classes(tmp_path, {old: 20})
        (tmp_path / old).rename(tmp_path / new)
    assert ImageFolder(str(tmp_path)).collection.classes == ("plane", "train")


def test_what_people_do_not_see_in_a_folder_is_no_picture(tmp_path: Path) -> None:
    write_classes(tmp_path)
    before = parts(ImageFolder(str(tmp_path)))
    for hidden in (".cache", "sky/.thumbnails"):
        (tmp_path / hidden).mkdir()
        shutil.copy(tmp_path / "flower/000.jpg", tmp_path / hidden / "small.jpg")
    shutil.copy(tmp_path / "flower/000.jpg", tmp_path / "sky/._000.jpg")
    (tmp_path / "sky/more").mkdir()
    (tmp_path / "sky/more/circle").symlink_to(tmp_path / "sky")
    assert parts(ImageFolder(str(tmp_path))) == before


def test_a_folder_in_ones_home_may_be_written_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_classes(tmp_path / "pictures")
    write_table(tmp_path / "plain.csv", [["path", "label"], *rows_of(tmp_path / "pictures")])
    assert len(parts(ImageFolder("~/pictures"))) == len(parts(ImageFolder("~/pictures", "~/plain.csv"))) == 120


def write_table(path: Path, rows: Sequence[Sequence[str]], separator: str = ",") -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)


def rows_of(folder: Path) -> list[list[str]]:
    return [[path.relative_to(folder).as_posix(), path.parent.name] for path in sorted(folder.rglob("*.jpg"))]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_says_what_is_where(tmp_path: Path, separator: str) -> None:
    write_classes(tmp_path)
    rows = rows_of(tmp_path)
    write_table(tmp_path / "plain.csv", [["path", "label"], *rows], separator)
    assert parts(ImageFolder(str(tmp_path), "plain.csv")) == parts(ImageFolder(str(tmp_path)))
    path = tmp_path / "plain.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets write it
    assert len(parts(ImageFolder(str(tmp_path), "plain.csv"))) == 120
    words = ["train", "val", "test", "train"]
    split = [[*row, words[i % 4]] for i, row in enumerate(rows)]
    write_table(tmp_path / "split.csv", [["path", "label", "split"], *split], separator)
    found = parts(ImageFolder(str(tmp_path), "split.csv"))
    assert found == {path: {"val": "validation"}.get(word, word) for path, _, word in split}
    for last in ("test", "val"):  # val alone is what is tested on
        tested = [[*row, last if i % 4 else "train"] for i, row in enumerate(rows)]
        write_table(tmp_path / "tested.csv", [["path", "label", "split"], *tested], separator)
        found = parts(ImageFolder(str(tmp_path), "tested.csv"))
        assert {found[path] for path, _, word in tested if word == last} == {"test"}
        assert {found[path] for path, _, word in tested if word == "train"} == {"train", "validation"}


def test_a_parquet_file_is_a_table_where_pyarrow_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    (tmp_path / "table.parquet").write_bytes(b"no table")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ValueError, match="Parquet files are read by pyarrow; pip install pyarrow, or save it as"):
            ImageFolder(str(tmp_path), "table.parquet").load()
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(ValueError, match=r"the table .*table\.parquet cannot be read"):
        ImageFolder(str(tmp_path), "table.parquet").load()
    names, labels = zip(*rows_of(tmp_path), strict=True)
    table = pytest.importorskip("pyarrow").table({"path": names, "label": [CLASSES.index(n) for n in labels]})
    parquet.write_table(table, tmp_path / "table.parquet")
    data = ImageFolder(str(tmp_path), "table.parquet")
    assert data.collection.classes == ("0", "1", "2")
    assert parts(data) == parts(ImageFolder(str(tmp_path)))


WRONG_TABLES = {
    r"lacks the column label; it has path, class": [["path", "class"], ["a.jpg", "sky"]],
    r"line 3: label is empty": [["path", "label"], ["sky/000.jpg", "sky"], ["sky/001.jpg", ""]],
    r"line 2: split is train, val, valid, validation, test, got 'dev'": [
        ["path", "label", "split"],
        ["sky/000.jpg", "sky", "dev"],
    ],
    r"no row has the split train, only test": [["path", "label", "split"], ["sky/000.jpg", "sky", "test"]],
    r"no pictures in table\.csv": [["path", "label"]],
}


@pytest.mark.parametrize("message", WRONG_TABLES)
def test_a_table_that_lacks_something_says_where(tmp_path: Path, message: str) -> None:
    write_classes(tmp_path, {"sky": 3})
    write_table(tmp_path / "table.csv", WRONG_TABLES[message])
    with pytest.raises(ValueError, match=message):
        ImageFolder(str(tmp_path), "table.csv").load()


def test_a_missing_table_or_a_picture_that_it_names_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path)
    with pytest.raises(ValueError, match=r"the table .*none\.csv cannot be read: No such file"):
        ImageFolder(str(tmp_path), "none.csv").load()
    with pytest.raises(ValueError, match=r"data\.table is a \.csv, \.tsv or \.parquet file, got .*labels\.json"):
        ImageFolder(str(tmp_path), "labels.json").load()
    write_table(tmp_path / "table.csv", [["path", "label"], *rows_of(tmp_path), ["sky/lost.jpg", "sky"]])
    assert ImageFolder(str(tmp_path), "table.csv").collection.left_out == (
        ("sky/lost.jpg", "no such file or directory"),
    )


# ------------------------------------------------------------ what is refused, or left out


def test_a_folder_without_what_is_needed_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere; pictures go in <folder>/<class>/"):
        ImageFolder(str(tmp_path / "nowhere")).load()
    with pytest.raises(ValueError, match=r"no pictures in .*; pictures go in"):
        ImageFolder(str(tmp_path)).load()
    write_classes(tmp_path, {"sky": 3})
    with pytest.raises(ValueError, match=r"two classes or more are needed, there is only 'sky'"):
        ImageFolder(str(tmp_path)).load()
    with pytest.raises(ValueError, match=r"no pictures in .*sky; it holds 3 pictures outside class folders; pictures"):
        ImageFolder(str(tmp_path / "sky")).load()
    (tmp_path / "val").mkdir()
    (tmp_path / "sky").rename(tmp_path / "val" / "sky")
    with pytest.raises(ValueError, match=r"has val, but no train/<class>/"):
        ImageFolder(str(tmp_path)).load()


def test_an_empty_class_is_refused_before_any_file_is_read_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path)
    (tmp_path / "nothing").mkdir()
    with monkeypatch.context() as unread:
        unread.setattr(inspection, "inspect", None)
        with pytest.raises(ValueError, match=r"no pictures of class nothing; data\.empty=skip leaves such classes out"):
            ImageFolder(str(tmp_path)).load()
    splits = ImageFolder(str(tmp_path), empty="skip").load()
    assert splits.classes == CLASSES and splits.overview is not None
    assert "left out empty classes: nothing" in shown(splits.overview)
    for path in (tmp_path / "sky").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no pictures of class sky; data\.empty=skip"):
        (tmp_path / "nothing").rmdir()
        ImageFolder(str(tmp_path)).load()
    assert ImageFolder(str(tmp_path), empty="skip").load().classes == ("flower", "temple")


def test_a_class_that_is_in_one_part_alone_is_empty_in_the_other(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", dict.fromkeys(CLASSES, 20))
    write_classes(tmp_path / "test", {"flower": 5, "sky": 5}, seed=1)
    with pytest.raises(ValueError, match=r"no pictures of class temple in test; data\.empty=skip"):
        ImageFolder(str(tmp_path)).load()
    assert ImageFolder(str(tmp_path), empty="skip").load().classes == ("flower", "sky")


def test_broken_files_are_named_and_left_out_or_refused(tmp_path: Path) -> None:
    write_classes(tmp_path)
    broken = write_broken(tmp_path)
    data = ImageFolder(str(tmp_path))
    left_out = dict(data.collection.left_out)
    assert left_out.keys() == {f"sky/{path.name}" for path in broken.values()}
    assert left_out["sky/cut.jpg"].startswith("image file is truncated") and left_out["sky/empty.png"] == "empty file"
    assert left_out["sky/text.jpg"] == "no picture" and left_out["sky/header.png"]
    assert counts(data) == counts(ImageFolder(str(tmp_path)))
    overview = data.load().overview
    assert overview is not None and "4 broken files: sky/cut.jpg (" in shown(overview)
    with pytest.raises(ValueError, match=r"4 broken files: sky/cut\.jpg \(.*data\.broken=skip leaves such files out"):
        ImageFolder(str(tmp_path), broken="refuse").load()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"broken": "ignore"}, "broken is skip or refuse, got 'ignore'"),
        ({"empty": "keep"}, "empty is skip or refuse, got 'keep'"),
        ({"test": 0.0}, "test is a share of the pictures, between 0 and 1, got 0.0"),
        ({"size": 0}, "size is the edge of a picture in pixels, at least 1, got 0"),
        ({"crop": 1.5}, r"crop is the share of the shorter edge that is seen, in \(0, 1\], got 1.5"),
        ({"validation": 0.5, "test": 0.5}, "validation 0.5 and test 0.5 leave nothing to train with"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolder("pictures", **given)


def test_too_few_pictures_for_the_parts_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"sky": 9, "temple": 9})
    with pytest.raises(ValueError, match=r"no picture of class sky, temple is left to train with; add some, or"):
        ImageFolder(str(tmp_path), validation=0.5, test=0.499999999).load()
    with pytest.raises(ValueError, match=r"no picture is left for validation; add some, or raise data\.validation"):
        ImageFolder(str(tmp_path), validation=1e-9, test=1e-9).load()


# ------------------------------------------------------------ copies


def test_copies_never_stand_in_two_parts(tmp_path: Path) -> None:
    write_classes(tmp_path)
    for path in sorted((tmp_path / "flower").iterdir()):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
        shutil.copy(path, tmp_path / "sky" / f"also-{path.name}")
    data = ImageFolder(str(tmp_path))
    found = parts(data)
    for number in range(40):
        name = f"{number:03}.jpg"
        assert found[f"flower/{name}"] == found[f"flower/copy-{name}"] == found[f"sky/also-{name}"]
    overview = data.load().overview
    assert overview is not None and "copies 80 of a file that is in the same part, too" in shown(overview)
    assert re.search(r"40 pictures stand in two classes: flower/\d", shown(overview))


def test_pictures_that_differ_in_their_last_pixel_are_no_copies(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    for value in (0, 1):
        pixels[-1, -1, -1] = value
        Image.fromarray(pixels).save(tmp_path / f"{value}.ppm")
    assert inspection.inspect(tmp_path / "0.ppm").digest != inspection.inspect(tmp_path / "1.ppm").digest


def test_what_is_tested_on_is_taken_out_of_the_training_pictures(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", dict.fromkeys(CLASSES, 20))
    write_classes(tmp_path / "test", dict.fromkeys(CLASSES, 5), seed=1)
    shutil.copy(tmp_path / "test/sky/000.jpg", tmp_path / "train/sky/leak.jpg")
    data = ImageFolder(str(tmp_path))
    assert data.collection.left_out == (("train/sky/leak.jpg", "the same picture is in test"),)
    assert parts(data)["test/sky/000.jpg"] == "test" and "train/sky/leak.jpg" not in parts(data)
    overview = data.load().overview
    assert overview is not None
    assert "left out 1 of which a later part has a copy: train/sky/leak.jpg" in shown(overview)


# ------------------------------------------------------------ pixels


def distance(left: Image.Image, right: Image.Image) -> float:
    return float(np.abs(np.asarray(left).astype(float) - np.asarray(right).astype(float)).mean())


def test_every_kind_of_pixels_is_converted_knowingly(tmp_path: Path) -> None:
    write_classes(tmp_path)
    paths = write_odd(tmp_path)
    seen = {kind: read(path) for kind, path in paths.items()}
    inspected = {inspection.inspect(path) for path in paths.values()}
    assert {(i.width, i.height) for i in inspected} == {(80, 64)} and sum(i.turned for i in inspected) == 1
    assert {image.mode for image in seen.values()} == {"RGB"} and {image.size for image in seen.values()} == {(80, 64)}
    cmyk = seen["cmyk"]
    assert distance(seen["turned"], cmyk) < 6 and distance(seen["palette"], cmyk) < 12
    grey = cmyk.convert("L").convert("RGB")
    assert distance(seen["grey"], grey) < 6 and distance(seen["deep"], seen["grey"]) == 0
    clear, alpha = np.asarray(seen["transparent"]).astype(float), np.asarray(Image.open(paths["transparent"]))
    assert (clear[alpha[..., 3] == 0] == 255).all()
    shares = alpha[..., 3:] / 255
    assert np.abs(clear - (alpha[..., :3] * shares + 255 * (1 - shares))).max() < 2
    assert set(np.unique(np.asarray(seen["bitmap"]))) == {0, 255}


def test_numbers_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "long.tif")
    assert "floating-point numbers of unknown range" in inspection.inspect(tmp_path / "float.tif").broken
    assert "reach from 70000 to 70000; save it with 8 or 16 bits" in inspection.inspect(tmp_path / "long.tif").broken


def test_figures_are_those_of_the_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        place = tmp_path / f"{i % 2}"
        place.mkdir(exist_ok=True)
        Image.fromarray(picture).save(place / f"{i}.png")
    overview = ImageFolder(str(tmp_path)).load().overview
    assert overview is not None
    figures = overview.to_json()
    whole = pixels.reshape(-1, 3) / 255
    assert figures["mean"] == pytest.approx(whole.mean(0), abs=1e-4)
    assert figures["std"] == pytest.approx(whole.std(0), abs=1e-4)
    assert figures["sizes"] == {"smallest": (10, 12), "median": (10, 12), "largest": (10, 12)}


# ------------------------------------------------------------ size and preprocessing


@pytest.mark.parametrize(("edges", "size"), [((80, 64), 64), ((30, 20), 32), ((300, 260), 224)])
def test_the_size_follows_the_pictures_and_is_said(tmp_path: Path, edges: tuple[int, int], size: int) -> None:
    write_classes(tmp_path, {"flower": 20, "temple": 20}, edges)
    splits = ImageFolder(str(tmp_path), workers=0).load()
    assert splits.preprocessing.size == size and splits.overview is not None
    text = shown(splits.overview)
    assert f"sees {size} x {size} pixels, as it follows the pictures; data.size=… for another" in text
    assert ("pictures of 20 pixels are enlarged" in text) == (size == 32)
    images, _ = next(splits.test.ordered(1))
    assert images.shape == splits.example.shape == (1, 3, size, size)


def test_a_few_small_or_large_pictures_do_not_decide_the_size(tmp_path: Path) -> None:
    write_classes(tmp_path, {"flower": 40, "temple": 20}, (110, 100))
    for edges, seed in ((24, 20), 1), ((240, 200), 2):
        write_classes(tmp_path / "other", {"flower": 9}, edges, seed)
        for path in (tmp_path / "other/flower").iterdir():
            path.rename(tmp_path / f"flower/{seed}-{path.name}")
    shutil.rmtree(tmp_path / "other")
    assert ImageFolder(str(tmp_path)).load().preprocessing.size == 96


def test_a_size_of_ones_own_and_that_of_weights_are_said(tmp_path: Path) -> None:
    write_classes(tmp_path)
    data = ImageFolder(str(tmp_path))
    overviews = [given.load().overview for given in (replace(data, size=128), data.suited("resnet18"))]
    own, weights = (shown(overview) for overview in overviews if overview is not None)
    assert "sees 128 x 128 pixels, as data.size says; pictures of 64 pixels are enlarged" in own
    assert "sees 224 x 224 pixels, as the weights of resnet18 want it; pictures of 64" in weights
    assert data.suited("resnet18").crop == 0.95
    assert data.suited("package.module.make") == data


def test_preprocessing_in_plain_words_gives_what_the_network_sees(tmp_path: Path) -> None:
    write_classes(tmp_path)
    splits = ImageFolder(str(tmp_path), size=48, workers=0).load()
    told = splits.preprocessing.to_json()
    assert isinstance(splits.test, LoaderSplit)
    picture = read(splits.test.plain.paths[splits.test.subset[0]])  # type: ignore[attr-defined]
    edge = told["resize"]["shorter_edge"]
    wide = picture.resize(
        (edge * picture.width // picture.height, edge), Image.Resampling[told["resize"]["interpolation"].upper()]
    )
    left, top = round((wide.width - 48) / 2), round((wide.height - 48) / 2)
    seen = np.asarray(wide.crop((left, top, left + 48, top + 48))) / 255
    wanted = (seen - told["mean"]) / told["std"]
    images, _ = next(splits.test.ordered(1))
    assert np.abs(images[0].permute(1, 2, 0).numpy() - wanted).max() < 1e-5


# ------------------------------------------------------------ the check is quick, and hides nothing


def test_what_was_checked_is_remembered_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    looked: list[Path] = []
    real = inspection.inspect
    monkeypatch.setattr(inspection, "inspect", lambda path: looked.append(path) or real(path))
    first = ImageFolder(str(tmp_path)).contents()
    assert len(looked) == 120
    assert ImageFolder(str(tmp_path)).contents() == first and len(looked) == 120
    path = tmp_path / "sky" / "005.jpg"
    state, content = path.stat(), path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # same size, same time of change: still seen
    ImageFolder(str(tmp_path)).contents()
    assert looked[120:] == [path]
    broken = write_broken(tmp_path)
    for _ in range(2):  # a broken file is looked at each time
        del looked[:]
        ImageFolder(str(tmp_path)).contents()
        assert set(looked) - {path} == set(broken.values())


@pytest.mark.parametrize("state", ["damaged", "unwritable"])
def test_a_memory_that_cannot_be_used_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    write_classes(tmp_path / "pictures")
    monkeypatch.setenv("OFA_CACHE", str(tmp_path / "cache"))
    first = ImageFolder(str(tmp_path / "pictures")).contents()
    (path,) = (tmp_path / "cache").iterdir()
    if state == "damaged":
        path.write_bytes(b"no database" * 1000)
    else:
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").write_text("a file where the folder should be")
    assert ImageFolder(str(tmp_path / "pictures")).contents() == first
    remembered = memory.Memory.of(tmp_path / "pictures")
    assert len(remembered.all()) == (120 if state == "damaged" else 0)
    remembered.close()


def test_contents_change_with_pixels_names_and_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, dict.fromkeys(CLASSES, 9))
    rows = [[*row, ("train", "val", "test")[i % 3]] for i, row in enumerate(rows_of(tmp_path))]

    def told() -> dict[str, str]:
        write_table(tmp_path / "table.csv", [["path", "label", "split"], *rows])
        return ImageFolder(str(tmp_path), "table.csv").contents()

    first, path = told(), tmp_path / rows[0][0]
    Image.open(path).rotate(180).save(path)
    turned = told()
    path.rename(path.with_name("renamed.jpg"))
    rows[0][0] = "flower/renamed.jpg"
    renamed = told()
    rows[0][1] = "sky"
    assert len({said["train"] for said in (first, turned, renamed, told())}) == 4
    assert {said["test"] for said in (first, turned, renamed, told())} == {first["test"]}
    assert first["train"].startswith("9 pictures, ")


def test_processes_that_check_the_same_files_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    one, other = memory.Memory.of(tmp_path), memory.Memory.of(tmp_path)
    paths = sorted(tmp_path.rglob("*.jpg"))
    states = [memory.State.of(path) for path in paths]
    with one.adding() as added:
        added |= {state: inspection.inspect(path).facts for state, path in zip(states[:60], paths, strict=False)}
    assert other.some(states).keys() == set(states[:60]) == other.all().keys()
    looked: list[Path] = []
    real = inspection.inspect
    monkeypatch.setattr(inspection, "inspect", lambda path: looked.append(path) or real(path))
    with ThreadPoolExecutor(2) as pool:
        assert inspection.inspected(states, other, pool).keys() == set(states) == one.all().keys()
    assert sorted(looked) == paths[60:]
    one.close(), other.close()


def test_progress_is_shown_where_there_is_much_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(tmp_path)
    ImageFolder(str(tmp_path)).contents()
    assert "checking pictures  100 %  120/120" in capsys.readouterr().err
    ImageFolder(str(tmp_path)).contents()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_later_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    write_classes(tmp_path, {"sky": 20, "temple": 20})
    splits = ImageFolder(str(tmp_path), workers=workers).load()
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:500])
    later = r"could be read when the run began, and cannot now \(.*\); mend it and go on, or begin anew without it"
    with pytest.raises(ValueError, match=rf"^{tmp_path}/\w+/\d+\.jpg {later}$"):
        next(splits.train.shuffled(4, 0, 0))


# ------------------------------------------------------------ what is said


def test_everything_at_once_is_one_table_of_80_columns(tmp_path: Path) -> None:
    write_own_pictures(tmp_path)
    overview = ImageFolder(str(tmp_path), empty="skip").load().overview
    assert overview is not None
    assert shown(overview, 50)
    for text in (shown(overview), shown(overview, 120)):
        for words in (
            "80 x 64 to 80 x 64",
            "1 in CMYK (by Pillow's formula, without a colour profile)",
            "1 in RGBA (transparent parts laid on white)",
            "turned 1 by what their EXIF data say",
            "copies 1 of a file that is in the same part, too",
            "4 broken files: sky/cut.jpg",
            "empty classes: nothing",
            "1 .txt files",
        ):
            assert words in text
        for name, row in overview.counts.items():
            assert " ".join(map(str, (name, *row, sum(row)))) in text
    assert sum(map(sum, overview.counts.values())) == 128
    told = json.loads(json.dumps(overview.to_json()))
    assert tuple(told["classes"]["flower"].values()) == overview.counts["flower"]
    assert len(told["left_out"]) == 4 and told["preprocessing"]["size"] == [64, 64]


def test_few_and_uneven_classes_are_remarked(tmp_path: Path) -> None:
    write_classes(tmp_path, {"flower": 90, "sky": 12})
    overview = ImageFolder(str(tmp_path)).load().overview
    assert overview is not None and overview.uneven
    text = shown(overview)
    assert "fewer than 30 pictures: sky (12)" in text
    assert re.search(r"flower has \d+ training pictures, sky \d+: accuracy alone misleads, the balanced accuracy", text)
    write_classes(tmp_path, {"sky": 90})
    even = ImageFolder(str(tmp_path)).load().overview
    assert even is not None and not even.uneven and not even.remarks


def test_many_classes_and_odd_names_stay_readable() -> None:
    names = ["[bold]" + "long" * 20, *(f"class {i}" for i in range(400))]
    overview = Overview({name: (i + 30, 3, 3) for i, name in enumerate(names)})
    text = shown(overview)
    assert "… 385 more" in text and "class 399" in text and "[bold]longlong" in text and "all 401" in text


# ------------------------------------------------------------ in the program


def run(folder: Path, pictures: Path, *overrides: str) -> int:
    given = ("data=image_folder", f"data.folder={pictures}", "data.size=16", "data.workers=0", "data.empty=skip")
    brief = ("backbone=networks.small", "threads=1", "teacher.recipe.epochs=1", "teacher.recipe.batch_size=16")
    return execute(composed(f"run={folder}", *given, *brief, *overrides))


def test_runs_of_every_seed_are_tested_on_the_same_pictures() -> None:
    first, other = (composed("data=image_folder", "data.folder=pictures", f"seed={seed}") for seed in (0, 1))
    assert first.seed != other.seed and first.data == other.data


def test_a_picture_that_is_added_later_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    write_own_pictures(pictures)
    run(folder, pictures, "stages=[teacher]")
    first = capsys.readouterr().out
    assert first.index("4 broken files: sky/cut.jpg") < first.index("parameters") < first.index("teacher  100 %")
    told = json.loads((folder / "data.json").read_text())
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["teacher"]["data.contents.test"] == told["contents"]["test"]
    assert re.fullmatch(r"\d+ pictures, [0-9a-f]{12}", told["contents"]["test"])
    run(folder, pictures, "stages=[teacher]")
    again = capsys.readouterr().out
    assert "teacher: done before" in again and "sky/cut.jpg" not in again
    write_classes(pictures, {"temple": 41})
    with pytest.raises(
        ValueError, match=r"teacher made with other settings \(data\.contents\.\w+ was \d+ pictures, \w+, is now"
    ):
        run(folder, pictures, "stages=[teacher]")


def test_only_what_was_made_with_the_same_pictures_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, runs = tmp_path / "pictures", tmp_path / "runs"
    write_own_pictures(pictures)
    path = pictures / "sky" / "000.jpg"
    first = path.read_bytes()

    def taken(name: str) -> str:
        """The run from which another took its teacher; empty where it trained its own."""
        run(runs / name, pictures, "stages=[teacher]", "reuse=true")
        found = re.search(rf"teacher: taken from {runs}/(\w+),", capsys.readouterr().out)
        return found[1] if found else ""

    assert taken("first") == "" and taken("again") == "first"
    path.write_bytes((pictures / "sky" / "001.jpg").read_bytes())
    assert taken("replaced") == ""
    path.rename(pictures / "temple" / "000000.jpg")
    assert taken("moved") == ""
    path.write_bytes(first)
    (pictures / "temple" / "000000.jpg").unlink()
    assert taken("restored") in ("first", "again")


def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_uneven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "pictures", {"flower": 90, "sky": 12})
    brief = ("supernet=given", "search=random", "search.evaluations=2", "search.population=2", "export.subnets=1")
    space = ("space.kernel=false", "space.divisor=4", "space.proof=quick", "supernet.calibration_batches=1")
    stages = ("stages=[teacher,supernet,search,export]", "export.files=[weights]")
    run(tmp_path / "run", tmp_path / "pictures", *brief, *space, *stages)
    output = capsys.readouterr().out
    assert re.search(r"^teacher: accuracy [\d.]+ %, balanced accuracy [\d.]+ %$", output, re.MULTILINE)
    assert re.search(r"accuracy +│ balanced_accuracy|accuracy +balanced_accuracy|accuracy ┃ balanced_accuracy", output)
    rows = json.loads((tmp_path / "run/front.json").read_text())
    assert all(0 <= row["balanced_accuracy"] <= 100 for row in rows)
    front = Front.from_json(rows, ["balanced_accuracy", "macs"])
    assert "balanced_accuracy" in [column.header for column in front.table().columns]


def test_a_given_network_that_names_the_frequent_class_is_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "pictures", {"flower": 90, "sky": 12})
    network = small(2, 3)
    *_, last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([1.0, 0.0])
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    given = ("teacher=given", f"teacher.checkpoint={tmp_path / 'mine.pt'}", "stages=[teacher]")
    run(tmp_path / "run", tmp_path / "pictures", *given)
    output = capsys.readouterr().out
    said = re.search(r"not trained; accuracy ([\d.]+) %, balanced accuracy 50.00 % on \d+ validation pictures", output)
    assert said and float(said[1]) > 75 and "warning: guessing gives 50 %" in output


class Untold:
    """A data set of a user's that tells nothing of its contents."""

    def load(self) -> Splits:
        raise AssertionError("nobody asked for the pictures")


def test_a_data_set_of_a_users_need_not_tell_what_it_holds(tmp_path: Path) -> None:
    assert contents(Untold()) == {}
    write_classes(tmp_path)
    assert contents(ImageFolder(str(tmp_path))).keys() == {"train", "validation", "test"}


def test_balanced_classes_are_drawn_from_own_pictures(tmp_path: Path) -> None:
    write_classes(tmp_path, {"flower": 60, "sky": 12})
    train = ImageFolder(str(tmp_path), size=16, workers=0, balanced=True).load().train
    drawn = torch.cat([labels for epoch in range(4) for _, labels in train.shuffled(16, 0, epoch)])
    assert 0.35 < float(drawn.float().mean()) < 0.65
