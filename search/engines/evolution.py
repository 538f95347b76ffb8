"""NSGA-II with exact costs and a start spread along the cost (Deb et al., 2002; on DEAP)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from deap import base, tools

from ofa.search import sampling
from ofa.search.budget import Constraint
from ofa.search.engines.engine import Search
from ofa.search.objectives import Objective
from ofa.search.problem import Costs, Problem
from ofa.space import Genome, SearchSpace


class Fitness(base.Fitness):  # type: ignore[misc]
    """Gains of an individual: larger is better in every one."""

    def __init__(self, gains: tuple[float, ...] = ()) -> None:
        self.weights = (1.0,) * len(gains)
        super().__init__(gains)


class Individual(list[int]):
    """A genome with its fitness, as DEAP's operators want it."""

    def __init__(self, genes: Sequence[int], gains: tuple[float, ...] = ()) -> None:
        super().__init__(genes)
        self.fitness = Fitness(gains)


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the generators that DEAP draws from, and put them back as they were."""
    state, array_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)


@dataclass(frozen=True)
class Evolution:
    """Settings of NSGA-II; `mutation` is the probability of each gene, by default one gene a child."""

    population: int = 48
    evaluations: int = 200
    crossover: float = 0.9
    mutation: float | None = None

    def start(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        seed: int = 0,
    ) -> EvolutionSearch:
        """A running search; raises a ValueError at once if the budget is out of reach."""
        return EvolutionSearch(self, Problem.parse(space, objectives, costs, constraints), seed)


class EvolutionSearch(Search):
    """NSGA-II under way: a population that each batch of children competes with."""

    def __init__(self, settings: Evolution, problem: Problem, seed: int) -> None:
        super().__init__(problem, settings.evaluations, settings.population, seed)
        self.settings = settings
        self.parents: list[Individual] = []
        # One objective cannot be sorted by the divide-and-conquer algorithm.
        self._sort = "log" if len(problem.objectives) > 1 else "standard"

    def _propose(self, number: int) -> Genome:
        if self.parents:
            return np.array(self._children(), dtype=np.int64)
        if not self._seen:
            return self.problem.stratified(self.pool, number)
        return sampling.skewed(self.problem.space, self.rng, number)

    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        children = [Individual(genome.tolist(), g) for genome, g in zip(genomes, gains, strict=True)]
        self.parents = tools.selNSGA2([*self.parents, *children], self.settings.population, nd=self._sort)

    def _children(self) -> list[Individual]:
        """One generation of children, before canonical form and repair."""
        top = [count - 1 for count in self.problem.space.counts.tolist()]
        rate = 1 / len(top) if self.settings.mutation is None else self.settings.mutation
        with global_generators(int(self.rng.integers(2**32))):
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
        mates: list[Individual] = tools.selTournamentDCD(self.parents, fours) if fours else self.parents
        return mates
