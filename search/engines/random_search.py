"""Random search: the baseline that every other engine has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ofa.search import sampling
from ofa.search.budget import Constraint
from ofa.search.engines.engine import Search
from ofa.search.objectives import Objective
from ofa.search.problem import Costs, Problem
from ofa.space import Genome, SearchSpace


class UniformSearch(Search):
    """Random search under way: every option equally likely, moved into the budget where needed."""

    def _propose(self, number: int) -> Genome:
        return sampling.uniform(self.problem.space, self.rng, number)

    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        """Random search learns nothing."""


@dataclass(frozen=True)
class RandomSearch:
    """Settings of random search; `population` is the number of subnets asked for at a time."""

    population: int = 48
    evaluations: int = 200
    running: ClassVar[type[Search]] = UniformSearch

    def start(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        seed: int = 0,
    ) -> Search:
        """A running search; raises a ValueError at once if the budget is out of reach."""
        problem = Problem.parse(space, objectives, costs, constraints)
        return self.running(problem, self.evaluations, self.population, seed)
