"""SIGINT and SIGTERM: the first stops the work where it can go on, Ctrl-C once more at once; workers hear neither."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(SystemExit):
    """SIGTERM came; what is finished is on the disk."""


STOPS = (KeyboardInterrupt, Terminated)
"""What the two signals raise. Their notes (`add_note`) say how far the work had come, the innermost first."""


class Bell:
    """Whether somebody asked to stop. A `patient` one rings, and who works looks at it; any other raises at once."""

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.number = 0

    @property
    def rung(self) -> bool:
        return self.number != 0

    def ring(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals; Ctrl-C after either of them ends the process at once."""
        if self.rung:  # a cluster may send SIGTERM more than once
            if number == signal.SIGINT:
                leave(number)
            return
        self.number = number
        if not self.patient:
            self.answer()

    def answer(self) -> None:
        """Stop, if it was rung.

        Raises:
            KeyboardInterrupt: it was SIGINT.
            Terminated: it was SIGTERM, or another process was asked.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.rung:
            raise Terminated(128 + self.number)

    def ring_again(self) -> None:
        """What was raised got lost; try again when what swallowed it is over."""
        number, self.number = self.number, 0
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Raise inside, at once; also what rang before."""
        before, self.patient = self.patient, False
        try:
            self.answer()
            yield
        finally:
            self.patient = before


@contextmanager
def listening(bell: Bell) -> Iterator[None]:
    """Ring the bell on either signal inside; only the main thread may. What nobody answered is raised at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        """Python raises nothing out of a finaliser or the callback of a weak reference."""
        if isinstance(lost.exc_value, STOPS):
            bell.ring_again()
        else:
            hook(lost)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = [signal.signal(number, bell.ring) for number in SIGNALS]
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
    bell.answer()


def leave(number: int) -> None:
    """End this process at once; its workers notice, and end too."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a live bar hides the cursor
    os._exit(128 + number)


# ------------------------------------------------------------ workers


@contextmanager
def shielded() -> Iterator[None]:
    """Start processes inside: they are born deaf to both signals, until they say so themselves (`ignore`).

    This process hears what came meanwhile at the end, so that it never stops with half of its workers.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with deferred():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Neither signal is answered inside, but at the end: where other threads hear one, a mask is not enough."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    bell = Bell(patient=True)
    before = [signal.signal(number, bell.ring) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        if bell.rung:
            os.kill(os.getpid(), bell.number)


def ignore() -> None:
    """Leave both signals to the process that started this one.

    A terminal and a cluster send them to every process; the first one answers, and tells its workers.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def follow() -> None:
    """Leave both signals to the process that started this one by `multiprocessing`, and end soon after it is gone."""
    ignore()
    parent = multiprocessing.parent_process()
    if parent is not None:  # who it was when this one began: it may be gone already
        threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
