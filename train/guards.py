"""Guards of a long training: a request to stop is met with a checkpoint, a collapse with the last good one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Collapse(ValueError):
    """A model got far worse than it was, or an epoch had no finite step."""


class Terminated(SystemExit):
    """SIGTERM came; everything done is on the disk."""


class Bell:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.rung = False

    def ring(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.rung = True


@contextmanager
def listening(bell: Bell) -> Iterator[None]:
    """Ring the bell on SIGTERM inside, instead of dying; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, bell.ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
