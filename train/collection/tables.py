"""Tables that name pictures: CSV, or Parquet where pyarrow is installed; CSV is written, too."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.files import replacing

WANTED, OPTIONAL = ("path", "label"), "split"


@dataclass(frozen=True, slots=True)
class Row:
    """One picture; `place` says where in the table it stands."""

    place: str
    path: str
    label: str
    split: str | None


def rows(path: Path) -> list[Row]:
    """The rows of a table with the columns path, label and, if it likes, split (in every row or in none).

    Raises:
        ValueError: the table cannot be read, lacks a column, or has an empty cell.
    """
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet"):
        raise ValueError(f"data.table is a .csv, .tsv or .parquet file, got {path}")
    try:
        records = list(parquet(path) if path.suffix.lower() == ".parquet" else separated(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the table {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    columns = list(records[0][1]) if records else []
    lacking = [name for name in WANTED if name not in columns]
    if records and lacking:
        raise ValueError(f"{path} lacks the column {lacking[0]}; it has {', '.join(columns)}")
    return [checked(path, place, record, OPTIONAL in columns) for place, record in records]


def write_rows(path: Path, pictures: Iterable[tuple[str, str, str]]) -> None:
    """A CSV file of paths, labels and splits that `rows` reads.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rows(path := Path(folder) / "pictures.csv", [("cat/1.png", "cat", "test")])
    ...     [(row.path, row.label, row.split) for row in rows(path)]
    [('cat/1.png', 'cat', 'test')]
    """
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*WANTED, OPTIONAL))
        writer.writerows(pictures)


def checked(path: Path, place: str, record: dict[str, Any], split: bool) -> Row:
    cells = {
        name: str(record.get(name) if record.get(name) is not None else "").strip() for name in (*WANTED, OPTIONAL)
    }
    empty = [name for name in (*WANTED, *([OPTIONAL] if split else [])) if not cells[name]]
    if empty:
        raise ValueError(f"{path}, {place}: {empty[0]} is empty")
    return Row(place, cells["path"], cells["label"], cells["split"].lower() if split else None)


def separated(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a CSV file by their numbers; commas, semicolons or tabs separate its columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        for record in (reader := csv.DictReader(file, delimiter=max(",;\t", key=header.count))):
            yield f"line {reader.line_num}", record


def parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a Parquet file by their numbers."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise ValueError(f"{path}: Parquet files are read by pyarrow; pip install pyarrow, or save it as CSV") from None
    try:
        for number, record in enumerate(read_table(path).to_pylist(), 1):
            yield f"row {number}", record
    except ArrowException as error:
        raise ValueError(f"the table {path} cannot be read: {str(error).splitlines()[0]}") from None
