"""A collection of pictures: those of the files that can be read, each in one part, with what was left out and why."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa.train.collection.inspection import Inspected, inspections
from ofa.train.collection.listing import PARTS, Entry, Listing
from ofa.train.collection.memory import Memory

NAMED = 5
"""Files and classes that a message names."""


@dataclass(frozen=True)
class Rules:
    """How a collection is cut, by shares of what is cut, and what is done with broken files and empty classes.

    The part of a picture depends on its content and the seed alone: it stays when others are added, and two files of
    the same content never stand in two parts.
    """

    validation: float
    test: float
    seed: int = 0
    broken: str = "skip"
    empty: str = "refuse"

    def __post_init__(self) -> None:
        for name in ("broken", "empty"):
            if getattr(self, name) not in ("skip", "refuse"):
                raise ValueError(f"{name} is skip or refuse, got {getattr(self, name)!r}")
        for name in ("validation", "test"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is a share of the pictures, between 0 and 1, got {getattr(self, name)}")
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train with")

    def part(self, content: str, cut: Iterable[str]) -> str:
        """The part of a picture of this content.

        >>> rules = Rules(validation=0.1, test=0.2)
        >>> Counter(rules.part(str(number), PARTS) for number in range(1000)).most_common()
        [('train', 684), ('test', 216), ('validation', 100)]
        """
        number = int(hashlib.sha256(f"{self.seed} {content}".encode()).hexdigest()[:13], 16) / 16**13
        for part, share in ("test", self.test), ("validation", self.validation):
            if part in cut:
                if number < share:
                    return part
                number -= share
        return "train"


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that can be read, and its part."""

    entry: Entry
    seen: Inspected
    part: str


@dataclass(frozen=True)
class Collection:
    """The pictures by part and name; `left_out` are names of files with reasons, `skipped` empty classes.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png", "test/cat/1.png",
    ...                  "test/cat/5.png", "test/dog/6.png", "train/cat/7.png"):
    ...         path = Path(folder) / name
    ...         path.parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("RGB", (8, 8), (int(path.stem), 0, 0)).save(path)
    ...     collection = Collection.of(Path(folder), None, Rules(validation=0.1, test=0.1))
    >>> collection.counts, collection.left_out
    ({'cat': (1, 1, 2), 'dog': (1, 1, 1)}, (('train/cat/1.png', 'the same picture is in test'),))
    """

    folder: Path
    listing: Listing
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, table: Path | None, rules: Rules) -> Collection:
        """List, check and cut the pictures.

        Raises:
            ValueError: nothing is there, a file is broken or a class empty where the rules refuse that, or there are
                fewer than two classes.
        """
        listing = Listing.of(folder, table)
        classes, empty = occupied(folder, listing, listing.entries, rules)
        entries = [entry for entry in listing.entries if entry.label in classes]
        with contextlib.closing(Memory.of(folder)) as memory:
            seen = inspections([entry.path for entry in entries], memory)
        broken = tuple((e.name, s.broken) for e, s in zip(entries, seen, strict=True) if s.broken)
        if broken and rules.broken == "refuse":
            raise ValueError(f"{folder}: {described(broken)}; data.broken=skip leaves such files out")
        whole = [(e, s) for e, s in zip(entries, seen, strict=True) if not s.broken]
        classes, broke = occupied(folder, listing, [e for e, _ in whole], rules, classes)
        pictures = [Picture(e, s, e.part or rules.part(s.digest, listing.cut)) for e, s in whole if e.label in classes]
        kept, copies = without_copies(pictures)
        check_training(folder, kept, classes)
        return cls(folder, listing, tuple(kept), classes, (*broken, *copies), (*empty, *broke))

    def part(self, name: str) -> list[Picture]:
        return [picture for picture in self.pictures if picture.part == name]

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Pictures of each class by part."""
        numbers = Counter((picture.entry.label, picture.part) for picture in self.pictures)
        return {label: tuple(numbers[label, part] for part in PARTS) for label in self.classes}

    @property
    def contents(self) -> dict[str, str]:
        """What each part holds: how many pictures, and a digest of their names, classes and contents."""
        return {part: digest(self.part(part)) for part in PARTS}

    @property
    def duplicates(self) -> int:
        """Files whose content another one of the collection has, too, beyond the first of them."""
        return len(self.pictures) - len({picture.seen.digest for picture in self.pictures})

    @property
    def contradictions(self) -> list[list[str]]:
        """Names of files that have the same content, and another class."""
        same: dict[str, list[Entry]] = {}
        for picture in self.pictures:
            same.setdefault(picture.seen.digest, []).append(picture.entry)
        return [[e.name for e in entries] for entries in same.values() if len({e.label for e in entries}) > 1]


def digest(pictures: Sequence[Picture]) -> str:
    lines = sorted(f"{p.entry.name}\t{p.entry.label}\t{p.seen.digest}\n" for p in pictures)
    return f"{len(lines)} pictures, {hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"


def occupied(
    folder: Path, listing: Listing, entries: Sequence[Entry], rules: Rules, among: Sequence[str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes that have pictures wherever the user put some, and the empty ones, if these may be skipped."""
    places = sorted({entry.part or "train" for entry in listing.entries})
    there = {(entry.label, entry.part or "train") for entry in entries}
    classes = listing.classes if among is None else among
    lacking = {name: place for name in classes for place in places if (name, place) not in there}
    if lacking and rules.empty == "refuse":
        rows = [f"{name} in {place}" if len(places) > 1 else name for name, place in lacking.items()]
        raise ValueError(f"{folder}: no pictures of class {shortened(rows)}; data.empty=skip leaves such classes out")
    rest = tuple(name for name in classes if name not in lacking)
    if len(rest) < 2:
        some = f"only {rest[0]!r}" if rest else "none"
        raise ValueError(f"{folder}: two classes or more are needed, there is {some} (a class is a folder of pictures)")
    return rest, tuple(lacking)


def without_copies(pictures: Iterable[Picture]) -> tuple[list[Picture], list[tuple[str, str]]]:
    """The pictures but for those that a later part has, too, and these with a reason."""
    last: dict[str, str] = {}
    for picture in (pictures := list(pictures)):
        last[picture.seen.digest] = max(picture.part, last.get(picture.seen.digest, ""), key=("", *PARTS).index)
    kept = [picture for picture in pictures if last[picture.seen.digest] == picture.part]
    copies = [p for p in pictures if last[p.seen.digest] != p.part]
    return kept, [(p.entry.name, f"the same picture is in {last[p.seen.digest]}") for p in copies]


def check_training(folder: Path, pictures: Iterable[Picture], classes: Iterable[str]) -> None:
    """Raise a ValueError where a class has nothing to learn from, or a part no picture at all."""
    there = {(p.entry.label, p.part) for p in pictures}
    lacking = [name for name in classes if (name, "train") not in there]
    if lacking:
        raise ValueError(
            f"{folder}: no picture of class {shortened(lacking)} is left to train with; add some, or give another"
            " data.seed"
        )
    missing = [part for part in PARTS if part not in {p for _, p in there}]
    if missing:
        raise ValueError(f"{folder}: no picture is left for {missing[0]}; add some, or raise data.{missing[0]}")


def described(files: Sequence[tuple[str, str]]) -> str:
    """Broken files with the reasons."""
    number = f"{len(files)} broken file{'s' if len(files) > 1 else ''}"
    return f"{number}: {shortened([f'{name} ({reason})' for name, reason in files])}"


def shortened(words: Sequence[str] | Mapping[str, object]) -> str:
    """The first few, and how many there are besides.

    >>> shortened(["cat", "dog"]), shortened([*"abcdefgh"])
    ('cat, dog', 'a, b, c, d, e and 3 more')
    """
    names = list(words)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
