"""Hard limits on the costs of a subnet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.search.objectives import COSTS, written

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constraint:
    """Lower and upper limit, both included, of one cost.

    A limit x with 0 < x <= 1 is a fraction of the largest subnet's cost, unless `absolute`.

    Raises:
        ValueError: an unknown cost, no limit, one that is not positive, or a lower one above the upper one.
    """

    name: str
    upper: float | None = None
    lower: float | None = None
    absolute: bool = False

    def __post_init__(self) -> None:
        if self.name not in COSTS:
            raise ValueError(f"a budget limits {', '.join(COSTS)}, got {self.name!r}")
        limits = [limit for limit in (self.lower, self.upper) if limit is not None]
        if not limits or not all(_is_limit(limit) for limit in limits):
            raise ValueError(
                f"a budget on {self.name} is a positive number or a fraction, got {self.upper!r}"
                + (f" and {self.lower!r} below" if self.lower is not None else "")
            )
        alike = self.absolute or len({limit <= 1 for limit in limits}) == 1
        if alike and limits[0] > limits[-1]:
            raise ValueError(f"the budget on {self.name} has its lower limit {limits[0]} above the upper {limits[1]}")

    @classmethod
    def parse(cls, budget: Mapping[str, Any]) -> tuple[Constraint, ...]:
        """Constraints from `{cost: upper}` or `{cost: (lower, upper)}`; None is no limit."""
        constraints = []
        for name, limits in budget.items():
            if limits is None:
                continue
            pair = isinstance(limits, Sequence) and not isinstance(limits, str)
            if pair and len(limits) != 2:
                raise ValueError(f"a budget on {name} is an upper limit or a [lower, upper] pair, got {limits!r}")
            lower, upper = limits if pair else (None, limits)
            constraints.append(cls(name, upper=upper, lower=lower))
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
            f"{word} {written(self.name, limit)}" if self.absolute or limit > 1 else f"{word} {limit:g} of the largest"
            for word, limit in (("at least", self.lower), ("at most", self.upper))
            if limit is not None
        ]
        return f"{self.name} {' and '.join(parts)}"


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
