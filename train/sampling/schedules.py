"""Schedules: which part of the space is trained when (once-for-all's progressive shrinking, Cai et al., 2020)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ofa import SearchSpace


class Schedule(ABC):
    """The part of a space that subnets are drawn from, by the progress of the training.

    >>> from ofa import Choice
    >>> class WidthsLate(Schedule):
    ...     def space(self, whole, progress):
    ...         late = {choice.name: choice.options[-1:] for choice in whole.choices if choice.kind == "width"}
    ...         return whole.restrict(late) if progress < 0.5 else whole
    >>> whole = SearchSpace((Choice("stem", "width", (8, 16)),))
    >>> [WidthsLate().space(whole, progress)["stem"].options for progress in (0.0, 0.5)]
    [(16,), (8, 16)]
    """

    @abstractmethod
    def space(self, whole: SearchSpace, progress: float) -> SearchSpace:
        """The sub-space at `progress` in [0, 1); it always holds the largest subnet."""


@dataclass(frozen=True)
class Everything(Schedule):
    """All choices from the first step on.

    >>> from ofa import Choice
    >>> Everything().space(SearchSpace((Choice("stem", "width", (8, 16)),)), 0.0).size
    2
    """

    def space(self, whole: SearchSpace, progress: float) -> SearchSpace:
        return whole


@dataclass(frozen=True)
class ProgressiveShrinking(Schedule):
    """One kind of choice after the other becomes elastic, each in `stages` steps of more options.

    `kinds` is the order; a kind that the space lacks takes no time. The phases share the training equally, a
    kind's last phase weighing `last` times as much as its others (once-for-all: 120 epochs against 25).

    >>> from ofa import Choice
    >>> whole = SearchSpace((Choice("stem", "width", (8, 16, 32)), Choice("stage.depth", "depth", (1, 2))))
    >>> schedule = ProgressiveShrinking()
    >>> [schedule.space(whole, progress)["stem"].options for progress in (0.0, 0.5, 0.9)]
    [(32,), (16, 32), (8, 16, 32)]

    Raises:
        ValueError: an unknown kind, one twice, fewer than 1 stage, or `last` not above 0.
    """

    kinds: tuple[str, ...] = ("resolution", "kernel", "depth", "width")
    stages: int = 2
    last: float = 4.0

    def __post_init__(self) -> None:
        allowed = ("resolution", "kernel", "depth", "width", "sparsity")
        unknown = [kind for kind in self.kinds if kind not in allowed]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds is an order of {', '.join(allowed)}, each once, got {self.kinds}")
        if self.stages < 1 or self.last <= 0:
            raise ValueError(f"stages is at least 1 and last above 0, got {self.stages} and {self.last}")

    def space(self, whole: SearchSpace, progress: float) -> SearchSpace:
        phases = self.phases(whole)
        total, passed = sum(weight for _, _, weight in phases), 0.0
        for kind, stage, weight in phases:
            passed += weight
            if progress * total < passed:
                return self._opened(whole, kind, stage)
        return whole

    def phases(self, whole: SearchSpace) -> list[tuple[str, int, float]]:
        """(kind, stage from 1, weight) of every phase that opens another option."""
        result = []
        for kind in self.kinds:
            longest = max((len(c.options) for c in whole.choices if c.kind == kind), default=1)
            stages = min(self.stages, longest - 1)
            result += [(kind, s, self.last if s == stages else 1.0) for s in range(1, stages + 1)]
        return result

    def _opened(self, whole: SearchSpace, current: str, stage: int) -> SearchSpace:
        """Kinds before the current one, and unnamed ones, have all options, it the largest few, later ones one."""
        options = {}
        position = self.kinds.index(current)
        for choice in whole.choices:
            known = self.kinds.index(choice.kind) if choice.kind in self.kinds else -1
            if known >= position:
                smaller = len(choice.options) - 1
                stages = min(self.stages, max(smaller, 1))
                more = -(-smaller * min(stage, stages) // stages) if known == position else 0
                options[choice.name] = choice.options[smaller - more :]
        return whole.restrict(options)
