"""Engines that ask for one subnet: evenly smaller, without the least important units, the smallest, or a given one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ofa.persistence import load_subnet
from ofa.search.budget import Constraint
from ofa.search.engines import Search
from ofa.search.objectives import Floats, Objective
from ofa.search.problem import Costs, Problem
from ofa.search.pruning.curves import Curves
from ofa.space import Genome, SearchSpace


class PointSearch(Search):
    """A search that asks for one subnet and for nothing else."""

    def __init__(self, problem: Problem, genome: Genome, seed: int) -> None:
        super().__init__(problem, 1, 1, seed)
        self.genome = genome

    def _propose(self, number: int) -> Genome:
        return self.genome[None]

    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        """There is nothing to learn from one point."""


class OnePoint(ABC):
    """An engine whose only subnet follows from the problem; `bounded` if it needs no budget."""

    bounded: ClassVar[bool] = False

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
        return PointSearch(problem, self.genome(problem), seed)

    @abstractmethod
    def genome(self, problem: Problem) -> Genome:
        """The subnet to ask for, (choices,)."""


@dataclass(frozen=True)
class Uniform(OnePoint):
    """Every choice shrinks by the same share until the budget is met: the baseline of every pruning method."""

    def genome(self, problem: Problem) -> Genome:
        return Curves.even(problem.space).within(problem)


@dataclass(frozen=True)
class Ranked(OnePoint):
    """The least important units of all groups, in one order, are removed until the budget is met.

    `measure` is one of `ofa.slicing.importance`; `importance` is what `Supernet.importance` gives for it.
    """

    measure: str = "l1"
    importance: Mapping[str, Floats] = field(default_factory=dict, repr=False, compare=False)

    def genome(self, problem: Problem) -> Genome:
        if not self.importance:
            raise ValueError("a ranking needs the importance of the units: Supernet.importance(measure)")
        return Curves.ranked(problem.space, self.importance).within(problem)


@dataclass(frozen=True)
class Specified(OnePoint):
    """The subnet that a file names: `subnet.json` of an earlier run, or its choices alone."""

    bounded: ClassVar[bool] = True
    path: str

    def genome(self, problem: Problem) -> Genome:
        subnet = load_subnet(Path(self.path))
        try:
            return problem.space.encode(subnet)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


@dataclass(frozen=True)
class Smallest(OnePoint):
    """The smallest option of every choice: a fixed pattern in every layer that takes it."""

    bounded: ClassVar[bool] = True

    def genome(self, problem: Problem) -> Genome:
        smallest = problem.space.encode(problem.space.smallest)
        if problem.violation(smallest[None])[0] > 0:
            raise ValueError(problem.out_of_reach(smallest[None]))
        return smallest
