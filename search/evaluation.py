"""The loop of every search: ask, look up or evaluate, archive, tell."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ofa.search.archive import Archive, Record
from ofa.search.engines import Search
from ofa.search.front import Front, ScoredNetwork
from ofa.space import Subnet

Evaluate = Callable[[Subnet], Mapping[str, float]]
Evaluated = tuple[Subnet, Record]
Map = Callable[[Callable[[Subnet], Evaluated], list[Subnet]], Iterable[Evaluated]]


@dataclass(frozen=True)
class Result:
    """One subnet that now counts: its metrics and costs, and whether the archive knew it."""

    subnet: Subnet
    metrics: Mapping[str, float]
    seconds: float
    known: bool
    done: int
    total: int


def run(
    search: Search,
    evaluate: Evaluate,
    archive: Archive,
    on_result: Callable[[Result], Any] | None = None,
    map: Map = builtins.map,
    on_note: Callable[[str], Any] | None = None,
) -> Front:
    """Search to the end and return the front; a killed run resumes by the same call on the same archive.

    `map(function, subnets)` yields results in any order: that of `workers`, `executor.map`, … run them in parallel.
    Each is archived as it is yielded, and told in the order asked; a map that waits for a whole batch risks the batch.
    `on_note` hears what the engine has to say after each batch, such as how good its predictions were.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from ofa import Choice, SearchSpace
    >>> from ofa.search import Problem, RandomSearch
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy", "macs"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> search = RandomSearch(population=3, evaluations=3).start(problem)
    >>> with tempfile.TemporaryDirectory() as folder, Archive(Path(folder) / "archive.sqlite") as archive:
    ...     found = run(search, lambda subnet: {"accuracy": 50.0 + subnet["stem"]}, archive)
    >>> [row.subnet["stem"] for row in found.rows]
    [8, 16, 32]
    """
    while batch := search.ask():
        known = {subnet for subnet in batch if subnet in archive}
        evaluated = iter(map(partial(_timed, evaluate), [subnet for subnet in batch if subnet not in known]))
        for subnet in batch:
            while subnet not in archive:
                found, record = next(evaluated)
                archive.add(found, record.metrics, record.seconds)
            record = archive.record(subnet)
            search.tell(subnet, record.metrics)
            if on_result is not None:
                metrics, done = search.results[subnet], len(search.results)
                on_result(Result(subnet, metrics, record.seconds, subnet in known, done, search.evaluations))
        if on_note is not None and search.note:
            on_note(search.note)
    return front(search)


def front(search: Search, teacher: ScoredNetwork | None = None) -> Front:
    """The front of what a search has been told so far; subnets are numbered in the order of evaluation."""
    rows = [
        ScoredNetwork(f"subnet-{index:04d}", subnet, metrics)
        for index, (subnet, metrics) in enumerate(search.results.items())
    ]
    return Front.of(rows, search.problem.objectives, teacher)


def _timed(evaluate: Evaluate, subnet: Subnet) -> Evaluated:
    start = time.perf_counter()
    metrics = evaluate(subnet)
    return subnet, Record(metrics, time.perf_counter() - start)
