"""Once-for-All's search (Cai et al., 2020): a predictor learned from random subnets, and evolution on it a budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.arrays import FloatArray
from ofa.search import sampling
from ofa.search.engines import Engine, Ledger, Proposer, check_numbers, usual_evaluations
from ofa.search.learning.belief import Belief
from ofa.search.learning.surrogates import Boosting
from ofa.search.problem import Problem
from ofa.space import Genome

_TIMES = 2  # as many candidates as are asked for, since some were evaluated before


@dataclass(frozen=True)
class PredictedEvolution(Engine):
    """Settings of Once-for-All's search; its predictor here is boosted trees, learned once.

    `share` of the evaluations are random subnets, the rest the answers for budgets all over the cost: in each, the
    `parents` best of `individuals` go on, and children come half from crossover, half from a `mutation` of each gene.
    `generations` is the number of these for each budget, `population` that of subnets asked for at a time,
    `evaluations` that of all subnets.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(4)))
    >>> problem = Problem.parse(space, ["accuracy", "macs"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> len(PredictedEvolution(population=8, evaluations=16).start(problem).ask())
    8
    """

    population: int = 10
    evaluations: int | None = None
    share: float = 0.7
    individuals: int = 100
    parents: float = 0.25
    mutation: float = 0.1
    generations: int = 30

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, self.population)

    def size(self, problem: Problem) -> tuple[int, int]:
        return self.evaluations or usual_evaluations(problem), self.population

    def proposer(self, problem: Problem) -> Proposer:
        return Budgets(self, problem)


class Budgets(Proposer):
    """Once-for-All's search under way: first the subnets to learn from, then one for each budget."""

    def __init__(self, settings: PredictedEvolution, problem: Problem) -> None:
        self.settings = settings
        self.belief = Belief(problem, lambda: Boosting(200))
        self._proposed_at = -1

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        learned = self.settings.share * ledger.evaluations
        told = ledger.told()
        if len(told) < max(learned, 4) or self._proposed_at == len(ledger):
            return sampling.uniform(ledger.problem.space, rng, number)
        self._proposed_at = len(ledger)
        if not self.belief.models and self.belief.learned:
            self.belief.learn(ledger)
        cost = np.asarray(ledger.problem.costs(ledger.pool)[ledger.problem.axis])
        limits = rng.uniform(cost.min(), cost.max(), _TIMES * number)
        return np.stack([self._evolved(ledger.problem, limit, rng) for limit in limits])

    def _evolved(self, problem: Problem, limit: float, rng: np.random.Generator) -> Genome:
        """The best genome, (choices,), that evolution on the predictor finds within a limit of the cost."""
        settings, space = self.settings, problem.space
        population = sampling.skewed(space, rng, settings.individuals)
        kept = max(int(settings.parents * settings.individuals), 1)
        for _ in range(settings.generations):
            parents = population[np.argsort(-self._fitness(problem, population, limit), kind="stable")[:kept]]
            born = settings.individuals - kept
            first, second = parents[rng.integers(0, kept, (2, born))]
            crossed = np.where(rng.random(first.shape) < 0.5, first, second)
            changed = np.where(
                rng.random(first.shape) < settings.mutation, rng.integers(0, space.counts, first.shape), first
            )
            children = np.where((np.arange(born) % 2 == 0)[:, None], crossed, changed)
            population = np.concatenate([parents, space.canonical_genomes(children)])
        best: Genome = population[int(self._fitness(problem, population, limit).argmax())]
        return best

    def _fitness(self, problem: Problem, genomes: Genome, limit: float) -> FloatArray:
        """The first objective's predicted gain; less than any where the limit or the budget is exceeded."""
        cost = np.asarray(problem.costs(genomes)[problem.axis])
        outside = np.maximum(cost / limit - 1, 0) + problem.violation(genomes)
        return np.asarray(self.belief.gains(genomes)[:, 0] - 1e3 * outside)
