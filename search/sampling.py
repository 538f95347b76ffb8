"""Genomes drawn at random: evenly, skewed towards small or large, and spread along a cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.search.objectives import Floats
from ofa.space import Genome, SearchSpace


def uniform(space: SearchSpace, rng: np.random.Generator, number: int) -> Genome:
    """Canonical genomes, every option equally likely, shape (number, choices)."""
    return space.canonical_genomes(rng.integers(0, space.counts, (number, len(space))))


def skewed(space: SearchSpace, rng: np.random.Generator, number: int) -> Genome:
    """Canonical genomes, each with its own leaning to small or to large options, shape (number, choices).

    Independent fair draws pile up at medium cost; these reach both ends.
    """
    leaning = np.exp(rng.uniform(-2.5, 2.5, (number, 1)))
    genomes = (rng.random((number, len(space))) ** leaning * space.counts).astype(np.int64)
    return space.canonical_genomes(genomes)


def spread(cost: Floats, number: int, kept: Sequence[int] = ()) -> list[int]:
    """Indices of at most `number` rows that cover the range of log cost evenly, rows `kept` first."""
    position = np.log(np.maximum(cost, np.finfo(float).tiny))
    targets = np.linspace(position.min(), position.max(), number).tolist()
    chosen = list(kept)[:number]
    for index in chosen:
        targets.remove(min(targets, key=lambda target: abs(target - position[index])))
    free = np.ones(len(cost), dtype=bool)
    free[chosen] = False
    for target in targets[: int(free.sum())]:
        index = int(np.argmin(np.where(free, np.abs(position - target), np.inf)))
        free[index] = False
        chosen.append(index)
    return chosen
