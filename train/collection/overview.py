"""What there is to learn from, as one table before the first epoch, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ofa.train.collection.collection import Collection, described, shortened
from ofa.train.collection.inspection import statistics
from ofa.train.collection.listing import PARTS, counted
from ofa.train.collection.reading import CONVERTED

WIDTH, NAME = 79, 30
ROWS = 16
"""Classes that a table shows at most: of more, the largest and the smallest."""
FEW, UNEVEN = 30, 5
"""Pictures below which a class is said to have few; times that the largest class is the smallest to be uneven."""


@dataclass(frozen=True)
class Overview:
    """Pictures of each class by part, figures by name for JSON, and `lines` for people: (what of, text).

    `files` are the path, class and part of each picture that has a file of its own.

    >>> Overview({"cat": (40, 5, 5), "dog": (20, 3, 0)}).remarks
    ('fewer than 30 pictures: dog (23)', 'no test pictures: dog; what is said of test leaves them out')
    """

    counts: Mapping[str, tuple[int, ...]]
    figures: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str, str], ...] = ()

    @property
    def uneven(self) -> bool:
        """Whether accuracy alone says little, as one class has many more training pictures than another."""
        numbers = [row[0] for row in self.counts.values()]
        return max(numbers) >= UNEVEN * max(min(numbers), 1)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know before training on this."""
        return tuple(remarks(self))

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": {name: dict(zip(PARTS, row, strict=True)) for name, row in self.counts.items()},
            "uneven": self.uneven,
            **self.figures,
            "remarks": list(self.remarks),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """At most 80 columns wide."""
        below = Table.grid(padding=(0, 2))
        below.width = min(WIDTH, console.width)
        for what, text in (*self.lines, *(("note", remark) for remark in self.remarks)):
            below.add_row(Text(what), Text(text, overflow="fold"))
        yield counts_table(self.counts)
        yield below


def counts_table(counts: Mapping[str, tuple[int, ...]]) -> Table:
    """Classes with their pictures by part."""
    table = Table(box=SIMPLE_HEAD, show_footer=True)
    whole = [sum(column) for column in zip(*counts.values(), strict=True)]
    table.add_column("class", footer=f"all {len(counts)}", max_width=NAME, overflow="ellipsis", no_wrap=True)
    for part, number in zip((*PARTS, "all"), (*whole, sum(whole)), strict=True):
        table.add_column(part, footer=f"{number:,}", justify="right", no_wrap=True)
    rows = list(counts.items())
    hidden = len(rows) - ROWS
    if hidden > 0:
        rows.sort(key=lambda row: -sum(row[1]))
    for i, (name, row) in enumerate(rows):
        if hidden <= 0 or i < ROWS // 2 or i >= len(rows) - ROWS // 2:
            table.add_row(Text(name), *(f"{number:,}" for number in (*row, sum(row))))
        elif i == ROWS // 2:
            table.add_row(Text(f"… {hidden} more", style="dim"))
    return table


def remarks(overview: Overview) -> Iterator[str]:
    counts = overview.counts
    few = [f"{name} ({sum(row)})" for name, row in counts.items() if sum(row) < FEW]
    if few:
        yield f"fewer than {FEW} pictures: {shortened(few)}"
    for i, part in enumerate(PARTS):
        lacking = [name for name, row in counts.items() if not row[i]]
        if lacking:
            yield f"no {part} pictures: {shortened(lacking)}; what is said of {part} leaves them out"
    if overview.uneven:
        most, least = (choose(counts, key=lambda name: counts[name][0]) for choose in (max, min))
        yield (
            f"{most} has {counts[most][0]} training pictures, {least} {counts[least][0]}: accuracy alone misleads, the"
            " balanced accuracy (each class counts the same) stands beside it; data.balanced=true draws all classes"
            " equally often, objectives=[balanced_accuracy,macs] searches by it"
        )


def overview(collection: Collection, network: str, preprocessing: Mapping[str, Any]) -> Overview:
    """The overview of a collection, with what a network sees of its pictures in words and in figures.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from ofa.train.collection import Rules
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(80):
    ...         path = Path(folder) / f"{i % 2}" / f"{i}.png"
    ...         path.parent.mkdir(exist_ok=True)
    ...         Image.new("L", (8, 9), i).save(path)
    ...     collection = Collection.of(Path(folder), None, Rules(validation=0.2, test=0.2))
    >>> told = overview(collection, "sees 8 x 8 pixels", {"size": [8, 8]})
    >>> told.lines[1:3]
    (('sizes', '8 x 9 to 8 x 9, median 8 x 9'), ('modes', '80 in L (grey, as three equal channels)'))
    """
    seen = [picture.seen for picture in collection.pictures]
    mean, deviation = statistics(seen)
    modes = Counter(s.mode for s in seen)
    sizes = [(s.width, s.height) for s in seen]
    figures = {
        "folder": str(collection.folder),
        "sizes": {
            "smallest": min(sizes, key=np.prod),
            "median": tuple(int(n) for n in np.median(sizes, axis=0)),
            "largest": max(sizes, key=np.prod),
        },
        "modes": dict(modes.most_common()),
        "turned": sum(s.turned for s in seen),
        "mean": mean,
        "std": deviation,
        "duplicates": collection.duplicates,
        "contradictions": collection.contradictions,
        "left_out": dict(collection.left_out),
        "empty": list(collection.skipped),
        "others": dict(collection.listing.others),
        "contents": collection.contents,
        "preprocessing": dict(preprocessing),
    }
    lines = ("cut", origin(collection)), *described_pictures(figures), *missing(collection), ("network", network)
    files = tuple((picture.entry.name, picture.entry.label, picture.part) for picture in collection.pictures)
    return Overview(collection.counts, figures, lines, files)


def origin(collection: Collection) -> str:
    """Who said which picture is in which part."""
    given, cut = collection.listing.given, collection.listing.cut
    if not cut:
        return f"{', '.join(PARTS)} as given"
    by = f"{', '.join(cut)} by the content of each file (it stays where it is when others are added)"
    return f"{by}; {', '.join(given)} as given" if given else by


def described_pictures(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    sizes = {name: f"{width} x {height}" for name, (width, height) in figures["sizes"].items()}
    yield "sizes", f"{sizes['smallest']} to {sizes['largest']}, median {sizes['median']}"
    modes = figures["modes"].items()
    yield (
        "modes",
        "; ".join(f"{n} in {mode}{f' ({CONVERTED[mode]})' if mode in CONVERTED else ''}" for mode, n in modes),
    )
    if figures["turned"]:
        yield "turned", f"{figures['turned']} by what their EXIF data say of the camera"
    mean, deviation = (" ".join(f"{value:.3f}" for value in figures[name]) for name in ("mean", "std"))
    yield "values", f"mean {mean}, sd {deviation} (red, green, blue; from 0 to 1)"
    if figures["duplicates"]:
        yield "copies", f"{figures['duplicates']} of a file that is in the same part, too"
    if figures["contradictions"]:
        first = " and ".join(figures["contradictions"][0][:2])
        number = len(figures["contradictions"])
        yield "copies", f"{number} picture{'s stand' if number > 1 else ' stands'} in two classes: {first}"


def missing(collection: Collection) -> Iterator[tuple[str, str]]:
    """What is not among the pictures, and why."""
    copies = [name for name, reason in collection.left_out if reason.startswith("the same picture")]
    broken = [(name, reason) for name, reason in collection.left_out if name not in set(copies)]
    if broken:
        yield "left out", described(broken)
    if copies:
        yield "left out", f"{len(copies)} of which a later part has a copy: {shortened(copies)}"
    if collection.skipped:
        yield "left out", f"empty classes: {shortened(collection.skipped)}"
    if collection.listing.others:
        yield "left out", counted(collection.listing.others)
