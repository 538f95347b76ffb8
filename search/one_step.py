"""One-step pruning's proposals (EagleEye, Li et al., 2020): random subnets constructed inside the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.space import Genome, SearchSpace
from ofa.targets import towards
from search.budget import Constraint, Floats
from search.engine import Search
from search.objectives import Objective
from search.problem import Costs, Problem


@dataclass(frozen=True)
class OneStep:
    """Settings of one-step search; `population` is the number of subnets asked for at a time.

    EagleEye rejects what a random draw brings outside the budget; here a target is drawn inside it, and a random subnet
    brought there by bisection on the exact cost.
    """

    population: int = 48
    evaluations: int = 200

    def start(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        seed: int = 0,
    ) -> ConstructedSearch:
        """A running search; raises a ValueError at once if the budget is out of reach."""
        problem = Problem.parse(space, objectives, costs, constraints)
        return ConstructedSearch(problem, self.evaluations, self.population, seed)


class ConstructedSearch(Search):
    """One-step search under way: costs are uniform inside the budget, everything else is random."""

    def _propose(self, number: int) -> Genome:
        space, axis = self.problem.space, self._axis
        reached = self._cost(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
        limits = next((c.range for c in self.problem.constraints if c.name == axis), (0.0, np.inf))
        targets = self.rng.uniform(max(limits[0], reached[0]), min(limits[1], reached[1]), number)
        return towards(space, self._cost, targets, self.rng)

    @property
    def _axis(self) -> str:
        """The cost that is limited, MACs first."""
        return next((c.name for c in self.problem.constraints), "macs")

    def _cost(self, genomes: Genome) -> Floats:
        return np.asarray(self.problem.costs(genomes)[self._axis])

    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        """Proposals do not depend on results; they are ranked at the end."""
