"""Expected hypervolume improvement, of exact and of predicted objectives together, and batches that add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr
from scipy.stats import qmc

from ofa.arrays import BoolArray, FloatArray
from ofa.search.engines import nondominated

_DRAWN = 2**14  # points of the box of which those that could still be gained are kept
_KEPT = 2_048
_SURE = 1e-9  # the deviation of what is exact


@dataclass(frozen=True)
class Beliefs:
    """What is believed of candidates: means and deviations of their gains, (population, objectives)."""

    means: FloatArray
    deviations: FloatArray

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True)
class Improvement:
    """The part of a box that a front does not dominate and candidates may: points in it, and their volume each.

    A candidate's expected improvement is the volume that it dominates with its probability; what two candidates are
    both likely to dominate counts once, so that a batch spreads by itself.

    >>> front = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> beliefs = Beliefs(np.array([[0.6, 0.6], [0.1, 0.1]]), np.full((2, 2), 0.01))
    >>> gain = Improvement.over(front, beliefs, np.random.default_rng(0))
    >>> gain.batch(beliefs, 1)[0]
    [0]
    """

    points: FloatArray  # (points, objectives)
    volume: float

    @classmethod
    def over(cls, front: FloatArray, beliefs: Beliefs, rng: np.random.Generator) -> Improvement:
        """From `front`, (rows, objectives) of gains; the box reaches from what is worst to what is hoped for."""
        hoped = beliefs.means + 2 * beliefs.deviations
        low = np.minimum(front.min(axis=0), beliefs.means.min(axis=0)) if len(front) else beliefs.means.min(axis=0)
        high = np.maximum(hoped.max(axis=0), front.max(axis=0)) if len(front) else hoped.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        low = low - 0.05 * span  # so that both ends of the front count
        unit = qmc.Sobol(front.shape[1], rng=rng).random(_DRAWN)
        points = low + unit * (high - low + 1e-12)
        points = points[~dominated(points, front)]
        points = points[dominated(points, hoped[nondominated(hoped)])]
        volume = float(np.prod((high - low) / span)) / _DRAWN
        return cls(points[:_KEPT], volume * max(len(points) / _KEPT, 1.0))

    def batch(self, beliefs: Beliefs, number: int, pending: Beliefs | None = None) -> tuple[list[int], float]:
        """The rows to evaluate together, the best first, and the share of the box that they are expected to gain.

        What is likely to be gained by those that are `pending` counts as gained.
        """
        if not len(self.points):
            return [], 0.0
        reach, chosen, total = self._reached(beliefs), list[int](), 0.0
        open_ = np.ones(len(self.points)) if pending is None else np.prod(1 - self._reached(pending), axis=0)
        while len(chosen) < min(number, len(beliefs)):
            gains = reach @ open_
            gains[chosen] = -1.0
            best = int(gains.argmax())
            if gains[best] <= 0:
                break
            total += float(gains[best]) * self.volume
            open_ *= 1 - reach[best]
            chosen.append(best)
        return chosen, total

    def _reached(self, beliefs: Beliefs) -> FloatArray:
        """The probability with which each candidate dominates each point, (population, points)."""
        reach = np.ones((len(beliefs), len(self.points)))
        for mean, deviation, level in zip(beliefs.means.T, beliefs.deviations.T, self.points.T, strict=True):
            ahead = mean[:, None] - level
            reach *= ndtr(ahead / np.maximum(deviation, _SURE)[:, None]) if deviation.any() else ahead >= 0
        return reach


def dominated(points: FloatArray, front: FloatArray) -> BoolArray:
    """Which points a front reaches in every objective, (points,) of booleans."""
    result = np.zeros(len(points), dtype=bool)
    for row in front:
        result |= (points <= row).all(axis=1)
    return result
