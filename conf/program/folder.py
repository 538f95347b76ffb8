"""The folder of a run: what is there, what is finished, and with which settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.conf.program.lock import held
from ofa.conf.program.records import differences, digest, read_json, write_json
from ofa.files import replacing
from ofa.train.distribution import rank

SETTINGS, DONE, TIMES = "settings.json", "done.json", "times.json"


@dataclass(frozen=True)
class RunFolder:
    """A folder that can be written, of which one process writes the records; `folder / name` is the path of a file."""

    path: Path
    writes: bool = True

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """The folder, made if necessary; of the processes that torchrun starts, the first writes.

        Raises:
            ValueError: it cannot be made or written to.
        """
        probe = path / f".write-{os.getpid()}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"run folder {path} cannot be written: {error.strerror}; choose another run=…") from None
        return cls(path, rank() == 0)

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder, so that no other command works in it; the processes of torchrun are one command.

        Raises:
            ValueError: another command holds it; says which.
        """
        return held(self.path) if self.writes else nullcontext()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def read(self, name: str, default: Any = None) -> Any:
        """What a JSON file holds, or the default where there is no such file.

        Raises:
            ValueError: it is damaged.
        """
        return read_json(self.path / name) if self.has(name) else default

    def write(self, name: str, value: Any) -> None:
        """Leave a JSON file, whole or not at all."""
        write_json(self.path / name, value)

    # ------------------------------------------------------------ stages

    def made_with(self, stage: str) -> dict[str, Any] | None:
        """The settings with which a stage was begun, by dotted name; None where it never was."""
        settings: dict[str, Any] | None = self.read(SETTINGS, {}).get(stage)
        return settings

    def refuse(self, stage: str, settings: Mapping[str, Any], hint: str = "") -> None:
        """Stop before another's work is mixed with ours, or lost.

        Raises:
            ValueError: the stage was begun with other settings; names each that differs, and the way out.
        """
        before = self.made_with(stage)
        if before is not None and before != settings:
            rows = differences(before, dict(settings))
            way_out = f"choose another run=…{hint}"
            raise ValueError(f"{self.path} holds a {stage} made with other settings ({rows}); {way_out}")

    def begin(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Note what a stage is made with from now on; one that was finished with other settings is so no more."""
        if self.writes:
            if self.ended(stage) and not self.finished(stage, settings):
                self.write(DONE, {name: made for name, made in self.read(DONE).items() if name != stage})
            self.write(SETTINGS, {**self.read(SETTINGS, {}), stage: settings})

    def finish(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Note that all that the stage leaves is there."""
        if self.writes:
            self.write(DONE, {**self.read(DONE, {}), stage: digest(settings)})

    @property
    def times(self) -> dict[str, float]:
        """Seconds that each finished stage took, here or where it was taken from."""
        times: dict[str, float] = self.read(TIMES, {})
        return times

    def spent(self, stage: str, seconds: float | None) -> None:
        """Note how long a stage took, where that is known."""
        if self.writes and seconds is not None:
            self.write(TIMES, {**self.times, stage: round(seconds, 2)})

    def ended(self, stage: str) -> bool:
        """Whether it was finished, with whatever settings."""
        return stage in self.read(DONE, {})

    def beside(self, stage: str, settings: Mapping[str, Any], files: Sequence[str]) -> RunFolder | None:
        """A folder next to this one, the one changed last, that has finished a stage with these settings."""
        found = [RunFolder(path.parent, writes=False) for path in self.path.parent.glob(f"*/{DONE}")]
        whole = [other for other in found if other.finished(stage, settings) and all(map(other.has, files))]
        return max(whole, key=lambda other: (other / DONE).stat().st_mtime, default=None)

    def copy(self, source: RunFolder, name: str) -> None:
        """A file or folder of another run, under the same name."""
        if (source / name).is_dir():
            shutil.copytree(source / name, self / name, dirs_exist_ok=True)
            return
        with (source / name).open("rb") as given, replacing(self / name, binary=True) as taken:
            shutil.copyfileobj(given, taken)

    def finished(self, stage: str, settings: Mapping[str, Any]) -> bool:
        """Whether it was finished with these settings."""
        return bool(self.read(DONE, {}).get(stage) == digest(settings))
