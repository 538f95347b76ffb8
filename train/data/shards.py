"""Pictures in tar shards, as webdataset lays them out and timm names them (`wds/…`), with random access."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ofa.train.data.datasets import Labels

INFO = ("_info.json", "info.json")
PICTURES = ("jpg", "png", "webp", "jpeg")
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # a sample's name, and what of it this is
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(eq=False)
class Shards(Dataset[tuple[Any, int]]):
    """Where each picture lies in uncompressed shards, (pictures, 3): number of the shard, first byte, size.

    A stream has no positions; reading all headers once gives them, and a picture then costs one seek.
    """

    paths: tuple[Path, ...]
    places: Labels
    targets: Labels
    transform: Any = None

    @classmethod
    def open(cls, folder: str | None, split: str, label_key: str | None = None) -> Self:
        """Index a split: one that `folder`/_info.json names, or shards such as `train-{0000..0003}.tar`.

        Labels are in `.cls` files, or the field `label_key` of `.json` files, which the info file may name, too.

        Raises:
            ValueError: a shard is missing, compressed or damaged, or a sample lacks its picture or label.
        """
        if folder is None or not Path(folder).is_dir():
            raise ValueError(f"tar shards lie in a folder on disk, got {folder}; give data.folder")
        names, field = described(Path(folder), split)
        paths = tuple(Path(folder) / name for name in names)
        rows = [(i, *row) for i, path in enumerate(paths) for row in pictures(path, label_key or field)]
        if not rows:
            raise ValueError(f"{folder}: no pictures in the shards of split {split!r}")
        table = np.array(rows, dtype=np.int64)
        return cls(paths, table[:, :3], table[:, 3])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        shard, first, size = self.places[index].tolist()
        with self.paths[shard].open("rb") as file:
            file.seek(first)
            content = file.read(size)
        try:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            raise ValueError(f"{self.paths[shard]}: no whole picture at byte {first}: {error}") from None
        return self.transform(picture) if self.transform else picture, int(self.targets[index])


def described(folder: Path, split: str) -> tuple[list[str], str | None]:
    """The names of a split's shards, and the field of its labels if the info file says one."""
    if "tar" in split or ".." in split:
        return [name for part in split.partition("|")[0].split("::") for name in expanded(part)], None
    path = next((folder / name for name in INFO if (folder / name).is_file()), None)
    if path is None:
        example = f"data.train_split='{split}-{{0000..0003}}.tar'"
        raise ValueError(f"{folder} has no {INFO[0]} to look {split!r} up in; name the shards, as in {example}")
    try:
        splits = json.loads(path.read_text())["splits"]
        if split in splits:
            return list(splits[split]["filenames"]), splits[split].get("alt_label")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe shards: {error!r}") from None
    raise ValueError(f"{path} has no split {split!r}; there are {', '.join(splits)}")


def expanded(text: str) -> list[str]:
    """All names that `a-{00..11}.tar` or `{a,b}.tar` stands for; a range is as wide as its first number."""

    def options(inside: str) -> list[str]:
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
        if ends is None:
            return inside.split(",")
        return [str(n).zfill(len(ends[1])) for n in range(int(ends[1]), int(ends[2]) + 1)]

    pieces = BRACES.split(text)  # every second one stood in braces
    choices = [options(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(names) for names in itertools.product(*choices)]


def pictures(path: Path, label_key: str | None) -> Iterator[tuple[int, int, int]]:
    """First byte, size and label of every picture of a shard."""
    try:
        with tarfile.open(path, "r:") as archive:
            for name, members in samples(archive):
                picture = next((members[kind] for kind in PICTURES if kind in members), None)
                if picture is None:
                    raise ValueError(f"sample {name} has no picture ({', '.join(PICTURES)}), only {sorted(members)}")
                yield picture.offset_data, picture.size, label(archive, name, members, label_key)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole, uncompressed tar file: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Every sample's name and files, by their endings; the files of a sample follow each other."""
    files = ((match, member) for member in archive if member.isfile() and (match := MEMBER.fullmatch(member.name)))
    for name, group in itertools.groupby(files, lambda pair: pair[0][1]):
        yield name, {match[2].lower(): member for match, member in group}


def label(archive: tarfile.TarFile, name: str, members: dict[str, tarfile.TarInfo], key: str | None) -> int:
    """The class of a sample: its `.cls`, or a field of its `.json`."""
    place = ".cls" if key is None else f"{key!r} of .json"
    try:
        file = archive.extractfile(members["cls" if key is None else "json"])
        assert file is not None
        content = file.read()
        return int(content) if key is None else int(json.loads(content)[key])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sample {name} has no label in {place}: {error!r}") from None
