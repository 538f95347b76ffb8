"""How a command ends that does not come to its end: a signal, what the user can mend, and what nobody expected."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from ofa.conf.program.sweep import FAILED
from ofa.signals import SIGNALS, STOPS, Bell, listening

LOG = logging.getLogger("ofa")
UNEXPECTED = 1  # exit status
FIRST = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the program with one line that says how far it came, and the status 130 or 143.

    What goes wrong in Hydra, before the run begins, ends as in the run (`complaints`).
    """
    logging.raiseExceptions = False  # a full disk is told once
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints a traceback and leaves
    try:
        with listening(Bell()), complaints(program):
            yield
    except STOPS as stop:
        for number in (*SIGNALS, *([signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else [])):
            signal.signal(number, signal.SIG_DFL)
        traceback.clear_frames(stop.__traceback__)  # lets go of loaders, which end their processes
        for child in multiprocessing.active_children():
            child.join(1)
            child.kill()
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        place = where(stop)
        tell(
            f"{program}: stopped by {number.name}{place and ' in '}{place};"
            " what is finished is kept, and the same command goes on"
        )
        raise SystemExit(128 + number) from None


@contextmanager
def complaints(program: str) -> Iterator[None]:
    """What the user can mend becomes one line and status 2; anything else three lines, the whole in ofa.log, and 1."""
    try:
        yield
    except (ValueError, OSError, OmegaConfBaseException) as error:
        tell(f"{program}: {error}", logging.ERROR)
        raise SystemExit(FAILED) from None
    except Exception as error:
        place, whole, log = where(error), traceback.format_exc(), log_file()
        LOG.error(whole)
        last = traceback.format_exception_only(error)[0].strip().split("\n")[0]
        tell(f"{program}: unexpected{place and ' in '}{place}: {last}", logging.ERROR)
        show(f"{program}: what is finished is kept; the same command goes on, if what caused it has passed")
        show(f"{program}: the whole of it is in {log}: please report it" if log else whole)
        raise SystemExit(UNEXPECTED) from None


def where(error: BaseException) -> str:
    """The stage, and how far it had come: what the notes of an error say, from the outside to the inside.

    >>> error = KeyboardInterrupt()
    >>> error.add_note("prune-01 3 of 8")
    >>> error.add_note("prune")
    >>> where(error)
    'prune-01 3 of 8'
    """
    notes: list[str] = getattr(error, "__notes__", [])
    outer = [note for note in reversed(notes[1:]) if not notes[0].startswith(note)]
    return ", ".join([*outer, *notes[:1]])


def tell(text: str, level: int = logging.WARNING) -> None:
    """A line on the terminal and in ofa.log."""
    show(text)
    if FIRST:
        LOG.log(level, text)


def show(text: str) -> None:
    """A line on the terminal, where no other process of torchrun says the same."""
    if FIRST:
        print(text, file=sys.stderr, flush=True)


def log_file() -> Path | None:
    """Where Hydra writes the log."""
    files = [h.baseFilename for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    return Path(files[-1]) if files else None
