"""Engines that ask for a single subnet: the same share of everything, or without the least important units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ofa.space import Genome, SearchSpace
from search.budget import Constraint, Floats
from search.curves import Curves
from search.engine import Search
from search.objectives import Objective
from search.problem import Costs, Problem


class PointSearch(Search):
    """A search that asks for the subnet in the budget that curves lead to, and for nothing else."""

    def __init__(self, problem: Problem, curves: Curves, seed: int) -> None:
        super().__init__(problem, 1, 1, seed)
        self.curves = curves

    def _propose(self, number: int) -> Genome:
        return self.curves.within(self.problem)[None]

    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        """There is nothing to learn from one point."""


@dataclass(frozen=True)
class Uniform:
    """Every choice shrinks by the same share until the budget is met: the baseline of every pruning method."""

    def start(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        seed: int = 0,
    ) -> PointSearch:
        """A search of one evaluation; raises a ValueError at once if the budget is out of reach."""
        problem = Problem.parse(space, objectives, costs, constraints)
        return PointSearch(problem, Curves.even(problem.space), seed)


@dataclass(frozen=True)
class Ranked:
    """The least important units of all groups, in one order, are removed until the budget is met.

    `measure` is one of `ofa.importance`; `importance` is what `Supernet.importance` gives for it.
    """

    measure: str = "l1"
    importance: Mapping[str, Floats] = field(default_factory=dict, repr=False, compare=False)

    def start(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        seed: int = 0,
    ) -> PointSearch:
        """A search of one evaluation; raises a ValueError if the budget is out of reach, or nothing is ranked."""
        if not self.importance:
            raise ValueError("a ranking needs the importance of the units: Supernet.importance(measure)")
        problem = Problem.parse(space, objectives, costs, constraints)
        return PointSearch(problem, Curves.ranked(problem.space, self.importance), seed)
