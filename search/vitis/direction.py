"""Which scores are better, the large or the small ones: told by what pruning does to them, where nobody says it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ofa.search.vitis.errors import OptimizerInvalidArgumentError

CLEAR = 3.0  # times as much as all changes the other way
BETTER = {"max": "higher", "min": "lower"}


def direction(whole: float, scores: Iterable[float]) -> str:
    """ "max" where pruning lowers scores, "min" where it raises them; empty where that cannot be told.

    Scores that are all alike have any direction, since none is better.

    >>> direction(0.9, [0.8, 0.5, 0.92]), direction(0.1, [0.4, 2.3]), direction(0.5, [0.4, 0.6]), direction(1, [1, 1])
    ('max', 'min', '', 'max')
    """
    changes = [score - whole for score in scores if not math.isnan(score)]
    risen, fallen = sum(max(change, 0.0) for change in changes), sum(max(-change, 0.0) for change in changes)
    if fallen >= CLEAR * risen:
        return "max"
    return "min" if risen >= CLEAR * fallen else ""


def described(whole: float, scores: Iterable[float]) -> str:
    """How many pruned networks score above and below the whole one."""
    numbers = list(scores)
    above, below = sum(score > whole for score in numbers), sum(score < whole for score in numbers)
    return f"of {len(numbers)} pruned networks {above} score above the whole one's {whole:g} and {below} below"


def check_told(told: str, whole: float, scores: Iterable[float], call: str) -> None:
    """Raise an error, which names the call that helps, where the direction is not told."""
    if not told:
        raise OptimizerInvalidArgumentError(
            f"whether higher or lower scores are better cannot be told, {described(whole, scores)}:"
            f" {call}(mode='max') or {call}(mode='min') says it, and evaluates nothing anew"
        )


def announced(said: str, whole: float, scores: Iterable[float]) -> str:
    """A sentence on the direction: what was inferred, or that what was said is not what the scores say."""
    numbers = list(scores)
    told, facts = direction(whole, numbers), described(whole, numbers)
    if not said:
        return f"{BETTER[told]} scores are better, as it seems ({facts}); mode= would say otherwise"
    against = told not in ("", said) and any(score != whole for score in numbers)
    return f"mode={said!r} is taken as said, though {facts}" if against else ""
