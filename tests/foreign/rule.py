"""A sampling rule: both ends of the space in every step, and nothing between."""

from dataclasses import dataclass

import numpy as np

from ofa import SearchSpace, Subnet, Supernet
from ofa.train.sampling import Rule


@dataclass(frozen=True)
class Ends(Rule):
    def choose(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> tuple[Subnet, ...]:
        return space.largest, space.smallest
