"""What a study of hyper-parameters is told: which settings it tunes, from where to where, and how its trials go."""

from __future__ import annotations

import typing
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

PRUNERS = {
    "median": lambda t: optuna.pruners.MedianPruner(n_startup_trials=t.startup, n_warmup_steps=t.warmup + 1),
    "hyperband": lambda t: optuna.pruners.HyperbandPruner(min_resource=t.warmup + 1, max_resource=t.epochs),
    "none": lambda t: optuna.pruners.NopPruner(),
}


@dataclass(frozen=True)
class Dimension:
    """What a setting may be: from `low` to `high`, evenly in the logarithm if `log`, or one of `choices` if given."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.choices is not None:
            if not self.choices or not all(isinstance(c, str | float | int | None) for c in self.choices):
                raise ValueError(f"choices are one or more numbers or texts, got {self.choices}")
        elif self.low is None or self.high is None:
            raise ValueError(f"low and high, or choices, are needed; got low {self.low} and high {self.high}")
        elif not self.low <= self.high:
            raise ValueError(f"low is at most high, got {self.low} and {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"low is above 0 on a logarithmic scale, got {self.low}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must be valid if all are; whole ones as such."""
        if self.choices is not None:
            return self.choices
        return tuple(int(end) if end is not None and end.is_integer() else end for end in (self.low, self.high))

    def __contains__(self, value: Any) -> bool:
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        return isinstance(value, float | int) and self.low <= value <= self.high

    def distribution(self, whole: bool) -> Any:
        """Optuna's word for it; `whole` numbers only."""
        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        return (IntDistribution if whole else FloatDistribution)(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Tuning:
    """How a study goes: `trials` of `epochs` each over `space`, a `Dimension` for each dotted setting.

    The first `startup` trials are drawn at random and never pruned, nor is any in its first `warmup` epochs.
    `pruner` says how bad trials are stopped: median, hyperband or none.
    """

    space: Mapping[str, Any]
    trials: int = 20
    epochs: int = 5
    startup: int = 5
    warmup: int = 1
    pruner: str = "median"

    def __post_init__(self) -> None:
        if not isinstance(self.space, Mapping):
            raise ValueError(f"space names settings to tune, got {self.space!r}")
        if self.trials < 1 or self.startup < 1:
            raise ValueError(f"at least 1 trial, and 1 at the start, got {self.trials} and {self.startup}")
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(f"warmup is from 0 to below the {self.epochs} epochs, got {self.warmup}")
        if self.pruner not in PRUNERS:
            raise ValueError(f"unknown pruner {self.pruner!r}; allowed: {', '.join(PRUNERS)}")

    def nodes(self, known: Container[str]) -> dict[str, Any]:
        """What is given for each setting; dotted and nested names mean the same, and null takes a setting out."""
        found: dict[str, Any] = {}
        for key, given in leaves(self.space, known):
            both = isinstance(given, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = {**found[key], **given} if both else given
        return {key: given for key, given in found.items() if given is not None}

    def pruning(self) -> Any:
        """Optuna's pruner; its steps are epochs, counted from 1."""
        return PRUNERS[self.pruner](self)

    def sampling(self, *seed: int) -> Any:
        """Optuna's tree-structured Parzen estimator (Bergstra et al., 2011)."""
        state = np.random.SeedSequence(seed).generate_state(1)
        return optuna.samplers.TPESampler(n_startup_trials=self.startup, seed=int(state[0]))


def leaves(space: Mapping[str, Any], known: Container[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that a space names, as `a.b: …` or as `a: {b: …}`."""
    for name, given in space.items():
        key = f"{prefix}{name}"
        inner = given.values() if isinstance(given, Mapping) and key not in known else ()
        if inner and all(value is None or isinstance(value, Mapping) for value in inner):
            yield from leaves(given, known, f"{key}.")
        else:
            yield key, given


def tunable(component: Any, node: Mapping[str, Any], prefix: str) -> dict[str, tuple[Any, Any]]:
    """Value and type of each setting of a component and of those that its configuration node names, by dotted name."""
    hints = typing.get_type_hints(type(component))
    result: dict[str, tuple[Any, Any]] = {}
    for field in fields(component):
        name, value = f"{prefix}.{field.name}", getattr(component, field.name)
        if not is_dataclass(value):
            result[name] = value, hints[field.name]
        elif node.get(field.name) is not None:
            result |= tunable(value, node[field.name], name)
    return result
