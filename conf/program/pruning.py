"""How a network is pruned: in how many steps, to which limits, and what makes a step good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ofa.search import Constraint
from ofa.train import Recipe
from ofa.train.masks import Masking
from ofa.train.recipe import SCHEDULES
from ofa.train.tasks import AdaptiveSoft, DistillationLoss


@dataclass(frozen=True)
class Finetuning:
    """How a pruned network learns again: by `recipe`, and for `teacher_share` of the loss from the original.

    `soft` is the distance to the original; `label_smoothing` softens the labels.

    Before, `trials` settings are tried for `trial_epochs` epochs each, the recipe's own first: `rates` are the least
    and the greatest factor of the recipe's, and `schedules` what else is tried. The best on the validation split
    goes on. `masking` says how N:M masks change meanwhile, where layers have a pattern, and `scores` what the first
    ones go by: the magnitude of the weights, or that times the norm of their inputs (Wanda).
    """

    recipe: Recipe = field(default_factory=Recipe)
    soft: DistillationLoss = field(default_factory=AdaptiveSoft)
    teacher_share: float = 0.5
    label_smoothing: float = 0.1
    trials: int = 0
    trial_epochs: int = 1
    rates: tuple[float, float] = (0.2, 5.0)
    schedules: tuple[str, ...] = ("cosine", "constant")
    masking: Masking = field(default_factory=Masking)
    scores: Literal["magnitude", "wanda"] = "magnitude"

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_share <= 1:
            raise ValueError(f"teacher_share is a share between 0 and 1, got {self.teacher_share}")
        if self.trials < 0 or self.trial_epochs < 1:
            raise ValueError(f"no trial or more, of at least 1 epoch, got {self.trials} and {self.trial_epochs}")
        if len(self.rates) != 2 or not 0 < self.rates[0] <= self.rates[1]:
            raise ValueError(f"rates are the least and the greatest factor, above 0, got {list(self.rates)}")
        if self.scores not in ("magnitude", "wanda"):
            raise ValueError(f"scores is magnitude or wanda, got {self.scores!r}")
        unknown = [name for name in self.schedules if name not in SCHEDULES]
        if unknown or not self.schedules:
            raise ValueError(f"schedules are of {', '.join(SCHEDULES)}, got {list(self.schedules)}")


@dataclass(frozen=True)
class Pruning:
    """How a network is pruned to the budget: in how many steps, and what makes a step good.

    `finetuning` says how it learns again after each.

    A step's limits lie between the whole network's costs and the budget, evenly in the logarithm. `schedule` gives them
    by hand, as shares of the whole network's first limited cost; else there are `steps`, or without a number as many
    that each keeps at least `keep` of what was there. Where the accuracy after finetuning is more than `tolerance`
    points below the original's, the step is taken back and halved, `halvings` times at most. `index` picks from
    the engine's ranking, 0 the best and -1 the worst (the drop-in counts as Vitis does). `recalibrate` gives every
    candidate statistics of its own, which come from training pictures; `validation_stride` scores it on every n-th
    batch of the validation split.
    """

    finetuning: Finetuning | None = None
    schedule: tuple[float, ...] | None = None
    steps: int | None = 1
    keep: float = 0.85
    tolerance: float | None = None
    halvings: int = 2
    index: int = 0
    recalibrate: bool = True
    validation_stride: int = 1

    def __post_init__(self) -> None:
        shares = self.schedule or ()
        if any(not 0 < b < a for a, b in zip((1.0, *shares), shares, strict=False)):
            raise ValueError(f"schedule holds shares between 0 and 1, each below the one before, got {list(shares)}")
        if (self.steps is not None and self.steps < 1) or not 0 < self.keep < 1:
            raise ValueError(f"at least 1 step, and keep between 0 and 1, got {self.steps} and {self.keep}")
        if self.halvings < 0 or self.validation_stride < 1 or (self.tolerance or 0) < 0:
            raise ValueError(
                "halvings and tolerance are at least 0 and validation_stride at least 1, got"
                f" {self.halvings}, {self.tolerance} and {self.validation_stride}"
            )

    def ladder(self, share: float) -> tuple[float, ...]:
        """How far each step goes, from above 0 to 1, to a budget of `share` of the whole network.

        Raises:
            ValueError: the schedule ends elsewhere than the budget.
        """
        if self.schedule is not None:
            if not math.isclose(self.schedule[-1], share, rel_tol=1e-3):
                raise ValueError(f"the schedule ends at {self.schedule[-1]}, the budget is {share:.4g} of the network")
            return tuple(math.log(s) / math.log(share) for s in self.schedule)
        steps = self.steps or max(1, math.ceil(math.log(share) / math.log(self.keep) - 1e-9))
        return tuple((i + 1) / steps for i in range(steps))


def limits_of(given: Pruning, constraints: Sequence[Constraint], bounded: bool) -> tuple[Constraint, ...]:
    """The limits that pruning goes to; those of a `bounded` search, which stops by itself, may be none.

    Raises:
        ValueError: there has to be a budget, or there must be no schedule, or it ends elsewhere.
    """
    if bounded and given.schedule:
        raise ValueError(
            f"pruning.schedule={[*given.schedule]} leads to a budget, but this search stops by itself"
            " (at a threshold, or at a given subnet): leave the schedule out"
        )
    limits = tuple(constraints)
    if not limits and given.schedule:
        limits = (Constraint("macs", upper=given.schedule[-1]),)
    upper = [c.upper for c in limits if c.upper is not None]
    if not bounded and not upper:
        raise ValueError("pruning needs a budget: budget.macs=0.5, or params, weight_bytes or latency_ms")
    if given.schedule and upper[0] <= 1:
        given.ladder(upper[0])
    return limits


def between(whole: float, limit: Constraint, progress: float) -> Constraint:
    """The limit after a part of the way, evenly in the logarithm; a lower one keeps its distance to the upper."""
    assert limit.absolute
    if limit.upper is None:
        return limit
    upper = whole * (limit.upper / whole) ** progress
    return replace(limit, upper=upper, lower=None if limit.lower is None else upper * limit.lower / limit.upper)
