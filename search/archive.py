"""Everything evaluated, on disk before it counts: one SQLite row an evaluation."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ofa.files import wants_room, writing
from ofa.space import Subnet

_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    position INTEGER PRIMARY KEY, subnet TEXT NOT NULL UNIQUE, metrics TEXT NOT NULL, seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS context (name TEXT PRIMARY KEY, digest TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Record:
    """One evaluation: what was found, and how long it took."""

    metrics: Mapping[str, float]
    seconds: float


class Archive(Mapping[Subnet, Mapping[str, float]]):
    """The metrics of every evaluated subnet, in the order of evaluation; survives the death of its process.

    `context` says what the metrics hold for (digests of the space, the weights, the data, …). Subnets must be
    canonical, as `SearchSpace.canonical` makes them: their JSON is the key.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Archive(Path(folder) / "archive.sqlite") as archive:
    ...     archive.add(Subnet({"stem": 8}), {"accuracy": 90.0})
    ...     archive[Subnet({"stem": 8})]["accuracy"], len(archive)
    (90.0, 1)

    Raises:
        ValueError: the file cannot be written, is damaged, or was made in another context.
    """

    def __init__(self, path: str | Path, context: Mapping[str, str] | str = "") -> None:
        self.path = Path(path)
        self.context = {"format": "1"} | ({"context": context} if isinstance(context, str) else dict(context))
        self._records: dict[Subnet, Record] = {}
        self._position = 0  # of the last row that was read
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"cannot write the archive {self.path}: {error}") from None
        try:
            with writing(self.path):
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            damage = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            self._database.executescript(_SCHEMA)
            self._check_context()
            self.refresh()
        except sqlite3.OperationalError as error:
            if wants_room(error):
                raise
            raise ValueError(f"cannot use the archive {self.path}: {error}") from None
        except (sqlite3.DatabaseError, _DamagedRow) as error:
            raise ValueError(
                f"the archive {self.path} is damaged ({error}) and was left as it is; move it away to start a new one"
            ) from None

    def _check_context(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        stored = dict(self._database.execute("SELECT name, digest FROM context"))
        if not stored:
            self._database.executemany("INSERT INTO context VALUES (?, ?)", self.context.items())
            stored = self.context
        self._database.execute("COMMIT")
        names = sorted(n for n in stored.keys() | self.context.keys() if stored.get(n) != self.context.get(n))
        if names:
            changes = ", ".join(f"{n} was {stored.get(n, 'not given')!r}, is {self.context.get(n)!r}" for n in names)
            raise ValueError(f"the archive {self.path} was made in another context: {changes}; use another folder")

    def add(self, subnet: Subnet, metrics: Mapping[str, float], seconds: float = 0.0) -> None:
        """Commit one evaluation to disk; where another process made it meanwhile, that one counts.

        Raises:
            ValueError: this subnet is there already, a metric is no number, or the disk refuses.
            DiskFull: there is no room.
        """
        try:
            numbers = {name: float(value) for name, value in metrics.items()}
        except (TypeError, ValueError):
            raise ValueError(f"metrics are numbers by name, got {dict(metrics)}") from None
        try:
            with writing(self.path):
                self._database.execute(
                    "INSERT INTO evaluations (subnet, metrics, seconds) VALUES (?, ?, ?)",
                    (_key(subnet), json.dumps(numbers), float(seconds)),
                )
        except sqlite3.IntegrityError:
            if subnet in self:
                raise ValueError(f"the archive {self.path} already holds {subnet}") from None
            self._adopt(subnet)
            return
        except sqlite3.DatabaseError as error:
            raise ValueError(f"cannot write the archive {self.path}: {error}") from None
        self._records[subnet] = Record(numbers, float(seconds))

    def refresh(self) -> list[Subnet]:
        """Take in what other processes committed since, and give it."""
        query = "SELECT position, subnet, metrics, seconds FROM evaluations WHERE position > ? ORDER BY position"
        rows = self._database.execute(query, (self._position,)).fetchall()
        self._position = rows[-1][0] if rows else self._position
        restored = [_restored(*row[1:]) for row in rows]
        news = {subnet: record for subnet, record in restored if subnet not in self._records}
        self._records.update(news)
        return list(news)

    def _adopt(self, subnet: Subnet) -> None:
        """Take in an evaluation that another process committed."""
        row = "SELECT subnet, metrics, seconds FROM evaluations WHERE subnet = ?"
        known, record = _restored(*self._database.execute(row, (_key(subnet),)).fetchone())
        self._records[known] = record

    def record(self, subnet: Subnet) -> Record:
        """Metrics and duration of one evaluation; a KeyError if it was not made."""
        return self._records[subnet]

    def __getitem__(self, subnet: Subnet) -> Mapping[str, float]:
        return self._records[subnet].metrics

    def __iter__(self) -> Iterator[Subnet]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _DamagedRow(Exception):
    """A row that no archive writes."""


def _key(subnet: Subnet) -> str:
    return json.dumps(dict(subnet), sort_keys=True)


def _restored(subnet: str, metrics: str, seconds: float) -> tuple[Subnet, Record]:
    try:
        numbers = {name: float(value) for name, value in json.loads(metrics).items()}
        return Subnet.from_json(subnet), Record(numbers, float(seconds))
    except (ValueError, TypeError, AttributeError):
        raise _DamagedRow(f"row {subnet!r:.60} {metrics!r:.60}") from None
