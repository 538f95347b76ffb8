"""Who says what to ask next, from what the ledger has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from ofa.search import sampling
from ofa.search.engines.ledger import Ledger
from ofa.search.problem import Problem
from ofa.space import Genome, Subnet

_PROPOSED = 16  # rounds of the engine's own proposals before it is helped by random ones
_ROUNDS = 48  # rounds of proposals after which a batch stays short


class Proposer(ABC):
    """Says what to ask next; what it proposes is moved into the budget, and what was asked before is left out.

    Where too little is new, random subnets help out. Who learns reads the ledger: `told`, `gains`, `pool`.
    `probes`: some of what it asks for lies outside the budget, to learn from; only what it ranks is inside.
    docs/extending.md shows one of one's own in an engine; so does `ofa.search.engines.Engine`.

    >>> from ofa import Choice, SearchSpace
    >>> class Narrowest(Proposer):
    ...     def propose(self, ledger, number, rng):
    ...         return ledger.problem.space.encode(ledger.problem.space.smallest)[None]
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> rng = np.random.default_rng(0)
    >>> Narrowest().fresh(Ledger(problem, evaluations=1, batch=1, rng=rng), 1, rng)
    [array([0])]
    """

    probes: ClassVar[bool] = False

    @abstractmethod
    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        """About `number` genomes, repeated and infeasible ones allowed, shape (n, choices)."""

    def fresh(self, ledger: Ledger, number: int, rng: np.random.Generator) -> list[Genome]:
        """`number` genomes in the budget and never asked before, (choices,) each, or fewer if no more are found."""
        return ledger.take(self._rounds(ledger, number, rng), number)

    def reason(self, ledger: Ledger) -> str:
        """Why there is nothing more to ask."""
        if ledger.left <= 0:
            return f"all {ledger.evaluations} evaluations are done"
        if len(ledger.problem.listed):
            return "every subnet in the budget is evaluated"
        return f"{_ROUNDS} rounds of proposals brought no new subnet in the budget"

    def note(self, ledger: Ledger) -> str:
        """What there is to say at the end of a round: how good its predictions were; empty if it makes none."""
        return ""

    def ranked(self, ledger: Ledger) -> list[Subnet]:
        """What the search led to, the best first."""
        return ledger.ranked()

    def leave(self, ledger: Ledger, folder: Path) -> list[Path]:
        """Write files that show how it came to its proposals, if there is anything to show; gives their paths."""
        return []

    def _rounds(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Iterator[Genome]:
        problem = ledger.problem
        for index in range(_ROUNDS):
            if index < _PROPOSED:
                genomes = checked(problem, self.propose(ledger, number, rng))
            else:
                genomes = sampling.skewed(problem.space, rng, number)
            yield problem.repaired(genomes, rng)
        yield problem.repaired(rng.permutation(problem.listed), rng)


class Exact(Proposer):
    """A proposer whose genomes are asked as they are, moved nowhere; where it proposes nothing new, the search ends.

    >>> from ofa import Choice, SearchSpace
    >>> class Widest(Exact):
    ...     def propose(self, ledger, number, rng):
    ...         return ledger.problem.space.encode(ledger.problem.space.largest)[None]
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]}, {"macs": 0.5})
    >>> rng = np.random.default_rng(0)
    >>> Widest().fresh(Ledger(problem, evaluations=1, batch=1, rng=rng), 1, rng)  # outside the budget
    [array([2])]
    """

    def fresh(self, ledger: Ledger, number: int, rng: np.random.Generator) -> list[Genome]:
        genomes = checked(ledger.problem, self.propose(ledger, number, rng))
        return ledger.take([ledger.problem.space.canonical_genomes(genomes)], number)


def checked(problem: Problem, genomes: Genome) -> Genome:
    """What a proposer gave, as a new array of option indices, shape (n, choices).

    Raises:
        ValueError: another shape, or no index of an option.
    """
    choices, given = len(problem.space), np.asarray(genomes)
    if given.ndim != 2 or given.shape[1] != choices or given.dtype.kind not in "iu":
        raise ValueError(f"proposals are whole numbers of shape (n, {choices}), got {given.dtype} of {given.shape}")
    for wrong in given[((given < 0) | (given >= problem.space.counts)).any(axis=1)]:
        problem.space.decode(wrong)  # says which option of which choice
    return given.astype(np.int64)
