"""Random subnets of a wanted cost, constructed by nested intervals on the exact cost formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa.arrays import FloatArray
from ofa.space.space import Genome, SearchSpace

Costs = Callable[[Genome], FloatArray]
PARTS, ROUNDS = 16, 6  # an interval of length 2 comes down to 2 / 16^6: far below the distance of two random numbers


def sample_at_cost(space: SearchSpace, costs: Costs, targets: FloatArray, rng: np.random.Generator) -> Genome:
    """One random subnet for each of `targets`, (population,), as canonical genomes (population, choices).

    Each is the nearest to its target on a random path from the smallest subnet to the largest, along which one option
    changes at a time. `costs` gives a population's cost, (population,); one call for sixteen costs little more than
    for one.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(8)))
    >>> costs = lambda genomes: 1.0 + genomes.sum(axis=1)
    >>> costs(sample_at_cost(space, costs, np.array([5.0, 20.0]), np.random.default_rng(0))).tolist()
    [5.0, 20.0]
    """
    targets = np.asarray(targets, dtype=np.float64)
    offsets = rng.random((len(targets), len(space)))

    def at(positions: FloatArray) -> Genome:  # (population, points) -> (population * points, choices)
        shares = np.clip(offsets[:, None] + positions[:, :, None], 0, 1 - 1e-9)
        genomes = np.floor(shares * space.counts).astype(np.int64)
        return space.canonical_genomes(genomes.reshape(-1, len(space)))

    low, part = np.full((len(targets), 1), -1.0), 2.0
    for _ in range(ROUNDS):
        part /= PARTS
        points = low + part * np.arange(1, PARTS)
        exceeds = costs(at(points)).reshape(points.shape) > targets[:, None]
        low = low + part * np.where(exceeds.any(1), exceeds.argmax(1), PARTS - 1)[:, None]
    below, above = at(low), at(low + part)
    nearer = np.abs(costs(above) - targets) < np.abs(costs(below) - targets)
    return np.where(nearer[:, None], above, below)
