"""Progress of a long stage: a live bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

SECONDS, SHARE = 10.0, 0.01
"""Without a terminal a line comes after so many seconds at the earliest, and so much more of the work."""


class Progress:
    """How far a stage is, the figures that matter, and what is left.

    Use it in a `with` statement; `advance` counts units of work done. `quiet` shows nothing.
    """

    def __init__(
        self, stage: str, total: int | None = None, *, console: Console | None = None, quiet: bool = False
    ) -> None:
        self.stage = stage
        self.total = total
        self.quiet = quiet
        self.done = 0
        self.figures: dict[str, float] = {}
        self.console = console or Console(stderr=True)
        self._started = time.perf_counter()
        self._before = 0  # done when this process began
        self._told, self._told_at = 0, self._started  # done at the last plain line, and its time
        self._bar = Bar(*_columns(), console=self.console, disable=quiet or not self.console.is_terminal)
        self._task = self._bar.add_task(stage, total=total, figures="")

    def expect(self, total: int, done: int = 0) -> None:
        """Say how much work there is, and how much of it an earlier run has done."""
        self.total, self.done, self._before = total, done, done
        self._told = done
        self._bar.update(self._task, total=total, completed=done)

    def advance(self, **figures: float) -> None:
        """Count one more unit of work, and show the latest figures."""
        self.done += 1
        self.figures |= figures
        if not self._bar.disable:
            self._bar.update(self._task, advance=1, figures=self._shown())
        elif not self.quiet and self.total and self._due(self.total):
            self._told, self._told_at = self.done, time.perf_counter()
            self.console.print(self._line(), highlight=False, soft_wrap=True)

    def _due(self, total: int) -> bool:
        enough = self.done - self._told >= SHARE * total
        return self.done == total or (enough and time.perf_counter() - self._told_at >= SECONDS)

    def _shown(self) -> str:
        return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.figures.items())

    def _line(self) -> str:
        total = self.total or self.done
        seconds = time.perf_counter() - self._started
        left = seconds / max(self.done - self._before, 1) * (total - self.done)
        clock = f"{_clock(left)} left" if self.done < total else f"took {_clock(seconds)}"
        return f"{self.stage}  {100 * self.done // total} %  {self.done}/{total}  {self._shown()}  {clock}"

    def __enter__(self) -> Self:
        self._started = self._told_at = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if error is not None:
            error.add_note(f"{self.stage} {self.done} of {self.total}" if self.total else self.stage)


def _columns() -> tuple[ProgressColumn, ...]:
    figures = TextColumn("{task.fields[figures]}")
    bar = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return (*bar, figures, TimeElapsedColumn(), TimeRemainingColumn())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
