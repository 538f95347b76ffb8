"""One-step pruning's proposals (EagleEye, Li et al., 2020): random subnets constructed inside the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ofa.search.engines import RandomSearch, Search
from ofa.search.objectives import Floats
from ofa.space import Genome, sample_at_cost


class ConstructedSearch(Search):
    """One-step search under way: costs are uniform inside the budget, everything else is random."""

    def _propose(self, number: int) -> Genome:
        space, axis = self.problem.space, self._axis
        reached = self._cost(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
        limits = next((c.range for c in self.problem.constraints if c.name == axis), (0.0, np.inf))
        targets = self.rng.uniform(max(limits[0], reached[0]), min(limits[1], reached[1]), number)
        return sample_at_cost(space, self._cost, targets, self.rng)

    @property
    def _axis(self) -> str:
        """The cost that is limited, MACs first."""
        return next((c.name for c in self.problem.constraints), "macs")

    def _cost(self, genomes: Genome) -> Floats:
        return np.asarray(self.problem.costs(genomes)[self._axis])

    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        """Proposals do not depend on results; they are ranked at the end."""


@dataclass(frozen=True)
class OneStep(RandomSearch):
    """Settings of one-step search; `population` is the number of subnets asked for at a time.

    EagleEye rejects what a random draw brings outside the budget; here a target is drawn inside it, and a random subnet
    brought there by bisection on the exact cost.
    """

    running: ClassVar[type[Search]] = ConstructedSearch
