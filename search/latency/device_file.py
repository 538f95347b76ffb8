"""What was measured on a device, kept in one SQLite file over runs."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ofa.files import replacing
from ofa.search.latency.bench import Reading
from ofa.search.latency.device import Latency, LatencyDevice

CACHE = Path("~/.cache/ofa-lab/devices")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS device (fingerprint TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (fingerprint, name));
CREATE TABLE IF NOT EXISTS anchor (fingerprint TEXT NOT NULL, graph TEXT NOT NULL, quiet_ms REAL NOT NULL,
    PRIMARY KEY (fingerprint, graph));
CREATE TABLE IF NOT EXISTS measurement (position INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, graph TEXT NOT NULL,
    anchor TEXT NOT NULL, name TEXT NOT NULL, ratio REAL NOT NULL, mad REAL NOT NULL, low REAL NOT NULL,
    high REAL NOT NULL, runs INTEGER NOT NULL, features TEXT NOT NULL, taken REAL NOT NULL);
"""


@dataclass(frozen=True)
class Measurement:
    """A network that was measured: its graph's digest, name, latency, and the features that it is predicted from.

    >>> Measurement("a1", "small", Latency(1.5, 0.02, 1.45, 1.55, 200), {"macs": 1e6}).latency.median_ms
    1.5
    """

    graph: str
    name: str
    latency: Latency
    features: Mapping[str, float]


class DeviceFile:
    """Measurements on one device; those of another fingerprint in the same file are not seen.

    Several runs may write at the same time. The latest measurement of a graph counts, and an anchor is worth the least
    that it ever took.

    >>> import tempfile
    >>> from ofa.search.latency import TorchCpu
    >>> with tempfile.TemporaryDirectory() as folder, DeviceFile(Path(folder) / "cpu.sqlite", TorchCpu()) as file:
    ...     file.add("a1", "small", Reading(0.5, 0.01, 0.49, 0.51, 100), {"macs": 1e6}, anchor="b2", anchor_ms=3.0)
    ...     file["a1"].latency.median_ms
    1.5

    Raises:
        ValueError: the file cannot be written, or is none of ours.
    """

    def __init__(self, path: str | Path, device: LatencyDevice) -> None:
        self.path, self.described = Path(path), device.fingerprint
        self.fingerprint = digest(self.described)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=60)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"cannot write the device file {self.path}: {error}") from None
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_SCHEMA)
            rows = [(self.fingerprint, name, value) for name, value in self.described.items()]
            self._database.executemany("INSERT OR IGNORE INTO device VALUES (?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ValueError(
                f"the device file {self.path} cannot be used: {error}; choose another latency.file"
            ) from None

    @classmethod
    def of(cls, device: LatencyDevice, folder: Path) -> DeviceFile:
        """The file that a device names: its own, one in the cache, or one in `folder`."""
        if device.file == "cache":
            name = f"{type(device).__name__.lower()}-{digest(device.fingerprint)[:8]}.sqlite"
            return cls(CACHE.expanduser() / name, device)
        return cls(Path(device.file) if device.file else folder / "latency.sqlite", device)

    def add(
        self, graph: str, name: str, reading: Reading, features: Mapping[str, float], anchor: str, anchor_ms: float
    ) -> None:
        """Commit one measurement."""
        mine = self.fingerprint
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "INSERT INTO anchor VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET quiet_ms = min(quiet_ms, ?)",
                (mine, anchor, anchor_ms, anchor_ms),
            )
            values = (reading.ratio, reading.mad, reading.low, reading.high, reading.runs)
            row = (mine, graph, anchor, name, *values, json.dumps(dict(features)), time.time())
            columns = "fingerprint, graph, anchor, name, ratio, mad, low, high, runs, features, taken"
            self._database.execute(f"INSERT INTO measurement ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
            self._database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"cannot write the device file {self.path}: {error}") from None

    @property
    def measurements(self) -> dict[str, Measurement]:
        """The latest of each graph on this device, by its digest, in the order in which they were made."""
        rows = self._database.execute(
            "SELECT m.graph, name, ratio, mad, low, high, runs, features, quiet_ms FROM measurement m JOIN anchor a"
            " ON a.fingerprint = m.fingerprint AND a.graph = m.anchor WHERE m.fingerprint = ? ORDER BY position",
            (self.fingerprint,),
        )
        found = {}
        for graph, name, ratio, mad, low, high, runs, features, quiet in rows:
            latency = Reading(ratio, mad, low, high, runs).times(quiet)
            found[graph] = Measurement(graph, name, latency, json.loads(features))
        return found

    def __getitem__(self, graph: str) -> Measurement:
        return self.measurements[graph]

    def __contains__(self, graph: str) -> bool:
        return graph in self.measurements

    def to_csv(self, path: str | Path) -> None:
        """Write the measurements as a table: graph, name, milliseconds and interval, features."""
        rows = [
            {"graph": m.graph, "name": m.name, "ms": m.latency.median_ms, "mad_ms": m.latency.mad_ms}
            | {"low_ms": m.latency.low_ms, "high_ms": m.latency.high_ms, "runs": m.latency.runs, **m.features}
            for m in self.measurements.values()
        ]
        with replacing(Path(path)) as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def digest(fingerprint: Mapping[str, str]) -> str:
    """Identifies a device."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()[:16]
