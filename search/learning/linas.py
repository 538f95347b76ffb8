"""LINAS (Cummings et al., 2022; DyNAS-T): models of every objective, costs too, and NSGA-II on them, in rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.search import sampling
from ofa.search.engines import Engine, Individual, Ledger, Proposer, check_numbers, survivors, usual_evaluations
from ofa.search.learning.belief import Belief
from ofa.search.learning.inner import Inner
from ofa.search.learning.surrogates import Ridge
from ofa.search.problem import Problem
from ofa.space import Genome


@dataclass(frozen=True)
class Linas(Engine):
    """Settings of LINAS: `population` subnets a round, the first ones drawn, then those that NSGA-II finds on ridges.

    `evaluations` is the number of all subnets, `generations` that of NSGA-II's on the ridges.
    Its waste on subnets that were evaluated before is spared; that costs are learned is its own.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(4)))
    >>> problem = Problem.parse(space, ["accuracy", "macs"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> len(Linas(population=8, evaluations=16).start(problem).ask())
    8
    """

    population: int = 50
    evaluations: int | None = None
    generations: int = 100

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, self.population)

    def size(self, problem: Problem) -> tuple[int, int]:
        return self.evaluations or usual_evaluations(problem), self.population

    def proposer(self, problem: Problem) -> Proposer:
        return Rounds(self, problem)


class Rounds(Proposer):
    """LINAS under way."""

    def __init__(self, settings: Linas, problem: Problem) -> None:
        self.settings = settings
        self.belief = Belief(problem, Ridge, exact=False)
        self.inner = Inner(problem, settings.population, settings.generations)
        self._proposed_at = -1

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        told = ledger.told()
        if len(told) < 4 or self._proposed_at == len(ledger):
            return sampling.uniform(ledger.problem.space, rng, number)
        self._proposed_at = len(ledger)
        self.belief.learn(ledger)
        visited = self.inner.run(self.belief.gains, np.stack([genome for genome, _ in told]), rng)
        fresh = visited[[genome.tobytes() not in ledger.seen for genome in visited]]
        if not len(fresh):
            return fresh
        rows = zip(fresh.tolist(), self.belief.gains(fresh).tolist(), strict=True)
        best = survivors([Individual(*row) for row in rows], number, "nsga2")
        return np.array(best, dtype=np.int64)
