"""An engine, its settings, and a running search: asks for subnets never asked before, and is told their metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from ofa.search.engines.ledger import Ledger
from ofa.search.engines.proposer import Proposer
from ofa.search.problem import Problem
from ofa.space import Subnet


class Search:
    """The ask/tell side of an engine: a ledger of what was asked and told, and who proposes.

    The subnets asked for follow from the problem, the seed and the metrics told, in whatever order those of
    one batch come back. Nothing is asked twice. A non-finite objective counts as evaluated and is not learnt from.

    >>> from ofa import Choice, SearchSpace
    >>> from ofa.search.engines import RandomSearch
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> search = RandomSearch(population=3, evaluations=3).start(problem)
    >>> for subnet in search.ask():
    ...     search.tell(subnet, {"accuracy": 50.0 + subnet["stem"]})
    >>> search.ranked()[0], search.ask(), search.stopped
    (Subnet({'stem': 32}), [], 'all 3 evaluations are done')

    Raises:
        ValueError: no evaluations, or a budget that is out of reach; says what the space offers.
    """

    def __init__(self, problem: Problem, proposer: Proposer, evaluations: int, batch: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.ledger = Ledger(problem, evaluations, batch, self.rng)
        self.proposer = proposer
        self.stopped: str | None = None
        self._ready: list[Subnet] = []  # of a batch, those that `ask_more` did not give yet
        self._short_at = -1  # the number of results when there was nothing more to ask

    @property
    def problem(self) -> Problem:
        return self.ledger.problem

    @property
    def evaluations(self) -> int:
        """How many subnets are asked for at most."""
        return self.ledger.evaluations

    @property
    def size(self) -> str:
        """How much there is to search, and how many evaluations that gets, in words."""
        space, samples = self.problem.space, self.problem.samples
        pictures = "" if samples is None else f", {samples} pictures an evaluation"
        return f"{len(space)} choices, {space.size:.3g} combinations{pictures}: {self.evaluations} evaluations at most"

    @property
    def results(self) -> Mapping[Subnet, Mapping[str, float]]:
        """The metrics and costs of every subnet that was told, in that order."""
        return self.ledger.results

    def ask(self) -> list[Subnet]:
        """The next batch, empty once the search is over; `stopped` then says why.

        Raises:
            ValueError: subnets of the last batch have not been told.
        """
        waiting = self.ledger.waiting
        if waiting:
            raise ValueError(f"{waiting} subnets were asked for and not told yet: tell them before asking again")
        return self._batch(self.ledger.batch)

    def ask_more(self, number: int) -> list[Subnet]:
        """At most `number` subnets though others have not been told: those the engine counts as it believes them to be.

        Fewer, or none, where nothing more is known to ask for until others are told; over once none are waiting.
        What is asked for then depends on the order in which results come.
        """
        while len(self._ready) < number and self._short_at < len(self.results):
            batch = self._batch(max(self.ledger.batch, number - len(self._ready)))
            self._ready += batch
            if not batch:
                self._short_at = len(self.results)
        given, self._ready = self._ready[:number], self._ready[number:]
        return [subnet for subnet in given if subnet not in self.results]  # some may have been adopted meanwhile

    def _batch(self, most: int) -> list[Subnet]:
        """What the engine proposes next, as far as there are evaluations left."""
        ledger = self.ledger
        wanted = min(most, ledger.left)
        batch = ledger.ask(self.proposer.fresh(ledger, wanted, self.rng) if wanted > 0 else [])
        self.stopped = None if batch else self.proposer.reason(ledger)
        return batch

    def adopt(self, subnet: Subnet, metrics: Mapping[str, float]) -> bool:
        """Count what somebody else evaluated as one of the evaluations; False where it is not of this search."""
        return self.ledger.adopt(subnet, metrics)

    def tell(self, subnet: Subnet, metrics: Mapping[str, float]) -> None:
        """Report the metrics of a subnet that `ask` gave.

        Raises:
            ValueError: it was not asked for, it was told before, or an objective is missing.
        """
        self.ledger.tell(subnet, metrics)

    @property
    def note(self) -> str:
        """What the engine has to say of the rounds so far; empty if nothing."""
        return self.proposer.note(self.ledger)

    def ranked(self) -> list[Subnet]:
        """What the search led to, the best in the first objective first; nothing that is not finite."""
        return self.proposer.ranked(self.ledger)

    def leave(self, folder: Path) -> list[Path]:
        """Write the files that show how the engine came to its proposals, where it has any; gives their paths."""
        return self.proposer.leave(self.ledger, folder)


class Engine(ABC):
    """A search algorithm: a frozen dataclass of settings that says who proposes, and starts searches.

    An own engine is two small classes and one YAML; `EngineConformance` tests it as ours are tested.

    >>> from dataclasses import dataclass
    >>> from ofa import Choice, SearchSpace
    >>> class Shrinking(Proposer):
    ...     '''Every choice one option below the best so far.'''
    ...     def propose(self, ledger, number, rng):
    ...         best = max(ledger.told(), key=lambda row: row[1], default=None)
    ...         return ledger.pool[-1:] if best is None else np.maximum(best[0] - 1, 0)[None]
    >>> @dataclass(frozen=True)
    ... class Shrink(Engine):
    ...     evaluations: int = 3
    ...     def size(self, problem):
    ...         return self.evaluations, 1
    ...     def proposer(self, problem):
    ...         return Shrinking()
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> search = Shrink().start(problem)
    >>> while batch := search.ask():
    ...     search.tell(batch[0], {"accuracy": 90.0 - batch[0]["stem"]})
    >>> [subnet["stem"] for subnet in search.ranked()], search.stopped
    ([8, 16, 32], 'all 3 evaluations are done')
    """

    needs_budget: ClassVar[bool] = False  # without one it has nothing to do
    kinds: ClassVar[tuple[str, ...]] = ()  # of choices that it works on; none named: on all

    def check(self) -> None:  # noqa: B027 (most have nothing to check)
        """Refuse, before anything is trained, what cannot work: a file that is not there.

        Raises:
            ValueError: says what is missing.
        """

    @property
    def bounded(self) -> bool:
        """Whether it knows by itself where to stop, so that pruning by it needs no budget."""
        return False

    def start(self, problem: Problem, seed: int = 0) -> Search:
        """A running search; equal seeds ask for the same.

        Raises:
            ValueError: the budget is out of reach; says what the space offers.
        """
        evaluations, batch = self.size(problem)
        return Search(problem, self.proposer(problem), evaluations, batch, seed)

    @abstractmethod
    def size(self, problem: Problem) -> tuple[int, int]:
        """How many subnets are asked for at most, and how many at a time."""

    @abstractmethod
    def proposer(self, problem: Problem) -> Proposer:
        """Who proposes: new for every search, so that what it keeps is that search's own."""
