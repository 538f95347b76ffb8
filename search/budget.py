"""Hard limits on the costs of a subnet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa.search.objectives import CostObjective, Floats, Objective, objective_of, objectives, ours


@dataclass(frozen=True)
class Constraint:
    """Lower and upper limit, both included, of one cost: an objective's, ours by name.

    A limit x with 0 < x <= 1 is a fraction of the largest subnet's cost, unless `absolute`.

    >>> str(Constraint("macs", upper=0.5)), str(Constraint("macs", upper=0.5).resolved(largest=2e6))
    ('macs at most 0.5 of the largest', 'macs at most 1.000 M')

    Raises:
        ValueError: an unknown cost, no limit, one that is not positive, or a lower one above the upper one.
    """

    cost: Objective | str
    upper: float | None = None
    lower: float | None = None
    absolute: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", limited(self.cost))
        limits = [limit for limit in (self.lower, self.upper) if limit is not None]
        if not limits or not all(_is_limit(limit) for limit in limits):
            raise ValueError(
                f"a budget on {self.name} is a positive number or a fraction, got {self.upper!r}"
                + (f" and {self.lower!r} below" if self.lower is not None else "")
            )
        alike = self.absolute or len({limit <= 1 for limit in limits}) == 1
        if alike and limits[0] > limits[-1]:
            raise ValueError(f"the budget on {self.name} has its lower limit {limits[0]} above the upper {limits[1]}")

    @property
    def objective(self) -> Objective:
        """The cost that is limited."""
        return objective_of(self.cost)

    @property
    def name(self) -> str:
        return self.objective.name

    @classmethod
    def parse(cls, budget: Mapping[Any, Any]) -> tuple[Constraint, ...]:
        """Constraints from `{cost: upper}` or `{cost: (lower, upper)}`; None is no limit.

        Raises:
            ValueError: an unknown cost, or limits that are neither a number nor a pair of them.
        """
        constraints = []
        for cost, limits in budget.items():
            if limits is None:
                continue
            name = limited(cost).name
            pair = isinstance(limits, Sequence) and not isinstance(limits, str)
            if pair and len(limits) != 2:
                raise ValueError(f"a budget on {name} is an upper limit or a [lower, upper] pair, got {limits!r}")
            lower, upper = limits if pair else (None, limits)
            constraints.append(cls(cost, upper=upper, lower=lower))
        return tuple(constraints)

    def resolved(self, largest: float) -> Constraint:
        """The same limits without fractions, given the largest subnet's cost."""
        if self.absolute:
            return self
        upper, lower = (None if x is None else x * largest if x <= 1 else x for x in (self.upper, self.lower))
        return replace(self, upper=upper, lower=lower, absolute=True)

    @property
    def range(self) -> tuple[float, float]:
        """Lower and upper limit, with 0 and infinity where there is none."""
        return (
            0.0 if self.lower is None else float(self.lower),
            math.inf if self.upper is None else float(self.upper),
        )

    def violation(self, values: Floats) -> Floats:
        """How far `values` are outside, relative to the limit; 0 inside. Needs absolute limits."""
        assert self.absolute, "resolve the fractions first"
        lower, upper = self.range
        excess = np.maximum(values / upper - 1, 0.0)
        return excess + (np.maximum(1 - values / lower, 0.0) if lower > 0 else 0.0)

    def __str__(self) -> str:
        parts = [
            f"{word} {self.objective.written(limit)}"
            if self.absolute or limit > 1
            else f"{word} {limit:g} of the largest"
            for word, limit in (("at least", self.lower), ("at most", self.upper))
            if limit is not None
        ]
        return f"{self.name} {' and '.join(parts)}"


def limited(cost: Objective | str) -> CostObjective:
    """The cost that a budget limits.

    Raises:
        ValueError: it is none.
    """
    given = objective_of(cost) if isinstance(cost, str) and ours(cost) else cost
    if not isinstance(given, CostObjective):
        names = [name for name, kind in objectives().items() if issubclass(kind, CostObjective)]
        raise ValueError(f"a budget limits {', '.join(names)}, got {getattr(given, 'name', given)!r}")
    return given


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
