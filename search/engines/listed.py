"""Given subnets, asked as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.search.engines.engine import Engine
from ofa.search.engines.ledger import Ledger
from ofa.search.engines.proposer import Exact
from ofa.search.problem import Problem
from ofa.space import Genome, Subnet


@dataclass(frozen=True, eq=False)
class Listing(Exact):
    """Proposes `genomes`, (n, choices), and nothing else.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> ledger = Ledger(problem, evaluations=2, batch=2, rng=np.random.default_rng(0))
    >>> [genome.tolist() for genome in Listing(np.array([[2], [0]])).fresh(ledger, 2, np.random.default_rng(0))]
    [[2], [0]]
    """

    genomes: Genome

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        return self.genomes

    def reason(self, ledger: Ledger) -> str:
        return f"all {len(ledger)} given subnets are evaluated"


@dataclass(frozen=True)
class Listed(Engine):
    """A search that asks once, for given subnets.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> search = Listed((Subnet({"stem": 8}), Subnet({"stem": 32}))).start(problem)
    >>> search.ask()
    [Subnet({'stem': 8}), Subnet({'stem': 32})]
    """

    subnets: tuple[Subnet, ...]

    def size(self, problem: Problem) -> tuple[int, int]:
        return len(self.subnets), len(self.subnets)

    def proposer(self, problem: Problem) -> Listing:
        """Raises a ValueError if a subnet is not of the space, or outside the budget."""
        return Listing(np.stack([problem.admitted(problem.space.encode(subnet)) for subnet in self.subnets]))
