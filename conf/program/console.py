"""The console of a run, whose lines stand in the log, too."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import rich.console
from rich.control import Control

WIDTH = 120
SILENCE = 11.0
"""Seconds after which a line says that a stage is under way where nothing else did."""
LOG = logging.getLogger("ofa")


class Console(rich.console.Console):
    """Lines for people, and the same with the time for the logger `ofa`: Hydra writes it to ofa.log.

    Without a terminal a line is as wide as it is, and a table as wide as it needs to be, up to a limit.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet=quiet, highlight=False, soft_wrap=True)
        if not self.is_terminal:
            self.width = WIDTH

    @contextmanager
    def busy(self, name: str) -> Iterator[None]:
        """Inside, a terminal shows that something is under way, also between the bars; elsewhere no silence is long."""
        if self.quiet:
            yield
        elif self.is_terminal:
            with self.status(name):
                yield
        else:
            ended = Event()
            thread = Thread(target=self._tell, args=(name, ended), daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()

    def _tell(self, name: str, ended: Event) -> None:
        """A line whenever none was printed for long, until it has ended."""
        self._printed = started = time.monotonic()
        while not ended.wait(max(self._printed + SILENCE - time.monotonic(), 0)):
            if (now := time.monotonic()) >= self._printed + SILENCE:
                self.print(f"{name}: under way for {timedelta(seconds=round(now - started))}", markup=False)

    def print(self, *objects: Any, **options: Any) -> None:
        self._printed = time.monotonic()
        super().print(*objects, **options)
        if not self.quiet and not any(isinstance(o, Control) for o in objects):  # a live bar moves by these
            LOG.info(plain(*objects, **options))


def plain(*objects: Any, **options: Any) -> str:
    """What is printed as text: without colours, and without blanks at the ends of lines."""
    text = io.StringIO()
    rich.console.Console(file=text, width=WIDTH, no_color=True, soft_wrap=True).print(*objects, **options)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
