"""Results of experiments: rows in CSV files, written as they come, and tables of what several seeds gave."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows so far, none where there is no file."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def append(path: Path, *rows: dict[str, Any]) -> None:
    """Add rows of the same columns to the file, and show them."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
    print(*rows, sep="\n", flush=True)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows whose columns may differ, in place of what the file held; they are shown."""
    save(path, rows)
    print(path.read_text())


def save(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)


def put(path: Path, row: dict[str, Any], key: str) -> None:
    """A row in place of the one that has the same `key`; the others stay, and all are sorted by it."""
    rows = {known[key]: known for known in read(path)} | {str(row[key]): row}
    save(path, [rows[name] for name in sorted(rows)])


def by(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """The rows that have the same values in `columns`, in the order in which they came."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def spread(values: Iterable[Any], digits: int = 1) -> str:
    """Mean ± standard deviation."""
    numbers = [float(value) for value in values]
    return f"{mean(numbers):.{digits}f} ± {stdev(numbers) if len(numbers) > 1 else 0:.{digits}f}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as the documents hold it."""
    lines = [" | ".join(map(str, cells)) for cells in (headings, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(headings) + "|", *(f"| {line} |" for line in lines[1:])])
