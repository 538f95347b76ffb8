"""NSGA-II and NSGA-III with exact costs and a start spread along the cost (Deb et al., 2002, 2014; on DEAP)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from deap import tools

from ofa.search import sampling
from ofa.search.engines.engine import Engine
from ofa.search.engines.ledger import Ledger, check_numbers, usual_evaluations
from ofa.search.engines.proposer import Proposer
from ofa.search.engines.selection import Individual, Selection, global_generators, survivors
from ofa.search.problem import Problem
from ofa.space import Genome, SearchSpace


@dataclass(frozen=True)
class Evolution(Engine):
    """Settings of NSGA-II: `population` subnets a generation, until `evaluations` are scored.

    `crossover` is the probability that two parents mix; `mutation` is that of each gene, by default one gene a child.
    `selection` is NSGA-II's for one or two objectives and NSGA-III's for more, or the one that it names.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)), Choice("head", "width", (8, 16, 32))))
    >>> costs = lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)}
    >>> problem = Problem.parse(space, ["accuracy", "macs"], costs, {"macs": 0.8})
    >>> search = Evolution(population=2, evaluations=4).start(problem)
    >>> while batch := search.ask():
    ...     for subnet in batch:
    ...         search.tell(subnet, {"accuracy": 50.0 + subnet["head"]})
    >>> search.stopped, max(metrics["macs"] for metrics in search.results.values())
    ('all 4 evaluations are done', 4.0)
    """

    population: int = 48
    evaluations: int | None = None
    crossover: float = 0.9
    mutation: float | None = None
    selection: Selection = "auto"

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, self.population)
        if self.selection not in ("auto", "nsga2", "nsga3"):
            raise ValueError(f"selection is auto, nsga2 or nsga3, got {self.selection!r}")

    def size(self, problem: Problem) -> tuple[int, int]:
        return self.evaluations or usual_evaluations(problem), self.population

    def proposer(self, problem: Problem) -> Generations:
        return Generations(self)


class Generations(Proposer):
    """Evolution under way: a population that each batch of children competes with."""

    def __init__(self, settings: Evolution) -> None:
        self.settings = settings
        self.parents: list[Individual] = []
        self._read = 0  # results that have competed

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        self._select(ledger, rng)
        if self.parents:
            return np.array(self._children(ledger.problem.space, rng), dtype=np.int64)
        if not ledger.seen:
            return ledger.problem.stratified(ledger.pool, number)
        return sampling.skewed(ledger.problem.space, rng, number)

    def _select(self, ledger: Ledger, rng: np.random.Generator) -> None:
        """Let the results that are new compete with the parents, in the order asked."""
        told = ledger.told(since=self._read)
        children = [Individual(genome.tolist(), gains, ledger.exceeded(genome)) for genome, gains in told]
        self._read = len(ledger.results)
        if children:
            with global_generators(int(rng.integers(2**32))):
                self.parents = survivors([*self.parents, *children], self.settings.population, self.settings.selection)

    def _children(self, space: SearchSpace, rng: np.random.Generator) -> list[Individual]:
        """One generation of children, before canonical form and repair."""
        top = [count - 1 for count in space.counts.tolist()]
        rate = 1 / len(top) if self.settings.mutation is None else self.settings.mutation
        with global_generators(int(rng.integers(2**32))):
            children = [Individual(parent) for parent in self._mates()]
            for first, second in zip(children[::2], children[1::2], strict=False):
                if random.random() < self.settings.crossover:
                    tools.cxUniform(first, second, indpb=0.5)
            for child in children:
                tools.mutUniformInt(child, low=[0] * len(top), up=top, indpb=rate)
        return children

    def _mates(self) -> list[Individual]:
        """The mating pool, by dominance and crowding; DEAP's tournament takes multiples of four."""
        fours = len(self.parents) // 4 * 4
        if any(not hasattr(parent.fitness, "crowding_dist") for parent in self.parents):  # NSGA-III leaves none
            return random.choices(self.parents, k=len(self.parents))
        mates: list[Individual] = tools.selTournamentDCD(self.parents, fours) if fours else self.parents
        return mates
