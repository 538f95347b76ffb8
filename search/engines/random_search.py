"""Random search: the baseline that every other engine has to beat (Bergstra & Bengio, 2012)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.search import sampling
from ofa.search.engines.engine import Engine
from ofa.search.engines.ledger import Ledger, check_numbers, usual_evaluations
from ofa.search.engines.proposer import Proposer
from ofa.search.problem import Problem
from ofa.space import Genome


class Draws(Proposer):
    """Every option equally likely, moved into the budget where needed."""

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        return sampling.uniform(ledger.problem.space, rng, number)


@dataclass(frozen=True)
class RandomSearch(Engine):
    """Settings of random search; `population` is the number of subnets asked for at a time, `evaluations` that of all.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)), Choice("head", "width", (8, 16, 32))))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> len(RandomSearch(population=4).start(problem, seed=1).ask())
    4
    """

    population: int = 48
    evaluations: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, self.population)

    def size(self, problem: Problem) -> tuple[int, int]:
        return self.evaluations or usual_evaluations(problem), self.population

    def proposer(self, problem: Problem) -> Proposer:
        return Draws()
