"""Genomes as numbers that a model of accuracy can learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ofa.arrays import BoolArray, FloatArray, IntArray
from ofa.search.objectives import Floats
from ofa.search.problem import Problem
from ofa.space import Genome


@dataclass(frozen=True)
class Features:
    """Canonical genomes, (population, choices), as rows of features, (population, features), each of a group.

    Every choice is a group: a step for each option that is reached, as a sum of which any value of any option can be
    written, and equally many differences between neighbours lie between options that are far from each other. Where
    the choice may be skipped, one for being there; what is skipped is all zeros. Behind the choices stands one group
    of how much there is of depth and of width, and of the logarithms of exact costs.

    >>> from ofa.space import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)), Choice("stage", "depth", (1, 2))))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> Features(problem)(np.array([[0, 0], [2, 1]]))[:, :3].tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """

    problem: Problem
    groups: IntArray = field(init=False)  # (features,): the group of each
    _steps: tuple[IntArray, IntArray] = field(init=False)  # (columns,) each: the choice, and the option that is reached
    _optional: IntArray = field(init=False)  # choices that may be skipped
    _summed: tuple[IntArray, ...] = field(init=False)  # the choices of a kind that is summed

    def __post_init__(self) -> None:
        space = self.problem.space
        steps = [(i, k) for i, count in enumerate(space.counts.tolist()) for k in range(1, count)]
        columns = np.array(steps, dtype=np.int64).reshape(-1, 2).T
        optional = np.array([i for i, choice in enumerate(space.choices) if choice.within], dtype=np.int64)
        kinds = [[i for i, c in enumerate(space.choices) if c.kind == kind] for kind in ("depth", "width")]
        object.__setattr__(self, "_steps", (columns[0], columns[1]))
        object.__setattr__(self, "_optional", optional)
        object.__setattr__(self, "_summed", tuple(np.array(kind, dtype=np.int64) for kind in kinds if kind))
        summary = np.full(self(self._smallest()).shape[1] - len(steps) - len(optional), len(space), dtype=np.int64)
        object.__setattr__(self, "groups", np.concatenate([columns[0], optional, summary]))

    def __call__(self, genomes: Genome, costs: Mapping[str, Floats] | None = None) -> FloatArray:
        """The features of genomes, whose `costs` may be known already."""
        there = ~self.problem.space.skipped(genomes)
        choice, option = self._steps
        steps = (genomes[:, choice] >= option) & there[:, choice]
        summary = self._summary(genomes, there, self.problem.costs(genomes) if costs is None else costs)
        return np.hstack([steps, there[:, self._optional], summary]).astype(np.float64)

    def _smallest(self) -> Genome:
        space = self.problem.space
        return space.encode(space.smallest)[None]

    def _summary(self, genomes: Genome, there: BoolArray, costs: Mapping[str, Floats]) -> FloatArray:
        """How much of depth and width there is, as shares, and the logarithms of exact costs."""
        shares = there * genomes / np.maximum(self.problem.space.counts - 1, 1)
        sums = [shares[:, kind].mean(axis=1) for kind in self._summed]
        logarithms = [np.log(np.maximum(np.asarray(cost, dtype=float), 1e-9)) for cost in costs.values()]
        return np.stack([*sums, *logarithms], axis=1)
