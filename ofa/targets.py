"""Random subnets of a wanted cost, constructed by bisection on the exact cost formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa.costs import FloatArray
from ofa.space import Genome, SearchSpace

Costs = Callable[[Genome], FloatArray]
STEPS = 24  # halvings of an interval of length 2: far below the distance of two random numbers


def towards(space: SearchSpace, costs: Costs, targets: FloatArray, rng: np.random.Generator) -> Genome:
    """One random subnet for each of `targets`, (population,), as canonical genomes (population, choices).

    Each is the nearest to its target on a random path from the smallest subnet to the largest, along which one option
    changes at a time. `costs` gives a population's cost, (population,).
    """
    targets = np.asarray(targets, dtype=np.float64)
    offsets = rng.random((len(targets), len(space)))

    def at(position: FloatArray) -> Genome:
        shares = np.clip(offsets + position[:, None], 0, 1 - 1e-9)
        return space.canonical_genomes(np.floor(shares * space.counts).astype(np.int64))

    low, high = -np.ones(len(targets)), np.ones(len(targets))
    for _ in range(STEPS):
        middle = (low + high) / 2
        exceeds = costs(at(middle)) > targets
        low, high = np.where(exceeds, low, middle), np.where(exceeds, middle, high)
    below, above = at(low), at(high)
    nearer = np.abs(costs(above) - targets) < np.abs(costs(below) - targets)
    return np.where(nearer[:, None], above, below)
