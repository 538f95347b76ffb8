"""Engines that ask for one subnet: evenly smaller, without the least important units, the smallest, or a given one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ofa.persistence import load_subnet
from ofa.search.engines import Engine, Listing, Proposer
from ofa.search.problem import Problem
from ofa.search.pruning.curves import Curves
from ofa.slicing import L1, Importance
from ofa.space import Genome


class OnePoint(Engine):
    """An engine whose only subnet follows from the problem; `bounded` if it needs no budget."""

    def size(self, problem: Problem) -> tuple[int, int]:
        return 1, 1

    def proposer(self, problem: Problem) -> Proposer:
        return Listing(problem.space.canonical_genomes(self.genome(problem))[None])

    @abstractmethod
    def genome(self, problem: Problem) -> Genome:
        """The subnet to ask for, (choices,).

        Raises:
            ValueError: it cannot be in the budget.
        """


class Bounded(OnePoint):
    """One that knows by itself where to stop; with a budget, its subnet has to be in it."""

    @property
    def bounded(self) -> bool:
        return True


@dataclass(frozen=True)
class Uniform(OnePoint):
    """Every choice shrinks by the same share until the budget is met: the baseline of every pruning method.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 24, 32)), Choice("head", "width", (8, 16, 24, 32))))
    >>> costs = lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)}
    >>> problem = Problem.parse(space, ["accuracy"], costs, {"macs": 0.72})
    >>> Uniform().start(problem).ask()
    [Subnet({'stem': 24, 'head': 24})]

    Raises:
        ValueError: (when started) the budget is out of reach; says what the space offers.
    """

    needs_budget: ClassVar[bool] = True

    def genome(self, problem: Problem) -> Genome:
        return Curves.even(problem.space).within(problem)


@dataclass(frozen=True)
class Ranked(OnePoint):
    """The least important units of all groups, in one order, are removed until the budget is met.

    `measure` is an importance, such as `ofa.slicing.L2()`; the problem gives that of the units by it.

    >>> import numpy as np
    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (1, 2)), Choice("head", "width", (1, 2))))
    >>> scores = {"stem": np.array([3.0, 2.0]), "head": np.array([4.0, 1.0])}  # the weakest unit is one of the head's
    >>> costs = lambda genomes: {"macs": 2.0 + genomes.sum(axis=1)}
    >>> problem = Problem.parse(space, ["accuracy"], costs, {"macs": 0.75}, importance=lambda measure: scores)
    >>> Ranked().start(problem).ask()
    [Subnet({'stem': 2, 'head': 1})]

    Raises:
        ValueError: (when started) the budget is out of reach, or the problem has no importance.
    """

    needs_budget: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("width",)
    measure: Importance = field(default_factory=L1)

    def genome(self, problem: Problem) -> Genome:
        if problem.importance is None:
            raise ValueError("a ranking needs the importance of the units: Problem.parse(…, importance=…)")
        return Curves.ranked(problem.space, problem.importance(self.measure)).within(problem)


@dataclass(frozen=True)
class Specified(Bounded):
    """The subnet of a file; `path` is that of `subnet.json` of an earlier run.

    >>> import tempfile
    >>> from ofa import Choice, SearchSpace, Subnet
    >>> from ofa.persistence import save_subnet
    >>> space = SearchSpace((Choice("stem", "width", (8, 16)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_subnet(Subnet({"stem": 8}), "", {}, Path(folder) / "subnet.json")
    ...     Specified(f"{folder}/subnet.json").start(problem).ask()
    [Subnet({'stem': 8})]

    Raises:
        ValueError: (when checked or started) no such file, or its subnet is not of the space or not in the budget.
    """

    path: str

    def check(self) -> None:
        load_subnet(Path(self.path))

    def genome(self, problem: Problem) -> Genome:
        subnet = load_subnet(Path(self.path))
        try:
            return problem.admitted(problem.space.encode(subnet))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


@dataclass(frozen=True)
class Smallest(Bounded):
    """The smallest option of every choice: a fixed pattern in every layer that takes it.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("head.sparsity", "sparsity", ("2:4", "dense")),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> Smallest().start(problem).ask()
    [Subnet({'head.sparsity': '2:4'})]

    Raises:
        ValueError: (when started) it is not in the budget.
    """

    def genome(self, problem: Problem) -> Genome:
        smallest = problem.space.encode(problem.space.smallest)
        if problem.violation(smallest[None])[0] > 0:
            raise ValueError(problem.out_of_reach(smallest[None]))
        return smallest
