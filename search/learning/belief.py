"""What is believed of every objective: costs as they are, the others from a model of what was evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ofa.arrays import FloatArray
from ofa.search.engines import Ledger
from ofa.search.learning.features import Features
from ofa.search.learning.improvement import Beliefs
from ofa.search.learning.surrogates import Contest, Fitted, Rows, Surrogate
from ofa.search.objectives import Objective
from ofa.search.problem import Problem
from ofa.space import Genome


@dataclass(frozen=True)
class Learned:
    """A model of one objective's gain: fitted to targets that were centred and scaled."""

    objective: Objective
    fitted: Fitted
    centre: float
    scale: float
    noise: float  # the deviation of an evaluation in the objective's unit; 0 where nothing reports it

    def means(self, features: FloatArray) -> FloatArray:
        return self.centre + self.scale * self.fitted.means(features)

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and deviations of the gain, (population,) each."""
        means, deviations = self.fitted.predict(features)
        return self.centre + self.scale * means, self.scale * deviations


@dataclass
class Belief:
    """Learns, at every round, those objectives of a problem that are no costs; the others it computes.

    Gains are divided by the range of what was evaluated, so that objectives count alike. An evaluation that reports
    its own deviation, as `accuracy_sd` beside `accuracy`, is trusted that far. Without `exact`, costs are learned, too.
    """

    problem: Problem
    surrogate: Callable[[], Surrogate] = Contest
    exact: bool = True
    models: dict[str, Learned] = field(default_factory=dict, init=False)
    ways: dict[str, Surrogate] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        space = self.problem.space
        self.features = Features(self.problem)
        self.computed = set(self.problem.costs(space.encode(space.smallest)[None])) if self.exact else set()
        self.ways = {objective.name: self.surrogate() for objective in self.learned}
        self.low = np.zeros(len(self.problem.objectives))
        self.span = np.ones(len(self.problem.objectives))

    @property
    def learned(self) -> list[Objective]:
        """The objectives that only evaluating tells."""
        return [objective for objective in self.problem.objectives if objective.name not in self.computed]

    def learn(self, ledger: Ledger) -> None:
        """Fit every model to what was told."""
        told = ledger.told()
        genomes, gains = np.stack([genome for genome, _ in told]), np.array([gains for _, gains in told])
        self.low, self.span = gains.min(axis=0), np.maximum(np.ptp(gains, axis=0), 1e-12)
        features = self.features(genomes)
        for column, objective in enumerate(self.problem.objectives):
            if objective.name in self.ways:
                reported = self._reported(ledger, genomes, objective)
                self.models[objective.name] = self._fit(objective, features, gains[:, column], reported)

    def _fit(self, objective: Objective, features: FloatArray, gains: FloatArray, reported: FloatArray) -> Learned:
        centre, scale = float(gains.mean()), float(gains.std()) or 1.0
        rows = Rows(features, self.features.groups, (gains - centre) / scale, (reported / scale) ** 2)
        return Learned(objective, self.ways[objective.name].fit(rows), centre, scale, float(np.median(reported)))

    def _reported(self, ledger: Ledger, genomes: Genome, objective: Objective) -> FloatArray:
        """The deviation that every evaluation reports of itself, (rows,), 0 where it does not."""
        metrics = [ledger.metrics(genome) or {} for genome in genomes]
        return np.array([float(figures.get(f"{objective.name}_sd", 0.0)) for figures in metrics])

    def gains(self, genomes: Genome) -> FloatArray:
        """Expected gains, each on its range, (population, objectives)."""
        features, exact = self._seen(genomes)
        columns = [
            self.models[objective.name].means(features) if objective.name in self.models else exact[objective.name]
            for objective in self.problem.objectives
        ]
        return (np.stack(columns, axis=1) - self.low) / self.span

    def of(self, genomes: Genome) -> Beliefs:
        """Expected gains and their deviations, each on its range; those of costs have none."""
        features, exact = self._seen(genomes)
        sure = np.zeros(len(genomes))
        pairs = [
            self.models[objective.name].predict(features)
            if objective.name in self.models
            else (exact[objective.name], sure)
            for objective in self.problem.objectives
        ]
        means, deviations = (np.stack(columns, axis=1) for columns in zip(*pairs, strict=True))
        return Beliefs((means - self.low) / self.span, deviations / self.span)

    def _seen(self, genomes: Genome) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Features, and the gains of the objectives that are costs, by name, (population,) each: priced once."""
        costs = self.problem.costs(genomes)
        wanted = [objective for objective in self.problem.objectives if objective.name in self.computed]
        values = {objective: np.asarray(costs[objective.name], dtype=np.float64) for objective in wanted}
        return self.features(genomes, costs), {o.name: value if o.maximise else -value for o, value in values.items()}
