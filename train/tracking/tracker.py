"""Tracking: every figure of a run in `metrics.jsonl`, and wherever else one asks for, such as Weights & Biases."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ofa.files import write_text, writing

Row = Mapping[str, Any]


class Mirror(ABC):
    """What else is told every figure, beside the file."""

    @abstractmethod
    def log(self, figures: Mapping[str, Any]) -> None:
        """Take in the figures of one row, named `stage/figure`."""

    @abstractmethod
    def finish(self) -> None:
        """There will be no more."""

    def leave(self, folder: Path) -> None:  # noqa: B027  # most have no use for it
        """The networks of the run folder are exported: front.json, front.html, subnets, supernet.pt."""


class Tracking(Protocol):
    """Where figures are mirrored to: a class with this one method, named in `conf/tracking/NAME.yaml`.

    >>> class Nowhere:
    ...     def start(self, folder, settings):
    ...         return None
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Tracker(Path(folder), Nowhere()).path.name
    'metrics.jsonl'
    """

    def start(self, folder: Path, settings: Mapping[str, Any]) -> Mirror:
        """Begin in the folder of a run with these settings, or go on where the same folder was left."""


class Tracker:
    """Appends rows to `folder`/metrics.jsonl, one JSON object a line, and mirrors them elsewhere if asked.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tracker = Tracker(Path(folder))
    ...     tracker.log("teacher", {"epoch": 1, "accuracy": 97.5})
    ...     tracker.path.read_text().strip()
    '{"stage": "teacher", "epoch": 1, "accuracy": 97.5}'
    """

    def __init__(
        self, folder: Path, tracking: Tracking | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._mirror = tracking.start(folder, settings or {}) if tracking is not None else None

    def log(self, stage: str, row: Row) -> None:
        """Append one row; what JSON has no word for (nan, inf) becomes null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, **plain}) + "\n")
        if self._mirror is not None:
            self._mirror.log({f"{stage}/{key}": value for key, value in row.items()})

    def rewind(self, stage: str, epoch: int) -> None:
        """Drop the rows of `stage` after `epoch`, about to be made again, and a line cut off by a kill."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _stays(line, stage, epoch)]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def leave(self) -> None:
        """Show the mirror, if there is one, what was exported."""
        if self._mirror is not None:
            self._mirror.leave(self.path.parent)

    def close(self) -> None:
        """End the mirror, if there is one."""
        if self._mirror is not None:
            self._mirror.finish()
            self._mirror = None


def _stays(line: str, stage: str, epoch: int) -> bool:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return False
    return bool(row.get("stage") != stage or row.get("epoch", 0) <= epoch)
