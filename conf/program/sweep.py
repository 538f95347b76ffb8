"""Sweeps, `ofa -m`: a folder for each job, and a table over them in the end."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ofa.conf import typed

FOLDER = "runs/sweep"
CSV = "sweep.csv"
BUDGET_MISSED, FAILED = 3, 2  # exit statuses
_COLUMNS = ("run", "teacher", "networks", "best", "of its MACs", "")


def folders(overrides: Sequence[Override], groups: Sequence[str]) -> list[str]:
    """What gives each job of a sweep a folder of its own, named by what differs, in the folder that `run` names.

    A `run` with an interpolation, or with several values, is the user's own way. Jobs take over what others have
    finished with the same settings, unless `reuse` says otherwise.
    """
    reuse = [] if any(override.key_or_group == "reuse" for override in overrides) else ["reuse=true"]
    run = next((override for override in overrides if override.key_or_group == "run"), None)
    if run is not None and (run.is_sweep_override() or "$" in str(run.value())):
        return [*reuse, "hydra.sweep.dir=.", "hydra.sweep.subdir='${run}'"]
    swept = [o.get_key_element() for o in overrides if o.is_sweep_override() and not o.is_hydra_override()]
    names = [key.lstrip("+") for key in swept]
    places = [f"hydra:runtime.choices.{name}" if name in groups else name for name in names]
    parts = [f"{typed(name)}-${{typed:${{{place}}}}}" for name, place in zip(names, places, strict=True)]
    return [
        *reuse,
        f"hydra.sweep.dir={FOLDER if run is None else run.get_value_element_as_str()}",
        f"hydra.sweep.subdir='{'-'.join(parts) or 'job-${hydra:job.num}'}'",
        "run='${hydra:sweep.dir}/${hydra:sweep.subdir}'",
    ]


@dataclass(frozen=True)
class Job:
    """What a job of a sweep left in its folder."""

    folder: Path

    @property
    def overrides(self) -> dict[str, str]:
        content: Any = OmegaConf.to_container(OmegaConf.load(self.folder / ".hydra/overrides.yaml"))
        parts = [str(override).lstrip("+").partition("=") for override in content]
        return {key: value for key, _, value in parts if key != "run"}

    @property
    def front(self) -> list[dict[str, Any]]:
        """The rows of front.json; none where the job did not get there."""
        path = self.folder / "front.json"
        rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return rows

    @property
    def missed(self) -> str:
        """By how much a budget was missed; empty where it was met."""
        path = self.folder / "search.json"
        return str(json.loads(path.read_text()).get("missed", "")) if path.exists() else ""

    @property
    def error(self) -> str:
        """The last line of its log, where that is an error."""
        path = self.folder / "ofa.log"
        entries = re.findall(r"^\[[^\]]+\]\[[^\]]+\]\[(\w+)\] - (.*)$", path.read_text(), re.M) if path.exists() else []
        return entries[-1][1] if entries and entries[-1][0] in ("ERROR", "WARNING") else ""

    @property
    def status(self) -> int:
        if self.error or not self.front:
            return FAILED
        return BUDGET_MISSED if self.missed else 0

    def cells(self) -> tuple[str, ...]:
        """The job in the table: its teacher, and the most accurate of its networks."""
        note = self.error or self.missed
        if not self.front:
            return self.folder.name, "-", "-", "-", "-", note or "no front"
        teacher, *others = self.front
        best = max(others, key=lambda row: row["accuracy"], default=None)
        shown = (
            ("-", "-") if best is None else (percent(best["accuracy"]), percent(100 * best["macs"] / teacher["macs"]))
        )
        return self.folder.name, percent(teacher["accuracy"]), str(len(others)), *shown, note

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every network of its front, with the job's overrides."""
        for row in self.front:
            figures = {name: value for name, value in row.items() if name not in ("subnet", "files")}
            yield {"run": self.folder.name, **self.overrides, **figures}


def percent(value: float) -> str:
    return f"{value:.2f} %"


class Table(Callback):
    """After the last job: a table on the console and sweep.csv, over all runs in the sweep's folder.

    The program ends with the worst status among them: 2 where one failed, 3 where one missed its budget.
    """

    def on_multirun_end(self, config: DictConfig, **others: Any) -> None:
        place = Path(str(config.hydra.sweep.dir))
        jobs = [Job(path.parents[1]) for path in sorted(place.glob("*/.hydra/overrides.yaml"))]
        if place == Path() or not jobs:
            return
        write(place / CSV, [row for job in jobs for row in job.rows()])
        show(jobs, place)
        statuses = {job.status for job in jobs} - {0}
        if statuses:
            raise SystemExit(min(statuses))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One line for each network, with every column that any has."""
    from ofa.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, [*dict.fromkeys(name for row in rows for name in row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def show(jobs: Sequence[Job], place: Path) -> None:
    from rich.console import Console
    from rich.table import Table as Rows

    table = Rows(title=f"{len(jobs)} runs in {place}")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("run", "") else "right", overflow="fold")
    for job in jobs:
        table.add_row(*job.cells())
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    console.print(f"every network: {place / CSV}", markup=False)
