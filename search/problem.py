"""What is searched: a space, objectives, exact costs and a budget, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ofa.search import sampling
from ofa.search.budget import Constraint
from ofa.search.objectives import Floats, LatencyMs, Objective
from ofa.slicing import Importance
from ofa.space import Genome, SearchSpace, Subnet

Costs = Callable[[Genome], Mapping[str, Floats]]
"""Named costs, each of shape (population,), of genomes of shape (population, choices)."""

UnitScores = Callable[[Importance], Mapping[str, Floats]]
"""The importance of the units of every width choice, by its name, under a measure: `Supernet.importance`."""

_POOL = 2_000  # genomes drawn to see what the space offers
_REPAIRED = 256  # of which at most so many are moved towards the budget
_TRIES = 8  # random single-option moves tried at each step of a repair
_STALLS = 8  # steps without progress after which a repair gives up
_ENUMERABLE = 20_000  # the largest space that is listed in full


@dataclass(frozen=True)
class Problem:
    """A space with objectives, costs and constraints that are absolute; made once, by `parse`.

    Engines that rank units have their `importance` from it: `Supernet.importance`. `samples` are the pictures that an
    evaluation looks at, if it is known.

    >>> from ofa.space import Choice
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> costs = lambda genomes: {"macs": 1e6 * (1 + genomes[:, 0])}
    >>> problem = Problem.parse(space, ["accuracy", "macs"], costs, {"macs": 0.5})
    >>> problem.constraints
    (Constraint(cost=Macs(), upper=1500000.0, lower=None, absolute=True),)
    >>> problem.listed.tolist()
    [[0]]
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    costs: Costs
    constraints: tuple[Constraint, ...]
    importance: UnitScores | None = None
    samples: int | None = None

    @classmethod
    def parse(
        cls,
        space: SearchSpace,
        objectives: Sequence[Objective | str],
        costs: Costs,
        constraints: Sequence[Constraint] | Mapping[str, object] = (),
        importance: UnitScores | None = None,
        samples: int | None = None,
    ) -> Problem:
        """Check names, and turn fractions of the largest subnet into absolute limits.

        Raises:
            ValueError: a space without choices, an unknown objective, or a limit on something that `costs` does not
                give.
        """
        if not len(space):
            raise ValueError("the space has no choices: there is nothing to search")
        if isinstance(constraints, Mapping):
            constraints = Constraint.parse(constraints)
        largest = costs(space.encode(space.largest)[None])
        for constraint in constraints:
            if constraint.name not in largest:
                hint = "; attach a latency predictor to the costs" if constraint.name.startswith(LatencyMs.name) else ""
                raise ValueError(f"{constraint}: the costs are {', '.join(sorted(largest))}{hint}")
        resolved = tuple(c.resolved(float(largest[c.name][0])) for c in constraints)
        return cls(space, Objective.parse(objectives), costs, resolved, importance, samples)

    @cached_property
    def axis(self) -> str:
        """The cost to spread samples along: the first objective that is one, else the first limited, else MACs."""
        names = list(self.costs(self._extremes))
        wanted = [objective.name for objective in self.objectives] + [c.name for c in self.constraints]
        return next((name for name in [*wanted, "macs"] if name in names), names[0])

    @property
    def _extremes(self) -> Genome:
        return np.stack([self.space.encode(self.space.smallest), self.space.encode(self.space.largest)])

    def violation(self, genomes: Genome) -> Floats:
        """How far genomes are outside the budget, summed over constraints, shape (population,)."""
        if not self.constraints:
            return np.zeros(len(genomes))
        costs = self.costs(genomes)
        total: Floats = np.sum([c.violation(np.asarray(costs[c.name])) for c in self.constraints], axis=0)
        return total

    def exceeded(self, metrics: Mapping[str, float]) -> float:
        """How far what was told is outside the budget: a latency that was measured, where only a predicted one fits."""
        told = [c.violation(np.array([metrics[c.name]])) for c in self.constraints if c.name in metrics]
        return float(np.sum(told)) if told else 0.0

    def repaired(self, genomes: Genome, rng: np.random.Generator) -> Genome:
        """Those of `genomes` that are in the budget or get there by improving single-option moves."""
        genomes, violation = self._moved(genomes, rng)
        inside: Genome = genomes[violation == 0]
        return inside

    def _moved(self, genomes: Genome, rng: np.random.Generator) -> tuple[Genome, Floats]:
        """Genomes as near to the budget as single-option moves bring them, and how far outside they are.

        Gives up after as many moves as lie between smallest and largest, or some without progress.
        """
        genomes = self.space.canonical_genomes(genomes)
        violation = self.violation(genomes)
        stalls = 0
        for _ in range(int((self.space.counts - 1).sum())):
            bad = np.flatnonzero(violation > 0)
            if not len(bad) or stalls == _STALLS:
                break
            moves = self._moves(genomes[bad], rng)
            scores = self.violation(moves.reshape(-1, len(self.space))).reshape(len(bad), _TRIES)
            improves = scores < violation[bad, None]
            move = improves.argmax(axis=1)  # the first that improves: a random one, so repairs stay diverse
            rows = np.flatnonzero(improves.any(axis=1))
            genomes[bad[rows]] = moves[rows, move[rows]]
            violation[bad[rows]] = scores[rows, move[rows]]
            stalls = 0 if len(rows) else stalls + 1
        return genomes, violation

    def _moves(self, genomes: Genome, rng: np.random.Generator) -> Genome:
        """Random neighbours, one choice one option up or down, shape (population, tries, choices)."""
        moves = np.repeat(genomes[:, None], _TRIES, axis=1)
        rows, tries = np.indices(moves.shape[:2])
        choice = rng.integers(0, len(self.space), rows.shape)
        step = rng.choice([-1, 1], rows.shape)
        option = np.clip(moves[rows, tries, choice] + step, 0, self.space.counts[choice] - 1)
        moves[rows, tries, choice] = option
        return self.space.canonical_genomes(moves)

    def pool(self, rng: np.random.Generator, wanted: int) -> Genome:
        """Distinct genomes in the budget, all over its range of costs, with the extremes if they are in it.

        Raises:
            ValueError: the budget is out of reach; says what the space offers.
        """
        drawn: Genome = np.unique(np.concatenate([self._extremes, sampling.skewed(self.space, rng, _POOL)]), axis=0)
        violation = self.violation(drawn)
        feasible: Genome = drawn[violation == 0]
        if len(feasible) < wanted:
            nearest = np.argsort(np.where(violation > 0, violation, np.inf), kind="stable")[:_REPAIRED]
            repaired = self.repaired(drawn[nearest[violation[nearest] > 0]], rng)
            feasible = np.unique(np.concatenate([feasible, repaired]), axis=0)
        if not len(feasible):
            feasible = self.listed
        if not len(feasible):
            raise ValueError(f"{self.out_of_reach(drawn)}; the nearest subnet has {self._nearest(drawn, rng)}")
        return feasible

    def _nearest(self, drawn: Genome, rng: np.random.Generator) -> str:
        """The limited costs of the subnet that is least outside the budget, as far as moves from `drawn` lead."""
        first = np.argsort(self.violation(drawn), kind="stable")[:_TRIES]
        moved, violation = self._moved(drawn[first], rng)
        return self.limited(moved[int(violation.argmin())])

    def stratified(self, pool: Genome, number: int) -> Genome:
        """At most `number` rows of `pool`, spread along the cost, both extremes first if there."""
        extremes = [np.flatnonzero((pool == extreme).all(axis=1)) for extreme in self._extremes]
        kept = dict.fromkeys(int(index) for rows in extremes for index in rows)
        return pool[sampling.spread(np.asarray(self.costs(pool)[self.axis]), number, list(kept))]

    def out_of_reach(self, genomes: Genome) -> str:
        """What is asked, and what the space reaches, as far as `genomes`, (population, choices), tell."""
        asked = " and ".join(str(constraint) for constraint in self.constraints)
        costs = self.costs(np.concatenate([self._extremes, genomes]))
        ranges = []
        for cost in self._limited:
            low, high = float(np.min(costs[cost.name])), float(np.max(costs[cost.name]))
            ranges.append(f"{cost.name} from {cost.written(low)} to {cost.written(high)}")
        found = f"no subnet was found in the budget of {asked}; this space reaches {' and '.join(ranges)}"
        shares = [limit for constraint in self.constraints for limit in constraint.range if 1 < limit <= 100]
        return found + (f"; if {shares[-1]:g} per cent is meant, say {shares[-1] / 100:g}" if shares else "")

    def admitted(self, genome: Genome) -> Genome:
        """A given genome, (choices,), in canonical form.

        Raises:
            ValueError: it is outside the budget; says what it costs.
        """
        canonical = self.space.canonical_genomes(genome)
        if self.violation(canonical[None])[0] > 0:
            asked = " and ".join(str(constraint) for constraint in self.constraints)
            raise ValueError(f"this subnet has {self.limited(canonical)}, the budget is {asked}")
        return canonical

    def limited(self, genome: Genome) -> str:
        """The costs of a genome, (choices,), that are limited, in words."""
        costs = self.costs(genome[None])
        return " and ".join(f"{cost.name} {cost.written(float(costs[cost.name][0]))}" for cost in self._limited)

    @property
    def _limited(self) -> list[Objective]:
        """The costs that are limited, once each."""
        return list(dict.fromkeys(constraint.objective for constraint in self.constraints))

    @cached_property
    def listed(self) -> Genome:
        """Every distinct genome in the budget if the space is small enough to be listed, else none."""
        if self.space.size > _ENUMERABLE:
            return np.empty((0, len(self.space)), dtype=np.int64)
        grid = np.indices(tuple(int(n) for n in self.space.counts)).reshape(len(self.space), -1).T
        genomes: Genome = np.unique(self.space.canonical_genomes(grid.astype(np.int64)), axis=0)
        inside: Genome = genomes[self.violation(genomes) == 0]
        return inside

    def cost(self, subnet: Subnet) -> dict[str, float]:
        """The named costs of one subnet."""
        return {name: float(value[0]) for name, value in self.costs(self.space.encode(subnet)[None]).items()}

    def gains(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Objective values turned so that larger is better."""
        return tuple(objective.gain(objective.value(metrics)) for objective in self.objectives)
