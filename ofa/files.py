"""Files that are written whole or not at all, by as many processes as like to; and a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room, no quota, no larger file


class DiskFull(OSError):
    """There is no room for a file, or for a folder's files: which one, what it needs, and what is free."""

    @classmethod
    def of(cls, path: Path, needed: int | None = None) -> Self:
        free = shutil.disk_usage(next(place for place in (path, *path.resolve().parents) if place.is_dir())).free
        needs = "" if needed is None else f" of the {needed / 1e6:.1f} MB that it needs"
        return cls(
            f"{path} cannot be written: {free / 1e6:.1f} MB{needs} are free there;"
            " make room (or raise the quota), and the same command goes on"
        )


@contextlib.contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Say which file, or whose folder's, had no room, however a library inside says so; `needed` is in bytes.

    Raises:
        DiskFull: what failed inside failed for want of room.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:  # libraries that write have errors of their own
        if not wants_room(error):
            raise
        raise DiskFull.of(path, needed) from error


def wants_room(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the disk is full."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or "No space left on device" in str(error):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def replacing(path: Path, binary: bool = False, needed: int | None = None) -> Iterator[IO[Any]]:
    """A file that takes the name `path` once it is closed and on the disk; the folder is made.

    Until then, and where writing fails, what had the name before stays. Every writer has a file of its own, so that
    processes which write the same path at the same time leave what one of them wrote.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "settings.json"
    >>> with replacing(path) as file:
    ...     _ = file.write("{}")
    >>> path.read_text()
    '{}'
    """
    with writing(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with unfinished.open("xb" if binary else "x", encoding=None if binary else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
