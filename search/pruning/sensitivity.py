"""Sensitivity analysis: one choice at a time is made smaller, and the least sensitive ones pay for the budget.

Li et al., 2017; the iterative method of the Vitis AI Optimizer, whose full grid of nine sparsities is an option here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ofa.files import write_text
from ofa.search.engines import Engine, Exact, Ledger
from ofa.search.objectives import Floats
from ofa.search.picture import draw_curves
from ofa.search.problem import Problem
from ofa.search.pruning.curves import Curves, shares_of
from ofa.space import Choice, Genome, Subnet

Points = dict[int, float]


@dataclass(frozen=True)
class Sensitivity(Engine):
    """Settings of sensitivity analysis; `population` is the number of subnets asked for at a time.

    Each choice is scored at the shares of `grid` (kept, of its largest option), the others at their largest. The damage
    of a point is the loss of score relative to the baseline's; a better score is none. With `adaptive`, intervals are
    halved only where damage rises by more than twice `tolerance`, and not where it is above `ceiling`.
    The last subnet asked for meets the budget at the least damage, or has all choices at a damage of `threshold`.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16)), Choice("head", "width", (8, 16))))
    >>> costs = lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)}
    >>> search = Sensitivity().start(Problem.parse(space, ["accuracy"], costs, {"macs": 0.7}))
    >>> while batch := search.ask():
    ...     for subnet in batch:
    ...         search.tell(subnet, {"accuracy": 60.0 + 2 * subnet["stem"] + 0.1 * subnet["head"]})
    >>> search.ranked(), search.stopped
    ([Subnet({'stem': 16, 'head': 8})], 'the curves of 2 choices are known from 2 points')

    Raises:
        ValueError: a share outside (0, 1), or a tolerance, ceiling or threshold out of range.
    """

    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    adaptive: bool = True
    tolerance: float = 0.01
    ceiling: float = 0.2
    threshold: float | None = None
    population: int = 16

    def __post_init__(self) -> None:
        if not self.grid or not all(0 < share < 1 for share in self.grid):
            raise ValueError(f"grid holds shares that are kept, between 0 and 1, got {list(self.grid)}")
        if self.tolerance <= 0 or self.ceiling <= 0:
            raise ValueError(f"tolerance and ceiling are above 0, got {self.tolerance} and {self.ceiling}")
        if self.threshold is not None and self.threshold < 0:
            raise ValueError(f"threshold is a relative damage of at least 0, got {self.threshold}")

    @property
    def bounded(self) -> bool:
        """Whether a threshold says where to stop, so that no budget is needed."""
        return self.threshold is not None

    def size(self, problem: Problem) -> tuple[int, int]:
        points = sum(len(grid_of(choice, self.grid)) for choice in problem.space.choices)
        return points + 2, self.population

    def proposer(self, problem: Problem) -> Analysis:
        return Analysis(self, problem)


class Analysis(Exact):
    """Sensitivity analysis under way: the baseline, points of curves, and the subnet that they lead to.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> search = Sensitivity().start(problem)
    >>> while batch := search.ask():
    ...     search.tell(batch[0], {"accuracy": 80.0 if batch[0]["stem"] == 16 else 60.0})
    >>> search.proposer.known(search.ledger)
    [{1: 0.0, 0: 0.25}]
    """

    probes = True

    def __init__(self, settings: Sensitivity, problem: Problem) -> None:
        self.settings, self.space = settings, problem.space
        self.grids = [grid_of(choice, settings.grid) for choice in self.space.choices]
        self.base = self.space.encode(self.space.largest)
        self._led_to: Genome | None = None

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        if self._score(ledger, self.base) is None:
            return self.base[None]
        wanted = [self._with(i, option) for i, option in self._wanted(ledger)]
        if wanted:
            return np.stack(wanted)
        nothing: Genome = np.empty((0, len(self.space)), dtype=np.int64)
        if self._led_to is not None or not (ledger.problem.constraints or self.settings.threshold is not None):
            return nothing
        self._led_to = self.space.canonical_genomes(self.chosen(ledger))
        return nothing if self._score(ledger, self._led_to) is not None else self._led_to[None]

    def known(self, ledger: Ledger) -> list[Points]:
        """Damage by index of the option, for each choice.

        Raises:
            ValueError: the whole network's score is not finite.
        """
        baseline = self._score(ledger, self.base)
        if baseline is not None and not np.isfinite(baseline):
            raise ValueError(f"the whole network's score is {baseline}: damage is relative to it")
        rows: list[Points] = [{int(self.base[i]): 0.0} for i in range(len(self.grids))]
        for i, grid in enumerate(self.grids):
            for option in grid:
                score = self._score(ledger, self._with(i, option))
                if score is not None and baseline is not None:
                    rows[i][option] = damage(baseline, score)
        return rows

    def curves(self, ledger: Ledger) -> Curves:
        """What is known so far, between the points and beyond."""
        return Curves.through(self.space, self.known(ledger))

    def ranked(self, ledger: Ledger) -> list[Subnet]:
        """The subnet that the curves led to, once it was told."""
        score = None if self._led_to is None else self._score(ledger, self._led_to)
        return (
            [] if self._led_to is None or score is None or not np.isfinite(score) else [self.space.decode(self._led_to)]
        )

    def to_json(self, ledger: Ledger) -> list[dict[str, Any]]:
        """For each choice the options that were scored, as shares of the largest, and their relative damage."""
        rows = []
        for choice, points in zip(self.space.choices, self.known(ledger), strict=True):
            shares = shares_of(choice)
            scored = [
                {"option": choice.options[o], "share": float(shares[o]), "damage": points[o]} for o in sorted(points)
            ]
            rows.append({"choice": choice.name, "points": scored})
        return rows

    def leave(self, ledger: Ledger, folder: Path) -> list[Path]:
        """Write `sensitivity.json` and a picture of the curves."""
        rows, path = self.to_json(ledger), folder / "sensitivity.json"
        write_text(path, json.dumps(rows, indent=1))
        return [path, draw_curves(rows, folder / "sensitivity.png", noise=self.noise(ledger))]

    def noise(self, ledger: Ledger) -> float:
        """Damage that lies within the 95 % interval of the whole network's score; 0 where that is not known."""
        objective, told = ledger.problem.objectives[0], ledger.metrics(self.base)
        if told is None or ledger.problem.samples is None:
            return 0.0
        ends = objective.interval(told[objective.name], ledger.problem.samples)
        gain = objective.gain(told[objective.name])
        return 0.0 if ends is None else max(damage(gain, objective.gain(end)) for end in ends)

    def chosen(self, ledger: Ledger) -> Genome:
        """The genome that the curves lead to: at the threshold, or in the budget."""
        curves, threshold = self.curves(ledger), self.settings.threshold
        return curves.within(ledger.problem) if threshold is None else curves.at(threshold + 1e-8)

    def reason(self, ledger: Ledger) -> str:
        points = sum(len(row) - 1 for row in self.known(ledger))
        return f"the curves of {len(self.grids)} choices are known from {points} points"

    def _wanted(self, ledger: Ledger) -> Iterator[tuple[int, int]]:
        """(choice, option) of the points that the curves still need."""
        given = self.settings
        for i, (grid, points) in enumerate(zip(self.grids, self.known(ledger), strict=True)):
            shares = shares_of(self.space.choices[i])
            limits = (given.tolerance, given.ceiling) if given.adaptive else None
            yield from ((i, option) for option in missing(shares, grid, points, limits))

    def _with(self, choice: int, option: int) -> Genome:
        genome = self.base.copy()
        genome[choice] = option
        return self.space.canonical_genomes(genome)

    def _score(self, ledger: Ledger, genome: Genome) -> float | None:
        gains = ledger.gains(genome)
        return None if gains is None else gains[0]


def damage(baseline: float, score: float) -> float:
    """How much worse a score is, relative to the baseline's; one that is not finite is worth nothing.

    >>> damage(80.0, 60.0), damage(80.0, 81.0), damage(80.0, float("nan"))
    (0.25, 0.0, 1.0)
    """
    if not np.isfinite(score):
        return 1.0
    return max(baseline - score, 0.0) / max(abs(baseline), 1e-12)


def grid_of(choice: Choice, grid: Sequence[float]) -> list[int]:
    """Indices of the options nearest to the shares of a grid, ascending, without the largest; all where words.

    >>> grid_of(Choice("stem", "width", (8, 16, 24, 32)), (0.25, 0.3, 0.8))
    [0, 2]
    """
    shares = shares_of(choice)
    if any(isinstance(option, str) for option in choice.options):
        return list(range(len(shares) - 1))
    nearest = {int(np.argmin(np.abs(shares - share))) for share in grid}
    return sorted(nearest - {len(shares) - 1})


def missing(shares: Floats, grid: Sequence[int], points: Points, limits: tuple[float, float] | None) -> list[int]:
    """The next options of a grid to score: all, or within (tolerance, ceiling) the middles of open intervals.

    An interval is done where its ends are so alike that a falling curve stays within the tolerance of their mean, or
    where both are too bad.

    >>> shares, grid = np.array([0.25, 0.5, 0.75, 1.0]), [0, 1, 2]
    >>> missing(shares, grid, {3: 0.0}, (0.01, 0.2))  # the end first
    [0]
    >>> missing(shares, grid, {0: 0.3, 3: 0.0}, (0.01, 0.2))  # then the middle, where the ends differ
    [2]
    >>> missing(shares, grid, {0: 0.3, 3: 0.0}, None)  # without limits all
    [1, 2]
    """
    if limits is None or not grid:
        return [option for option in grid if option not in points]
    if grid[0] not in points:
        return [grid[0]]
    tolerance, ceiling = limits
    ladder = [*grid, len(shares) - 1]
    done = [option for option in ladder if option in points]
    result = []
    for a, b in pairwise(done):
        between = ladder[ladder.index(a) + 1 : ladder.index(b)]
        alike = abs(points[a] - points[b]) <= 2 * tolerance or min(points[a], points[b]) >= ceiling
        if between and not alike:
            result.append(between[len(between) // 2])
    return result
