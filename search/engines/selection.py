"""Who survives: NSGA-II (Deb et al., 2002), and NSGA-III (Deb & Jain, 2014) from three objectives on; on DEAP."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import comb
from typing import Literal

import moocore
import numpy as np
from deap import base, tools

from ofa.arrays import FloatArray, IntArray

Selection = Literal["auto", "nsga2", "nsga3"]


class Fitness(base.Fitness):  # type: ignore[misc]
    """Gains of an individual: larger is better in every one."""

    def __init__(self, gains: tuple[float, ...] = ()) -> None:
        self.weights = (1.0,) * len(gains)
        super().__init__(gains)


class Individual(list[int]):
    """A genome with its fitness and how far it is outside the budget, as DEAP's operators want it.

    >>> Individual([0, 2], gains=(90.0, -3.0)).fitness.values
    (90.0, -3.0)
    """

    def __init__(self, genes: Sequence[int], gains: Sequence[float] = (), violation: float = 0.0) -> None:
        super().__init__(genes)
        self.fitness = Fitness(tuple(gains))
        self.violation = violation


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the generators that DEAP draws from, and put them back as they were.

    >>> with global_generators(seed=0):
    ...     random.random()
    0.8444218515250481
    """
    state, array_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)


def survivors(individuals: Sequence[Individual], number: int, selection: Selection = "auto") -> list[Individual]:
    """The `number` best; whoever is in the budget beats whoever is not, and of these the nearer one (Deb, 2000).

    NSGA-III draws from the global generators.

    >>> population = [Individual([i], gains) for i, gains in enumerate([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])]
    >>> [list(individual) for individual in survivors([*population, Individual([3], (9.0, 9.0), 0.1)], 2)]
    [[1], [2]]
    """
    inside = [individual for individual in individuals if not individual.violation]
    outside = sorted((i for i in individuals if i.violation), key=lambda individual: individual.violation)
    objectives = len(inside[0].fitness.wvalues) if inside else 0
    if not inside:
        return outside[:number]
    if selection == "nsga3" or (selection == "auto" and objectives > 2):
        points = tools.uniform_reference_points(objectives, divisions(objectives, number))
        best = tools.selNSGA3(inside, min(number, len(inside)), points, nd="standard" if objectives == 1 else "log")
    else:  # one objective cannot be sorted by the divide-and-conquer algorithm
        best = tools.selNSGA2(inside, number, nd="standard" if objectives == 1 else "log")
    return [*best, *outside][:number]


def best(gains: FloatArray, violations: FloatArray, number: int) -> IntArray:
    """What NSGA-II's `survivors` are, as rows of gains (rows, objectives) and violations (rows,): faster for thousands.

    >>> best(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]), np.array([0.0, 0.0, 0.0, 0.1]), 2).tolist()
    [1, 2]
    """
    inside = np.flatnonzero(violations == 0)
    outside = np.flatnonzero(violations > 0)
    outside = outside[np.argsort(violations[outside], kind="stable")]
    if len(inside):
        ranks = moocore.pareto_rank(gains[inside], maximise=True)
        order = np.argsort(ranks, kind="stable")
        cut = ranks[order[min(number, len(order)) - 1]]  # the front that has too many, or the last
        sure, last = inside[order[ranks[order] < cut]], inside[np.flatnonzero(ranks == cut)]
        last = last[np.argsort(-crowding(gains[last]), kind="stable")]
        inside = np.concatenate([sure, last])
    return np.concatenate([inside, outside])[:number]


def crowding(gains: FloatArray) -> FloatArray:
    """How far the neighbours of each row on a front are apart, (rows,): NSGA-II's distance, infinite at the ends."""
    result = np.zeros(len(gains))
    for column in gains.T:
        order = np.argsort(column, kind="stable")
        result[order[[0, -1]]] = np.inf
        span = column[order[-1]] - column[order[0]]
        if span > 0:
            result[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / (gains.shape[1] * span)
    return result


def divisions(objectives: int, number: int) -> int:
    """The parts of each axis with which the simplex has about as many reference points as there are individuals."""
    return next((p - 1 for p in range(2, number + 2) if comb(p + objectives - 1, p) > number), number) or 1


def nondominated(gains: FloatArray) -> IntArray:
    """The rows that no other beats in every objective, of gains (rows, objectives); of equal ones the first.

    >>> nondominated(np.array([[90.0, -3.0], [80.0, -1.0], [80.0, -2.0]])).tolist()
    [0, 1]
    """
    return np.flatnonzero(moocore.is_nondominated(gains, maximise=True))
