"""Damage curves: what each option costs in quality, and the subnet that meets a budget at the least damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.interpolate import PchipInterpolator

from ofa.search.objectives import Floats
from ofa.search.problem import Problem
from ofa.space import Choice, Genome, SearchSpace

_NOTHING = 1e-12
_UNKNOWN = 1e6  # damage of what lies beyond everything known: only for a budget that needs it
_TIE = 1e-9  # damage of a whole choice, so that equal curves shrink together instead of all at once
_USED_UP = 0.99  # of a budget
_EXCHANGES = 16  # rounds of them


@dataclass(frozen=True)
class Curves:
    """For every choice of `space` the damage of each option: zero for the largest, and more for a smaller one.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)), Choice("head", "width", (8, 16, 32))))
    >>> curves = Curves.through(space, [{0: 0.4, 1: 0.1}, {0: 0.05, 1: 0.01}])  # the head matters less
    >>> curves.at(0.06).tolist(), curves.at(0.2).tolist()
    ([2, 0], [1, 0])
    """

    space: SearchSpace
    damages: tuple[Floats, ...]

    @classmethod
    def through(cls, space: SearchSpace, known: Sequence[Mapping[int, float]]) -> Self:
        """Monotone curves through what is known of each choice: damage by index of its option.

        Between the points the interpolation keeps their order (PCHIP, Fritsch & Carlson, 1980). A gain is no damage.
        """
        damages = []
        for i, (choice, points) in enumerate(zip(space.choices, known, strict=True)):
            shares = shares_of(choice)
            tie = _TIE * (1 + 1e-3 * i) * (1 - shares)
            damages.append(interpolated(shares, points) + tie)
        return cls(space, tuple(damages))

    @classmethod
    def even(cls, space: SearchSpace) -> Self:
        """Damage is the share removed: every choice shrinks alike."""
        return cls.through(space, [dict(enumerate((1 - shares_of(c)).tolist())) for c in space.choices])

    @classmethod
    def ranked(cls, space: SearchSpace, importance: Mapping[str, Floats]) -> Self:
        """Damage is the importance of the strongest unit removed, in one order of all units of the network.

        `importance` is that of every width choice's units (`Supernet.importance`); other choices stay.
        """
        known = []
        for choice in space.choices:
            scores = np.sort(importance.get(choice.name, np.zeros(0)))[::-1]
            kept = np.rint(shares_of(choice) * len(scores)).astype(int)
            removed = {o: float(scores[n]) for o, n in enumerate(kept.tolist()) if n < len(scores)}
            known.append({**removed, len(choice.options) - 1: 0.0})
        return cls.through(space, known)

    def at(self, threshold: float) -> Genome:
        """The smallest option of each choice whose damage is at most `threshold`, shape (choices,)."""
        chosen = np.array([int(np.argmax(damage <= threshold)) for damage in self.damages], dtype=np.int64)
        return self.space.canonical_genomes(chosen)

    def within(self, problem: Problem) -> Genome:
        """The genome in the budget at the least common threshold, shape (choices,); what that leaves is used up.

        Raises:
            ValueError: the budget is out of reach; says what the space offers, or the closest that was found.
        """
        upper = [replace(c, lower=None) for c in problem.constraints if c.upper is not None]
        limited = replace(problem, constraints=tuple(upper))
        thresholds = np.unique(np.concatenate([np.zeros(1), *self.damages]))
        low, high = 0, len(thresholds) - 1
        if not fits(limited, self.at(thresholds[high])):
            raise ValueError(problem.out_of_reach(self.at(thresholds[high])[None]))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(limited, self.at(thresholds[middle])) else (middle + 1, high)
        genome = self._refined(self._filled(self.at(thresholds[low]), limited), limited)
        if not fits(problem, genome):
            costs = problem.cost(self.space.decode(genome))
            closest = " and ".join(f"{c.name} {c.objective.written(costs[c.name])}" for c in problem.constraints)
            raise ValueError(f"{problem.out_of_reach(genome[None])}; the closest found has {closest}")
        return genome

    def _filled(self, genome: Genome, problem: Problem) -> Genome:
        """One option after the other grows, the most damaged choice first, as long as one fits."""
        for _ in range(int(self.space.counts.sum())):
            open_choices = np.flatnonzero(genome < self.space.counts - 1)
            grown = np.repeat(genome[None], len(open_choices), axis=0)
            grown[np.arange(len(open_choices)), open_choices] += 1
            fitting = np.flatnonzero(problem.violation(grown) == 0) if len(grown) else open_choices
            if not len(fitting):
                break
            damage = [self.damages[c][genome[c]] for c in open_choices[fitting].tolist()]
            genome = grown[fitting[int(np.argmax(damage))]]
        return self.space.canonical_genomes(genome)

    def _refined(self, genome: Genome, problem: Problem) -> Genome:
        """Where a hundredth of the budget is left over: what uses it up at the least damage.

        Widths are coarse in small networks, so that the thresholds alone step over what can be reached.
        """
        if not problem.constraints or usage(problem, genome[None])[0] >= _USED_UP:
            return genome
        every = problem.listed
        return self._least_damaged(every, usage(problem, every)) if len(every) else self._exchanged(genome, problem)

    def _least_damaged(self, genomes: Genome, usages: Floats) -> Genome:
        """Of the genomes that use about as much as any does."""
        enough = genomes[usages >= _USED_UP * usages.max()]
        best: Genome = enough[int(np.argmin([self._damage(genome) for genome in enough]))]
        return best

    def _exchanged(self, genome: Genome, problem: Problem) -> Genome:
        """One choice grows at the price of another, until the budget is used up or nothing comes nearer."""
        for _ in range(_EXCHANGES):
            used = usage(problem, genome[None])[0]
            candidates = self._neighbours(genome)
            usages = usage(problem, candidates)
            nearer = (problem.violation(candidates) == 0) & (usages > used)
            if used >= _USED_UP or not nearer.any():
                break
            genome = self._least_damaged(candidates[nearer], usages[nearer])
        return genome

    def _neighbours(self, genome: Genome) -> Genome:
        """Genomes in which one choice has one or two options more and another one up to three less."""
        n = len(genome)
        steps = [(i, a, j, b) for i in range(n) for a in (1, 2) for j in range(n) if i != j for b in (1, 2, 3)]
        rows = np.repeat(genome[None], len(steps), axis=0)
        for row, (i, a, j, b) in zip(rows, steps, strict=True):
            row[i] += a
            row[j] -= b
        inside = ((rows >= 0) & (rows < self.space.counts)).all(axis=1)
        return self.space.canonical_genomes(rows[inside])

    def _damage(self, genome: Genome) -> float:
        return float(sum(damage[option] for damage, option in zip(self.damages, genome.tolist(), strict=True)))


def usage(problem: Problem, genomes: Genome) -> Floats:
    """The largest share of a limit that is used, (population,)."""
    if not len(genomes) or not problem.constraints:
        return np.zeros(len(genomes))
    costs = problem.costs(genomes)
    used: Floats = np.max([np.asarray(costs[c.name]) / c.range[1] for c in problem.constraints], axis=0)
    return used


def fits(problem: Problem, genome: Genome) -> bool:
    return bool(problem.violation(genome[None])[0] == 0)


def shares_of(choice: Choice) -> Floats:
    """Each option as a share of the largest; words by their place.

    >>> shares_of(Choice("stem", "width", (8, 16, 32))).tolist()
    [0.25, 0.5, 1.0]
    """
    values = [o if isinstance(o, int) else i + 1 for i, o in enumerate(choice.options)]
    return np.array(values, dtype=np.float64) / values[-1]


def interpolated(shares: Floats, points: Mapping[int, float]) -> Floats:
    """Damage of every option, never falling as options get smaller; none is known beyond the smallest point."""
    options = sorted({*points, len(shares) - 1}, reverse=True)
    damage = np.maximum.accumulate([max(points.get(o, 0.0), 0.0) for o in options])[::-1]
    damage = np.where(damage < _NOTHING, 0.0, damage)  # slopes of denormal numbers overflow
    known = shares[options][::-1]
    if len(options) == 1:
        return np.where(np.arange(len(shares)) < options[0], _UNKNOWN, 0.0)
    inside = PchipInterpolator(known, damage)(np.maximum(shares, known[0])) if len(options) > 2 else None
    values = np.interp(shares, known, damage) if inside is None else inside
    damages: Floats = np.where(shares < known[0], damage[0] + _UNKNOWN, np.maximum(values, 0.0))
    return damages
