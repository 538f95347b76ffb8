"""Rules: which subnets learn in a step, and from what.

The sandwich rule (Yu & Huang, 2019; BigNAS, 2020), uniform sampling (Guo et al., 2020), sampling uniform in cost, and
attentive sampling (AttentiveNAS, Wang et al., 2021).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ofa import SearchSpace, Subnet, Supernet
from ofa.arrays import FloatArray
from ofa.space import Genome, sample_at_cost
from ofa.train.sampling.forecast import LossForecast
from ofa.train.sampling.schedules import Everything, Schedule
from ofa.train.tasks import Step


@dataclass(frozen=True)
class Rule(ABC):
    """Which subnets learn in a step, and from what.

    The first of a step learns from labels, and for `teacher_share` of its loss from the teacher, if there is one; the
    others learn from the teacher, or without one from the first, and for `label_share` of their loss from labels.
    `label_smoothing` softens the labels. `schedule` says which choices are elastic when; `seed` decides the subnets.
    A rule of yours inherits from this and has `choose`; YAML names it by `supernet.rule={_target_: package.Mine}`.

    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> subnets = SandwichRule(randoms=1).draw(supernet, Step(number=0, total=10))
    >>> len(subnets), subnets[:2] == (supernet.space.largest, supernet.space.smallest)
    (3, True)

    Raises:
        ValueError: a share is not between 0 and 1.
    """

    label_smoothing: float = 0.1
    teacher_share: float = 0.0
    label_share: float = 0.0
    schedule: Schedule = field(default_factory=Everything)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "teacher_share", "label_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")

    def draw(self, supernet: Supernet, step: Step) -> tuple[Subnet, ...]:
        """The subnets of a step; they depend on the seed and the step, not on the number of processes."""
        rng = np.random.default_rng([self.seed, step.number])
        space = self.schedule.space(supernet.space, step.progress)
        return self.choose(space, supernet, rng)

    @abstractmethod
    def choose(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> tuple[Subnet, ...]:
        """At least one subnet of `space`, which is `supernet`'s own or a part of it."""

    def probes(self, space: SearchSpace) -> list[Subnet]:
        """Subnets whose validation loss the rule wants to `learn` after an epoch."""
        return []

    def learn(self, space: SearchSpace, subnets: Sequence[Subnet], losses: Sequence[float]) -> None:
        """Hear how the probes did."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the probes have taught the rule."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        return None


@dataclass(frozen=True)
class SandwichRule(Rule):
    """The largest, the smallest and `randoms` random subnets.

    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> [subnet["0.width"] for subnet in SandwichRule(randoms=0).draw(supernet, Step(number=0, total=10))]
    [16, 8]

    Raises:
        ValueError: fewer than 0 `randoms`.
    """

    randoms: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.randoms < 0:
            raise ValueError(f"randoms is at least 0, got {self.randoms}")

    def choose(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> tuple[Subnet, ...]:
        return space.largest, space.smallest, *self.between(space, supernet, rng)

    def between(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> list[Subnet]:
        """The subnets between the slices of bread."""
        return [space.sample(rng) for _ in range(self.randoms)]


@dataclass(frozen=True)
class UniformRule(Rule):
    """`nets` random subnets, every option equally likely.

    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> len(UniformRule(nets=3).draw(supernet, Step(number=0, total=10)))
    3

    Raises:
        ValueError: fewer than 1 of `nets`.
    """

    nets: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nets < 1:
            raise ValueError(f"nets is at least 1, got {self.nets}")

    def choose(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> tuple[Subnet, ...]:
        return tuple(space.sample(rng) for _ in range(self.nets))


@dataclass(frozen=True)
class MacsUniformRule(UniformRule):
    """`nets` random subnets whose MACs are uniform between the smallest's and the largest's.

    Independent options crowd around the middle; here a target is drawn first, and a random subnet brought to it by
    bisection on the exact cost, without tables of an earlier sampling.

    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.zeros(1, 4))
    >>> low, high = (supernet.cost(end).macs for end in (supernet.space.smallest, supernet.space.largest))
    >>> [subnet] = MacsUniformRule().draw(supernet, Step(number=0, total=10))
    >>> low <= supernet.cost(subnet).macs <= high
    True
    """

    def choose(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> tuple[Subnet, ...]:
        return tuple(of_random_macs(space, supernet, rng, 1)[0] for _ in range(self.nets))


@dataclass(frozen=True)
class AttentiveRule(SandwichRule):
    """The sandwich, whose random subnets are each the most promising of `candidates` of the same MACs, or the least.

    Which one that is, a forecast says that learns from the validation losses of `examined` random subnets after every
    epoch (`best` trains the front, its opposite what lags behind: AttentiveNAS' BestUp and WorstUp).
    `forecast` is the one that says so.

    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.zeros(1, 4))
    >>> rule = AttentiveRule(randoms=1)
    >>> probes = rule.probes(supernet.space)
    >>> rule.learn(supernet.space, probes, [0.5] * len(probes))  # their validation losses
    >>> len(probes), len(rule.draw(supernet, Step(number=0, total=10)))
    (4, 3)

    Raises:
        ValueError: fewer than 1 of `candidates` or `examined`.
    """

    candidates: int = 3
    best: bool = True
    examined: int = 4
    forecast: LossForecast = field(default_factory=LossForecast, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.examined < 1:
            raise ValueError(f"candidates and examined are at least 1, got {self.candidates} and {self.examined}")

    def between(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> list[Subnet]:
        chosen = []
        for _ in range(self.randoms):
            candidates = of_random_macs(space, supernet, rng, self.candidates)
            losses = self.forecast(supernet.space, candidates)
            chosen.append(candidates[int(np.argmin(losses) if self.best else np.argmax(losses))])
        return chosen

    def probes(self, space: SearchSpace) -> list[Subnet]:
        rng = np.random.default_rng([self.seed, self.forecast.seen, 1])
        return [space.sample(rng) for _ in range(self.examined)]

    def learn(self, space: SearchSpace, subnets: Sequence[Subnet], losses: Sequence[float]) -> None:
        self.forecast.learn(space, subnets, losses)

    def state_dict(self) -> dict[str, Any]:
        return self.forecast.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.forecast.load_state_dict(state)


def of_random_macs(space: SearchSpace, supernet: Supernet, rng: np.random.Generator, number: int) -> list[Subnet]:
    """`number` random subnets of `space`, a part of the supernet's, near one MACs target, uniform over its range."""

    def macs(genomes: Genome) -> FloatArray:
        return supernet.costs(supernet.space.lifted(genomes, space))["macs"]

    smallest, largest = macs(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
    target = rng.uniform(smallest, largest)
    return [space.decode(genome) for genome in sample_at_cost(space, macs, np.full(number, target), rng)]
