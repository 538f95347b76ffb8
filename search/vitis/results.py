"""Scores in memory, of which every new one is in a JSON file before it counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ofa import Subnet
from ofa.search import Archive

Save = Callable[[Mapping[Subnet, float]], None]


class Results(Archive):
    """An archive of one metric that calls `save` with all scores after each new one."""

    def __init__(self, metric: str, save: Save) -> None:
        super().__init__(":memory:")
        self.metric, self._save = metric, save

    @property
    def scores(self) -> dict[Subnet, float]:
        """In the order of evaluation."""
        return {subnet: metrics[self.metric] for subnet, metrics in self.items()}

    def add(self, subnet: Subnet, metrics: Mapping[str, float], seconds: float = 0.0) -> None:
        super().add(subnet, metrics, seconds)
        self._save(self.scores)

    def recall(self, subnet: Subnet, score: float) -> None:
        """Take in a score that the file has."""
        if subnet not in self:
            super().add(subnet, {self.metric: score})


def gain(score: float, mode: str) -> float:
    """A score as a number of which the largest is best; one that is no number is the worst."""
    if math.isnan(score):
        return -math.inf
    return score if mode == "max" else -score
