"""A running search: asks for subnets never asked before, and is told their metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from ofa.search import sampling
from ofa.search.budget import Constraint
from ofa.search.objectives import Objective
from ofa.search.problem import Costs, Problem
from ofa.space import Genome, SearchSpace, Subnet

_PROPOSED = 16  # rounds of the engine's own proposals before it is helped by random ones
_ROUNDS = 48  # rounds of proposals after which a batch stays short


class Engine(Protocol):
    """A search algorithm: its settings, and one verb."""

    def start(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        seed: int = 0,
    ) -> Search: ...


class Search(ABC):
    """The ask/tell side of an engine: what was asked, what is known, when to stop.

    The subnets asked for follow from the problem, the seed and the metrics told, in whatever order those of
    one batch come back. Nothing is asked twice. Metrics told take precedence over costs of the same name (a
    measured latency over a predicted one). A non-finite objective counts as evaluated and is not bred from.
    """

    def __init__(self, problem: Problem, evaluations: int, batch: int, seed: int) -> None:
        if evaluations < 1 or batch < 1:
            raise ValueError(f"a search needs at least 1 evaluation at a time, got {evaluations} and {batch}")
        self.problem = problem
        self.evaluations = evaluations
        self.batch = batch
        self.results: dict[Subnet, dict[str, float]] = {}
        self.stopped: str | None = None
        self.rng = np.random.default_rng(seed)
        self.pool = problem.pool(self.rng, batch)  # refuses an infeasible budget at once
        self._seen: set[bytes] = set()
        self._asked: dict[Subnet, Genome] = {}

    @abstractmethod
    def _propose(self, number: int) -> Genome:
        """About `number` genomes, repeated and infeasible ones allowed, shape (n, choices)."""

    @abstractmethod
    def _learn(self, genomes: Genome, gains: list[tuple[float, ...]]) -> None:
        """Take in one batch of finite results, in the order asked; larger gains are better."""

    def ask(self) -> list[Subnet]:
        """The next batch, empty once the search is over; `stopped` then says why.

        Raises:
            ValueError: subnets of the last batch have not been told.
        """
        waiting = sum(subnet not in self.results for subnet in self._asked)
        if waiting:
            raise ValueError(f"{waiting} subnets were asked for and not told yet: tell them before asking again")
        self._close()
        wanted = min(self.batch, self.evaluations - len(self._seen))
        genomes = self._fresh(wanted) if wanted > 0 else []
        self._asked = {self.problem.space.decode(genome): genome for genome in genomes}
        if not genomes:
            self.stopped = self._reason(wanted)
        return list(self._asked)

    def tell(self, subnet: Subnet, metrics: Mapping[str, float]) -> None:
        """Report the metrics of a subnet that `ask` gave.

        Raises:
            ValueError: it was not asked for, it was told before, or an objective is missing.
        """
        if subnet in self.results or subnet not in self._asked:
            raise ValueError(f"{'told twice' if subnet in self.results else 'never asked for'}: {subnet}")
        known = {**self.problem.cost(subnet), **{name: float(value) for name, value in metrics.items()}}
        self.problem.gains(known)
        self.results[subnet] = known

    def ranked(self) -> list[Subnet]:
        """What was told, the best in the first objective first; nothing that is not finite."""
        gains = {subnet: self.problem.gains(metrics)[0] for subnet, metrics in self.results.items()}
        return sorted((s for s, gain in gains.items() if np.isfinite(gain)), key=lambda s: -gains[s])

    def _close(self) -> None:
        """Hand the batch that was told to the engine, in the order asked."""
        rows = [(genome, self.problem.gains(self.results[subnet])) for subnet, genome in self._asked.items()]
        finite = [(genome, gains) for genome, gains in rows if np.all(np.isfinite(gains))]
        if finite:
            self._learn(np.stack([genome for genome, _ in finite]), [gains for _, gains in finite])

    def _fresh(self, number: int) -> list[Genome]:
        """`number` genomes in the budget and never asked before, or fewer if no more are found."""
        found: list[Genome] = []
        for genomes in self._rounds(number):
            for genome in self.problem.repaired(genomes, self.rng):
                if len(found) == number:
                    return found
                if genome.tobytes() not in self._seen:
                    self._seen.add(genome.tobytes())
                    found.append(genome)
        return found

    def _reason(self, wanted: int) -> str:
        if wanted <= 0:
            return f"all {self.evaluations} evaluations are done"
        if len(self.problem.listed):
            return "every subnet in the budget is evaluated"
        return f"{_ROUNDS} rounds of proposals brought no new subnet in the budget"

    def _rounds(self, number: int) -> Iterator[Genome]:
        for index in range(_ROUNDS):
            if index < _PROPOSED:
                yield self._propose(number)
            else:
                yield sampling.skewed(self.problem.space, self.rng, number)
        yield self.rng.permutation(self.problem.listed)
