"""One-step pruning's proposals (EagleEye, Li et al., 2020): random subnets constructed inside the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.search.engines import Ledger, Proposer, RandomSearch
from ofa.search.objectives import Floats
from ofa.search.problem import Problem
from ofa.space import Genome, sample_at_cost


class Constructed(Proposer):
    """Costs are uniform inside the budget, everything else is random; it learns nothing."""

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        problem, space = ledger.problem, ledger.problem.space
        axis = next((c.name for c in problem.constraints), "macs")  # the cost that is limited

        def cost(genomes: Genome) -> Floats:
            return np.asarray(problem.costs(genomes)[axis])

        reached = cost(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
        limits = next((c.range for c in problem.constraints if c.name == axis), (0.0, np.inf))
        targets = rng.uniform(max(limits[0], reached[0]), min(limits[1], reached[1]), number)
        return sample_at_cost(space, cost, targets, rng)


@dataclass(frozen=True)
class OneStep(RandomSearch):
    """Settings of one-step search; `population` is the number of subnets asked for at a time.

    `evaluations` is that of all.

    EagleEye rejects what a random draw brings outside the budget; here a target is drawn inside it, and a random subnet
    brought there by bisection on the exact cost.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(6)))
    >>> costs = lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)}
    >>> problem = Problem.parse(space, ["accuracy"], costs, {"macs": (0.4, 0.6)})
    >>> search = OneStep(population=4, evaluations=4).start(problem)
    >>> all(0.4 <= problem.cost(subnet)["macs"] / 19 <= 0.6 for subnet in search.ask())  # the largest costs 19
    True
    """

    def proposer(self, problem: Problem) -> Proposer:
        return Constructed()
