"""A search that learns: exact costs, a model of accuracy, and batches that are expected to gain the most.

After MSuNAS (Lu et al., 2020) and LINAS (Cummings et al., 2022), with the expected hypervolume improvement of Emmerich
(2006) instead of the model's own front, and nothing learned that can be computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np

from ofa.arrays import FloatArray
from ofa.search import sampling
from ofa.search.engines import Engine, Ledger, Proposer, check_numbers, nondominated, usual_evaluations
from ofa.search.learning.belief import Belief
from ofa.search.learning.forecasts import Forecast, Forecasts
from ofa.search.learning.improvement import Improvement
from ofa.search.learning.inner import Inner
from ofa.search.problem import Problem
from ofa.space import Genome

_CANDIDATES = 400  # that are weighed against each other for a batch
_DRAWN = 10  # one of so many in a batch is drawn at random: an error is honest where nobody has chosen
_LISTED = 5_000  # subnets that are all believed, without a search among them
_NEGLIGIBLE = 0.5  # of the noise
_SEEDS = 50  # of what was evaluated that the inner search begins with


@dataclass(frozen=True)
class Guided(Engine):
    """Settings of guided search: `spread` subnets over the exact cost, then a model proposes `population` at a time.

    `evaluations` follow from the space where none are given, see `usual_evaluations`.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(4)))
    >>> problem = Problem.parse(space, ["accuracy", "macs"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> search = Guided(evaluations=30, spread=20).start(problem)
    >>> while batch := search.ask():
    ...     for subnet in batch:
    ...         search.tell(subnet, {"accuracy": 50.0 + subnet["layer1"] - 0.1 * subnet["layer2"]})
    >>> search.stopped, search.ranked()[0]["layer1"]
    ('all 30 evaluations are done', 32)
    """

    evaluations: int | None = None
    spread: int = 24
    population: int = 10

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, min(self.spread, self.population))

    def size(self, problem: Problem) -> tuple[int, int]:
        return self.evaluations or usual_evaluations(problem), self.population

    def proposer(self, problem: Problem) -> Guide:
        return Guide(self, problem)


class Guide(Proposer):
    """Guided search under way: what is believed, and what was predicted before it was evaluated."""

    def __init__(self, settings: Guided, problem: Problem) -> None:
        self.settings = settings
        self.belief = Belief(problem)
        self.inner = Inner(problem)
        self.forecasts = Forecasts()
        self._first: Genome | None = None  # what the search begins with
        self._proposed_at = -1  # the length of the ledger when the model was last asked
        self._ended = ""

    # ------------------------------------------------------------ a round

    def fresh(self, ledger: Ledger, number: int, rng: np.random.Generator) -> list[Genome]:
        if self._first is None:
            self._first = self._spread(ledger, rng)
        left = len(self._first) - len(ledger)
        found = super().fresh(ledger, min(number, left) if left > 0 else number, rng) if not self._ended else []
        if self.belief.models:
            self._forecast(found)
        return found

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        assert self._first is not None
        if len(ledger) < len(self._first):
            return self._first
        if self._proposed_at == len(ledger) or len(ledger.told()) < 4:  # what the model proposed was not enough
            return sampling.skewed(ledger.problem.space, rng, number)
        self._proposed_at = len(ledger)
        return self._guided(ledger, number, rng)

    def _guided(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        """The batch that is expected to gain the most, the rest of the candidates behind it; one of ten by chance."""
        problem, told = ledger.problem, np.stack([genome for genome, _ in ledger.told()])
        self.belief.learn(ledger)
        inside = told[[not ledger.exceeded(genome) for genome in told]]
        told = inside if len(inside) else told
        gains = self.belief.gains(told)
        best = nondominated(gains)
        listed = problem.listed
        visited = listed if 0 < len(listed) <= _LISTED else self.inner.run(self.belief.gains, told[best[:_SEEDS]], rng)
        unseen = visited[[genome.tobytes() not in ledger.seen for genome in visited]]
        drawn = problem.repaired(sampling.skewed(problem.space, rng, max(number // _DRAWN, 1) * 4), rng)
        drawn = drawn[: number // _DRAWN or int(rng.random() < number / _DRAWN)]
        if not len(unseen):
            return drawn
        unseen = self._promising(unseen)
        beliefs = self.belief.of(unseen)
        improvement = Improvement.over(gains[best], beliefs, rng)
        pending = self.belief.of(ledger.pending) if ledger.waiting else None
        chosen, expected = improvement.batch(beliefs, number - len(drawn), pending)
        self._note_gain(expected, gains[best])
        rest = [row for row in np.argsort(-beliefs.means.sum(axis=1)).tolist() if row not in set(chosen)]
        return np.concatenate([unseen[chosen], drawn, unseen[rest]])

    def _promising(self, genomes: Genome) -> Genome:
        """The candidates nearest to the believed front."""
        beliefs = self.belief.of(genomes)
        ranks = moocore.pareto_rank(beliefs.means + beliefs.deviations, maximise=True)
        return genomes[np.argsort(ranks, kind="stable")[:_CANDIDATES]]

    def _spread(self, ledger: Ledger, rng: np.random.Generator) -> Genome:
        """What to begin with: all over the cost, or over its upper half where no cost is an objective."""
        problem, pool = ledger.problem, ledger.pool
        if len(self.belief.learned) == len(problem.objectives):
            cost = np.asarray(problem.costs(pool)[problem.axis])
            upper = pool[cost >= np.median(cost)]
            pool = upper if len(upper) >= self.settings.spread else pool
        return problem.stratified(pool, min(self.settings.spread, ledger.evaluations))

    def _note_gain(self, expected: float, front: FloatArray) -> None:
        """End where a batch is expected to gain less than the noise of the front's hypervolume."""
        noises = [model.noise / span for model, span in zip(self.belief.models.values(), self._spans(), strict=True)]
        noise = max(noises, default=0.0) / np.sqrt(len(front))
        if expected < noise * _NEGLIGIBLE:
            self._ended = (
                f"a further batch is expected to gain {expected:.2g} of the hypervolume, an evaluation's noise is worth"
                f" {noise:.2g}"
            )

    def _spans(self) -> list[float]:
        names = [objective.name for objective in self.belief.problem.objectives]
        return [float(self.belief.span[names.index(name)]) for name in self.belief.models]

    # ------------------------------------------------------------ honesty

    def _forecast(self, genomes: list[Genome]) -> None:
        """Enter what is believed of what is about to be evaluated."""
        if not genomes:
            return
        features = self.belief.features(np.stack(genomes))
        for name, model in self.belief.models.items():
            means, deviations = model.predict(features)
            sign = 1 if model.objective.maximise else -1
            noise = model.fitted.noise * model.scale
            self.forecasts.made += [
                Forecast(genome, name, sign * float(mean), float(deviation), noise)
                for genome, mean, deviation in zip(genomes, means, deviations, strict=True)
            ]

    def note(self, ledger: Ledger) -> str:
        said = []
        for name, way in self.belief.ways.items():
            figures = self.forecasts.figures(ledger, name)
            if figures is not None:
                said.append(f"{name} by {way}, predicted before {figures.number} evaluations: {figures}")
        return "; ".join(said)

    def reason(self, ledger: Ledger) -> str:
        return self._ended or super().reason(ledger)

    def leave(self, ledger: Ledger, folder: Path) -> list[Path]:
        return [self.forecasts.save(ledger, folder / "predicted.csv")] if self.forecasts.made else []
