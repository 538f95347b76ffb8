"""A tracker: every figure on a line of a text file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class Lines:
    def __init__(self, path: Path) -> None:
        self.file = path.open("a")

    def log(self, figures: Mapping[str, float]) -> None:
        self.file.writelines(f"{name} {value}\n" for name, value in figures.items())

    def leave(self, folder: Path) -> None:
        self.file.write(f"networks in {folder / 'subnets'}\n")

    def finish(self) -> None:
        self.file.close()


@dataclass(frozen=True)
class TextFile:
    name: str = "figures.txt"

    def start(self, folder: Path, settings: Mapping[str, object]) -> Lines:
        return Lines(folder / self.name)
