"""Which files there are, of which class, and in which part if the user says so: class folders, or a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ofa.train.collection.tables import Row, rows

PARTS = ("train", "validation", "test")
NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""What folders, and the column `split` of a table, call each part."""
ENDINGS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
HINT = "pictures go in <folder>/<class>/, or <folder>/train/<class>/ and <folder>/test/<class>/, or give data.table"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its path, and below the folder its name; `part` is None where its content decides."""

    path: Path
    name: str
    label: str
    part: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a collection. `cut` are the parts into which those without a part go, by their content.

    `classes` are all that there should be, in order; `others` are files that are none of its pictures, by kind.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    cut: tuple[str, ...]
    others: Counter[str] = field(default_factory=Counter)

    @property
    def given(self) -> tuple[str, ...]:
        """The parts that the user gave."""
        return tuple(part for part in PARTS if part not in self.cut)

    @classmethod
    def of(cls, folder: Path, table: Path | None = None) -> Listing:
        """The pictures in a folder, or those that a table names.

        Raises:
            ValueError: the folder or the table is missing, or holds no picture.
        """
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}; {HINT}")
        listing = in_folders(folder) if table is None else in_table(folder, table)
        if not listing.entries:
            kinds = f"; it holds {counted(listing.others)}" if listing.others else ""
            raise ValueError(f"no pictures in {table or folder}{kinds}; {HINT}")
        return listing


def counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())


def to_cut(given: Iterable[str]) -> tuple[str, ...]:
    """The parts that the pictures of `train`, or all of them, are cut into where some were not given.

    >>> to_cut(["train", "test"]), to_cut(["train", "validation", "test"]), to_cut([])
    (('train', 'validation'), (), ('train', 'validation', 'test'))
    """
    cut = tuple(part for part in PARTS if part not in given or part == "train")
    return cut if len(cut) > 1 else ()


# ------------------------------------------------------------ folders


def in_folders(folder: Path) -> Listing:
    """Class folders, or folders of them for each part; `val` without `test` is what is tested on, as in ImageNet."""
    below = subfolders(folder)
    parts = {part: next((below[n] for n in names if n in below), None) for part, names in NAMES.items()}
    if parts["train"] is None or not subfolders(parts["train"]) or any(map(is_picture, files(parts["train"]))):
        missing = [path.name for part, path in parts.items() if path is not None and subfolders(path)]
        if missing and len(missing) == len(below):
            raise ValueError(f"{folder} has {' and '.join(missing)}, but no train/<class>/; {HINT}")
        return classified(folder, {None: folder}, PARTS)
    given = {part: path for part, path in parts.items() if path is not None}
    if "test" not in given and "validation" in given:
        given["test"] = given.pop("validation")
    cut = to_cut(given)
    others = Counter(
        {f"folders beside train ({name})": 1 for name, path in below.items() if path not in given.values()}
    )
    return classified(folder, {None if cut and p == "train" else p: path for p, path in given.items()}, cut, others)


def classified(
    root: Path, parts: dict[str | None, Path], cut: tuple[str, ...], others: Counter[str] | None = None
) -> Listing:
    """Every picture below the class folders of each part."""
    entries, classes, others = list[Entry](), set[str](), Counter(others or {})
    for part, place in parts.items():
        others.update("pictures outside class folders" for path in files(place) if is_picture(path))
        for label, folder in subfolders(place).items():
            classes.add(label)
            for path in walked(folder):
                if is_picture(path):
                    entries.append(Entry(path, path.relative_to(root).as_posix(), label, part))
                else:
                    others[f"{path.suffix.lower() or 'other'} files"] += 1
    return Listing(tuple(entries), tuple(sorted(classes)), cut, others)


def subfolders(folder: Path) -> dict[str, Path]:
    """Folders by name, in order; hidden ones are none."""
    return {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith((".", "__"))}


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def walked(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in order; a link to a folder that was walked already is not followed."""
    seen = set[str]()
    for place, names, found in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(found) if not name.startswith("."))


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


# ------------------------------------------------------------ tables


def in_table(folder: Path, table: Path) -> Listing:
    """The pictures that a CSV or Parquet file names, by paths relative to the folder, with or without a split."""
    path = table if table.is_file() or table.is_absolute() else folder / table
    listed = rows(path)
    words = {word: part for part, names in NAMES.items() for word in names}
    wrong = next((row for row in listed if row.split is not None and row.split not in words), None)
    if wrong is not None:
        raise ValueError(f"{path}, {wrong.place}: split is {', '.join(words)}, got {wrong.split!r}")
    given = {words[row.split] for row in listed if row.split is not None}
    if given and "train" not in given:
        raise ValueError(f"{path}: no row has the split train, only {', '.join(sorted(given))}")
    moved = {"validation": "test"} if "validation" in given and "test" not in given else {}
    given = {moved.get(part, part) for part in given}
    cut = to_cut(given)
    entries = tuple(placed(folder, row, words, moved, cut) for row in listed)
    return Listing(entries, tuple(sorted({row.label for row in listed})), cut)


def placed(folder: Path, row: Row, words: dict[str, str], moved: dict[str, str], cut: tuple[str, ...]) -> Entry:
    part = None if row.split is None else moved.get(words[row.split], words[row.split])
    return Entry(folder / row.path, row.path, row.label, None if part == "train" and cut else part)
