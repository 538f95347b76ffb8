"""The console program `ofa-search`: another front, or other limits, of what a run has evaluated already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.conf.program.arguments import refused, words_or_usage
from ofa.conf.program.building import hint
from ofa.conf.program.folder import RunFolder
from ofa.conf.program.records import read_json

if TYPE_CHECKING:
    from ofa.search import Front, ScoredNetwork

NAME, FILE = "ofa-search", "search.json"
USAGE = """ofa-search: what a run has evaluated, asked again; nothing is evaluated, nothing in its folder changes.

  ofa-search runs/demo                                    # the front, on the validation split
  ofa-search runs/demo macs=0.25 params=50e3              # within these limits, and the best network there
  ofa-search runs/demo objectives=accuracy,peak_bytes     # another front of the same networks
  ofa-search runs/demo page=front.html                    # to look into, with every network that was evaluated

A limit names a figure; up to 1 it is a share of the whole network's. Objectives are the run's where none are named."""


@dataclass(frozen=True)
class Question:
    """What was asked of which run folder.

    >>> Question.parse(["runs/demo", "macs=0.5", "objectives=accuracy,params"])
    Question(folder='runs/demo', limits={'macs': 0.5}, objectives=('accuracy', 'params'), page=None)
    """

    folder: str
    limits: dict[str, float]
    objectives: tuple[str, ...] | None = None
    page: str | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> Question:
        """From a folder and `name=value` words.

        Raises:
            ValueError: no folder or two, or a limit that is no number.
        """
        folders = [word for word in words if "=" not in word]
        if len(folders) != 1:
            raise ValueError(f"one run folder is asked, got {', '.join(folders) or 'none'}")
        values = dict(word.split("=", 1) for word in words if "=" in word)
        objectives, page = values.pop("objectives", None), values.pop("page", None)
        names = None if objectives is None else tuple(name.strip() for name in objectives.strip("[]").split(","))
        return cls(folders[0], {name: number(name, value) for name, value in values.items()}, names, page)


def number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name}={value}: a limit is a number") from None


def asked(question: Question) -> tuple[Front, ScoredNetwork | None]:
    """The front, and the best network within the limits, if there are some.

    Raises:
        ValueError: no search in the folder, a figure that its networks lack, or limits that none of them keeps.
    """
    from ofa.search import Front, Objective, ScoredNetwork
    from ofa.search.front import TEACHER

    path = Path(question.folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the stage 'search' there first (ofa run={question.folder} …)")
    content: dict[str, Any] = read_json(path)
    own = (RunFolder(path.parent, writes=False).made_with("search") or {}).get("objectives", ("accuracy", "macs"))
    teacher = next(ScoredNetwork.from_json(row) for row in content["front"] if row["name"] == TEACHER)
    rows = [ScoredNetwork.from_json(row) for row in content["evaluated"]]
    objectives = Objective.parse(question.objectives or [name for name in own if isinstance(name, str)])
    known = sorted(set.intersection(*(set(row.metrics) for row in rows)))
    for name in (*question.limits, *(objective.name for objective in objectives)):
        if name not in known:
            raise ValueError(f"no figure {name!r} of what was evaluated; {hint(name, known)}")
    front = replace(Front.of(rows, objectives), teacher=teacher)
    if not question.limits:
        return front, None
    inside = replace(front, rows=front.ordered(rows)).within(question.limits)
    return replace(front, rows=Front.of(inside.rows, objectives).rows), inside.best()


def main() -> None:
    """Entry point."""
    words = words_or_usage(USAGE)
    try:
        question = Question.parse(words)
        front, best = asked(question)
        title = f"{question.folder}: {len(front.evaluated)} evaluated, validation split"
        page = None if question.page is None else front.page(question.page, title)
    except (ValueError, OSError) as error:
        refused(NAME, error)
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    console.print(front.table(title))
    if best is not None and best.subnet is not None:
        console.print(f"best within the limits: {best.name}, {dict(best.subnet)}", markup=False)
    if page is not None:
        console.print(f"page: {page}", markup=False)


if __name__ == "__main__":
    main()
