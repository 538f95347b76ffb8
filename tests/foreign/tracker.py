"""A tracker: every figure on a line of a text file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ofa.train.tracking import Mirror


class Lines(Mirror):
    def __init__(self, path: Path) -> None:
        self.file = path.open("a")

    def log(self, figures: Mapping[str, float]) -> None:
        self.file.writelines(f"{name} {value}\n" for name, value in figures.items())

    def finish(self) -> None:
        self.file.close()


@dataclass(frozen=True)
class TextFile:
    def start(self, folder: Path, settings: Mapping[str, object]) -> Lines:
        return Lines(folder / "figures.txt")
