"""The loop of every search: ask, look up or evaluate, archive, tell."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ofa.search.archive import Archive, Record
from ofa.search.crew import Crew
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
    crew: Crew | None = None,
) -> Front:
    """Search to the end and return the front; a killed run resumes by the same call on the same archive.

    `map(function, subnets)` yields results in any order: that of `workers`, `executor.map`, … run them in parallel.
    Each is archived as it is yielded, and told in the order asked; a map that waits for a whole batch risks the batch.
    `on_note` hears what the engine has to say after each batch, such as how good its predictions were.

    A `crew` waits for no batch: each of it gets another subnet as soon as it is free, each result is told as it is
    there. The subnets then depend on who was faster, and what the archive holds, others' too, counts as evaluated.

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
    books = Books(search, archive, on_result, on_note)
    if crew is not None:
        freely(books, evaluate, crew)
    else:
        in_batches(books, evaluate, map)
    return front(search)


@dataclass(frozen=True)
class Books:
    """A search, where its results are kept, and who hears of them."""

    search: Search
    archive: Archive
    on_result: Callable[[Result], Any] | None
    on_note: Callable[[str], Any] | None

    def told(self, subnet: Subnet, known: bool) -> None:
        """Say that a subnet of the archive was told; `known` if it had not to be evaluated."""
        if self.on_result is not None:
            record, metrics = self.archive.record(subnet), self.search.results[subnet]
            done, total = len(self.search.results), self.search.evaluations
            self.on_result(Result(subnet, metrics, record.seconds, known, done, total))

    def note(self) -> None:
        if self.on_note is not None and self.search.note:
            self.on_note(self.search.note)


def in_batches(books: Books, evaluate: Evaluate, map: Map) -> None:
    """Evaluate a batch, and tell it in the order asked, whoever was faster."""
    search, archive = books.search, books.archive
    while batch := search.ask():
        known = {subnet for subnet in batch if subnet in archive}
        evaluated = iter(map(partial(_timed, evaluate), [subnet for subnet in batch if subnet not in known]))
        for subnet in batch:
            while subnet not in archive:
                found, record = next(evaluated)
                archive.add(found, record.metrics, record.seconds)
            search.tell(subnet, archive.record(subnet).metrics)
            books.told(subnet, subnet in known)
        books.note()


def freely(books: Books, evaluate: Evaluate, crew: Crew) -> None:
    """Keep every one of the crew at work, and tell what each finds, and what other processes found, at once."""
    search, archive = books.search, books.archive

    def take(subnets: Iterable[Subnet]) -> None:
        for subnet in subnets:
            if search.adopt(subnet, archive.record(subnet).metrics):
                books.told(subnet, known=True)

    def ask(free: int) -> list[Subnet]:
        take(archive.refresh())
        wanted: list[Subnet] = []
        while asked := search.ask_more(free - len(wanted)):
            take(subnet for subnet in asked if subnet in archive)
            wanted += [subnet for subnet in asked if subnet not in archive]
        return wanted

    take(archive)
    for found, record in crew.flow(partial(_timed, evaluate), ask):
        if found not in archive:
            archive.add(found, record.metrics, record.seconds)
        if search.adopt(found, archive.record(found).metrics):
            books.told(found, known=False)
        if len(search.results) % search.ledger.batch == 0:
            books.note()


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
