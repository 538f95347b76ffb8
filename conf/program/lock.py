"""One command at a time in a run folder: who holds it says so, and a dead owner's hold is taken over."""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from ofa.conf.program.records import write_json

LOCK, OWNER = ".lock", ".owner.json"
BEAT_S, STALE_S = 10.0, 120.0
"""How often an owner gives a sign of life; how long one without counts as alive where nothing else tells."""


@dataclass(frozen=True)
class Owner:
    """The command that holds a folder."""

    process: int
    host: str
    machine: str
    since: str
    command: str

    @classmethod
    def me(cls) -> Self:
        command = shlex.join([Path(sys.argv[0]).name, *(a.lstrip("+") for a in sys.argv[1:])])
        return cls(os.getpid(), platform.node(), machine(), time.strftime("%Y-%m-%d %H:%M:%S"), command)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The owner that a folder names; None where it names none."""
        try:
            return cls(**json.loads((folder / OWNER).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since} ({self.command})"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder inside, and clear away what a killed owner left half written.

    The kernel's lock on `.lock` ends with its process. It holds between machines, too, where the file system passes it
    on (NFS from version 4 on, most parallel ones); wherever it does not, a sign of life every ten seconds in
    `.owner.json` does, so that a dead owner's folder is free after two minutes.

    Raises:
        ValueError: another command holds it; says which.
    """
    with (folder / LOCK).open("a") as file:
        try:
            locked = lock(file)
        except BlockingIOError:
            raise taken(folder, Owner.load(folder)) from None
        owner = Owner.load(folder)
        if owner is not None and alive(folder, owner, locked):
            raise taken(folder, owner, f" (if it is dead: after {STALE_S:.0f} seconds)")
        for unfinished in folder.rglob(".*.partial"):
            unfinished.unlink(missing_ok=True)
        write_json(folder / OWNER, asdict(Owner.me()))
        stopped = threading.Event()
        threading.Thread(target=beat, args=(folder / OWNER, stopped), daemon=True).start()
        try:
            yield
        finally:
            stopped.set()
            (folder / OWNER).unlink(missing_ok=True)


@contextmanager
def in_turn(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Be the only process inside that names this file; a dead one's turn is over. Tells when it has to wait.

    Where there are no kernel locks, nobody waits.
    """
    with path.open("a") as file:
        try:
            lock(file)
        except BlockingIOError:
            import fcntl

            waiting()
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def lock(file: IO[Any]) -> bool:
    """Take the kernel's lock; False where there is none to take.

    Raises:
        BlockingIOError: another process has it.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: processes forked from here must not hold it
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError from None
        return False
    return True


def alive(folder: Path, owner: Owner, locked: bool) -> bool:
    """Whether an owner that left its name still works, though the kernel's lock (where it is `locked`) was free."""
    if owner.machine == machine() and (locked or (owner.host == platform.node() and gone(owner.process))):
        return False
    os.utime(folder / LOCK)  # now, by the clock of the file system
    return (folder / LOCK).stat().st_mtime - (folder / OWNER).stat().st_mtime < STALE_S


def gone(process: int) -> bool:
    """Whether there is no such process here."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def machine() -> str:
    """What two processes share that see each other's locks: on Linux the running kernel."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def beat(path: Path, stopped: threading.Event) -> None:
    """Give a sign of life until it is told to stop."""
    while not stopped.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)


def taken(folder: Path, owner: Owner | None, hint: str = "") -> ValueError:
    """What the second command says."""
    return ValueError(f"{folder} is in use by {owner or 'another process'}; wait for it{hint}, or choose another run=…")
