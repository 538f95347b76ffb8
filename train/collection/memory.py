"""What was seen in files that have not changed since, in one small SQLite file for each folder of pictures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import PIL

FORMAT = "1"
SCHEMA = "CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, size INT, mtime INT, ctime INT, facts TEXT NOT NULL)"


class State(NamedTuple):
    """A state of a file: where one of these differs it is read again. Times are in nanoseconds."""

    name: str
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file's state now; zeros where it is missing."""
        try:
            state = path.stat()
        except OSError:
            return cls(str(path), 0, 0, 0)
        return cls(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def cache_folder() -> Path:
    """`$OFA_CACHE`, or `ofa-lab` in the user's cache folder; whatever lies there may be deleted at any time."""
    own = os.environ.get("OFA_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ofa-lab"


class Memory:
    """Facts by state of a file. Where its file cannot be used it lasts as long as this object."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    @classmethod
    def of(cls, folder: Path) -> Memory:
        """The memory of a folder of pictures; files are read again with another version of Pillow."""
        asked = f"{FORMAT} {PIL.__version__} {folder.resolve()}"
        path = cache_folder() / f"pictures-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(opened(path))
        except (OSError, sqlite3.Error):
            return cls(opened(":memory:"))

    def all(self) -> dict[State, list[Any]]:
        return dict(restored(row) for row in self.database.execute("SELECT * FROM files"))

    def some(self, states: Iterable[State]) -> dict[State, list[Any]]:
        """What is known of these states."""
        query = "SELECT * FROM files WHERE name = ? AND size = ? AND mtime = ? AND ctime = ?"
        return dict(restored(row) for state in states for row in self.database.execute(query, state))

    @contextlib.contextmanager
    def adding(self) -> Iterator[dict[State, list[Any]]]:
        """Inside, no other process adds; what is put into the dictionary is there for all of them afterwards."""
        added: dict[State, list[Any]] = {}
        with contextlib.suppress(sqlite3.Error):
            self.database.execute("BEGIN IMMEDIATE")
        yield added
        with contextlib.suppress(sqlite3.Error):  # a full disk: the next run reads these files again
            rows = [(*state, json.dumps(facts)) for state, facts in added.items()]
            self.database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
            self.database.execute("COMMIT")

    def close(self) -> None:
        self.database.close()


def opened(path: Path | str) -> sqlite3.Connection:
    """The database, made anew where it is damaged."""
    database = sqlite3.connect(path, timeout=600, isolation_level=None)
    try:
        database.execute(SCHEMA)
        if (damage := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(damage)
    except sqlite3.DatabaseError as error:
        database.close()
        if isinstance(error, sqlite3.OperationalError):
            raise  # it cannot be written
        Path(path).unlink()
        return opened(path)
    return database


def restored(row: tuple[Any, ...]) -> tuple[State, list[Any]]:
    *state, facts = row
    return State(*state), json.loads(facts)
