"""Regularised evolution: the best of a few is mutated, and the oldest dies (Real et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.search import sampling
from ofa.search.engines.ledger import Ledger
from ofa.search.engines.proposer import Proposer
from ofa.search.engines.random_search import RandomSearch
from ofa.search.engines.selection import Individual, global_generators, survivors
from ofa.search.problem import Problem
from ofa.space import Genome


@dataclass(frozen=True)
class Aging(RandomSearch):
    """Settings of regularised evolution: of the last `alive` subnets, the best of `sample` has the next child.

    `population` is the number of subnets asked for at a time, `evaluations` that of all. With several objectives the
    best of a few is drawn from those that no other of them beats.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)), Choice("head", "width", (8, 16, 32))))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> search = Aging(population=2, evaluations=6, alive=4, sample=2).start(problem)
    >>> while batch := search.ask():
    ...     for subnet in batch:
    ...         search.tell(subnet, {"accuracy": 50.0 + subnet["head"]})
    >>> len(search.results)
    6
    """

    population: int = 10
    alive: int = 50
    sample: int = 10

    def proposer(self, problem: Problem) -> Proposer:
        return Generation(self)


@dataclass(frozen=True)
class Generation(Proposer):
    """Children of the young; until enough live, subnets drawn at random."""

    settings: Aging

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        space, told = ledger.problem.space, ledger.told()[-self.settings.alive :]
        if len(told) < min(self.settings.alive, ledger.evaluations // 2):
            return sampling.skewed(space, rng, number)
        living = [Individual(genome.tolist(), gains, ledger.exceeded(genome)) for genome, gains in told]
        chosen = rng.integers(0, len(living), (number, self.settings.sample))
        with global_generators(int(rng.integers(2**32))):
            parents = [survivors([living[i] for i in rows], 1)[0] for rows in chosen]
        children = np.array(parents, dtype=np.int64)
        mutated = rng.integers(0, len(space), number)
        children[np.arange(number), mutated] = rng.integers(0, space.counts[mutated])
        return children
