"""An engine: small steps from the best subnet that is known."""

from dataclasses import dataclass

import numpy as np

from ofa.search import Problem, RandomSearch
from ofa.search.engines import Ledger, Proposer
from ofa.space import Genome


class Steps(Proposer):
    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        best = max(ledger.told(), key=lambda row: row[1], default=(ledger.pool[0], ()))[0]
        steps = rng.integers(-1, 2, (number, len(best)))
        return np.clip(best + steps, 0, ledger.problem.space.counts - 1)


@dataclass(frozen=True)
class HillClimbing(RandomSearch):  # or Engine, with settings of its own
    def proposer(self, problem: Problem) -> Proposer:
        return Steps()
