"""The console program `ofa-compare`: runs side by side, means over seeds, and which are told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.conf.program.arguments import refused, words_or_usage
from ofa.conf.program.building import hint
from ofa.conf.program.folder import SETTINGS, RunFolder
from ofa.conf.program.records import differences
from ofa.conf.program.sweep import Job, write

if TYPE_CHECKING:
    from rich.console import Console

    from ofa.search.comparison import Comparison, Outcome

NAME, FILE = "ofa-compare", "front.json"
USAGE = """ofa-compare: runs side by side, on the test split; runs that differ in their seed alone are one kind.

  ofa-compare runs/sweep                       # all runs in a sweep's folder
  ofa-compare runs/a-0 runs/a-1 runs/b-0       # or these
  ofa-compare runs/sweep out=runs/compared     # table.csv, .md, .tex and .html, picture.png, networks.csv as well
  ofa-compare runs/sweep figure='at 50 %'      # pairs by another figure than the area under the front
  ofa-compare runs/sweep by=method,budget.macs # kinds by these settings alone, whatever else differs

Under a share of the teacher's MACs the network counts that is best on the validation split."""


@dataclass(frozen=True)
class Finished:
    """The folder of a run that has a front."""

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All of its stages, by dotted name."""
        stages = RunFolder(self.folder, writes=False).read(SETTINGS, {})
        return {key: value for stage in stages.values() for key, value in stage.items()}

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 0))

    @property
    def words(self) -> dict[str, Any]:
        """What can tell its kind: what was typed, where a sweep noted it, or else all settings; seeds tell none."""
        typed = Job(self.folder).overrides if (self.folder / ".hydra/overrides.yaml").exists() else self.settings
        return {key: value for key, value in typed.items() if key.rpartition(".")[2] not in ("seed", "run", "reuse")}

    def outcome(self, kind: str) -> Outcome:
        """What is compared of it.

        Raises:
            ValueError: its front is damaged or empty, or has no teacher.
        """
        from ofa.search import Front
        from ofa.search.comparison import Outcome

        folder = RunFolder(self.folder, writes=False)
        front = Front.from_json(folder.read(FILE), ["accuracy", "macs"])
        if front.teacher is None or not front.rows:
            raise ValueError(f"{self.folder / FILE} has no networks beside the teacher's")
        return Outcome(kind, self.seed, front, sum((folder.times or {"all": float("nan")}).values()))


def runs(folders: Iterable[Path]) -> list[Finished]:
    """The finished runs: folders themselves, or those directly within.

    Raises:
        ValueError: a folder holds none.
    """
    found: list[Finished] = []
    for folder in folders:
        inside = [folder] if (folder / FILE).exists() else sorted(path.parent for path in folder.glob(f"*/{FILE}"))
        if not inside:
            raise ValueError(f"no finished run in {folder}: {FILE} is written by the stage export")
        found += map(Finished, inside)
    return found


def compared(folders: Sequence[Path], by: Sequence[str] = ()) -> Comparison:
    """The runs in folders, by kind: by what differs, or by some settings.

    Raises:
        ValueError: none is finished there, two were tested on different pictures or are of one kind and seed, or no run
            was told such a setting.
    """
    from ofa.search.comparison import Comparison

    found = runs(folders)
    check_splits(found)
    keys = {key for run in found for key in run.words}
    for key in by:
        if key not in keys:
            raise ValueError(f"by={key}: no run was told that; {hint(key, sorted(keys))}")
    apart = by or [key for key in sorted(keys) if len({str(run.words.get(key)) for run in found}) > 1]
    kinds = [", ".join(f"{key}={run.words[key]}" for key in apart if key in run.words) or "all" for run in found]
    known: dict[tuple[str, int], Path] = {}
    for run, kind in zip(found, kinds, strict=True):
        if (kind, run.seed) in known:
            raise ValueError(f"{known[kind, run.seed]} and {run.folder} have the same settings and the seed {run.seed}")
        known[kind, run.seed] = run.folder
    return Comparison(tuple(run.outcome(kind) for run, kind in zip(found, kinds, strict=True)))


def check_splits(found: Sequence[Finished]) -> None:
    """Refuse runs of one seed that were tested on different pictures; another seed may cut the data in another way."""
    first: dict[int | None, tuple[Finished, dict[str, Any]]] = {}
    for run in found:
        data = {key: value for key, value in run.settings.items() if key.startswith(("data.", "task."))}
        fixed = {key: value for key, value in data.items() if key != "data.seed"}
        for group, mine in ((None, fixed), (run.seed, data)):
            before, theirs = first.setdefault(group, (run, mine))
            if mine != theirs:
                told = differences(theirs, mine).replace(" was ", " is ").replace("is now ", "and ")
                raise ValueError(f"{before.folder} and {run.folder} were tested on different pictures: {told}")


def show(comparison: Comparison, figure: str, console: Console) -> None:
    """Kinds with a number each, their figures by number, which fit into 80 columns, and every two of them compared."""
    from rich.table import Table

    rows = comparison.rows()
    figures = [name for name in rows[0] if name not in ("kind", "runs", "seconds")]
    title = f"{len(comparison.outcomes)} runs, accuracy on the test split (%), mean ± sd"
    table = Table("", title=title, box=None, pad_edge=False, padding=(0, 0, 0, 1))
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        took = "" if row["seconds"] == "-" else f", {row['seconds']} s each"
        console.print(f"{number} is {row['kind']}: {row['runs']} runs{took}", markup=False)
        table.add_row(str(number), *(row[name] for name in figures))
    console.print(table)
    for pair in comparison.differences(figure):
        half = f" ± {pair.half:.2f}" if pair.seeds > 1 else ""
        console.print(
            f"{pair.figure}: {pair.one} less {pair.other}: {pair.mean:+.2f}{half} ({pair.seeds} seeds); {pair.verdict}",
            markup=False,
        )


def leave(comparison: Comparison, out: Path, console: Console) -> None:
    """Every table in every form, and the picture."""
    from ofa.files import write_text
    from ofa.search.comparison import latex, markdown

    rows = comparison.rows()
    write(out / "table.csv", rows)
    write(out / "networks.csv", comparison.networks())
    write_text(out / "table.md", markdown(rows))
    write_text(out / "table.tex", latex(rows))
    comparison.picture(out / "picture.png", f"{len(comparison.outcomes)} runs: means, from the worst to the best seed")
    write_text(out / "table.html", console.export_html())


def main() -> None:
    """Entry point."""
    words = words_or_usage(USAGE)
    from rich.console import Console

    options = ("out=", "figure=", "by=")
    given = dict(word.split("=", 1) for word in words if word.startswith(options))
    folders = [Path(word) for word in words if not word.startswith(options)]
    console = Console(highlight=False, soft_wrap=True, record=True)
    if not console.is_terminal:
        console.width = 160
    try:
        comparison = compared(folders, given["by"].split(",") if "by" in given else ())
        figure = given.get("figure", "area")
        known = [*comparison.outcomes[0].figures]
        if figure not in known:
            raise ValueError(f"figure is one of {', '.join(known)}, got {figure!r}")
        show(comparison, figure, console)
        if "out" in given:
            leave(comparison, Path(given["out"]), console)
            console.print(f"tables and picture: {given['out']}", markup=False)
    except (ValueError, OSError) as error:
        refused(NAME, error)


if __name__ == "__main__":
    main()
