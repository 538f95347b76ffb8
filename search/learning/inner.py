"""NSGA-II on a model: where its front is, as far as it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ofa.arrays import FloatArray
from ofa.search import sampling
from ofa.search.engines import best
from ofa.search.problem import Problem
from ofa.space import Genome

Gains = Callable[[Genome], FloatArray]
"""What is believed of genomes, (population, choices): their gains, (population, objectives)."""

_REMEMBERED = 12  # generations whose children are handed out besides the survivors


@dataclass(frozen=True)
class Population:
    """Genomes (n, choices), what is believed of them (n, objectives), and how far they are outside the budget (n,)."""

    genomes: Genome
    gains: FloatArray
    violations: FloatArray

    def best(self, number: int) -> Population:
        rows = best(self.gains, self.violations, number)
        return Population(self.genomes[rows], self.gains[rows], self.violations[rows])

    def joined(self, others: Population) -> Population:
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Population(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Inner:
    """NSGA-II, `population` a generation, on beliefs that cost nothing; a whole generation is believed at once."""

    problem: Problem
    population: int = 100
    generations: int = 60
    crossover: float = 0.9

    def run(self, gains: Gains, start: Genome, rng: np.random.Generator) -> Genome:
        """Distinct genomes in the budget, (n, choices), of the last generations, begun with `start`."""
        drawn = self.problem.repaired(sampling.skewed(self.problem.space, rng, self.population), rng)
        parents = self._judged(np.unique(np.concatenate([start, drawn]), axis=0), gains).best(self.population)
        late = [parents.genomes]
        for generation in range(self.generations):
            known = {parent.tobytes() for parent in parents.genomes}
            children = np.unique(self._children(parents.genomes, rng), axis=0)
            fresh = children[[child.tobytes() not in known for child in children]]
            if len(fresh):
                parents = parents.joined(self._judged(fresh, gains)).best(self.population)
                if generation >= self.generations - _REMEMBERED:
                    late.append(fresh)
        last: Genome = np.unique(np.concatenate([*late, parents.genomes]), axis=0)
        inside: Genome = last[self.problem.violation(last) == 0]
        return inside

    def _judged(self, genomes: Genome, gains: Gains) -> Population:
        return Population(genomes, gains(genomes), self.problem.violation(genomes))

    def _children(self, parents: Genome, rng: np.random.Generator) -> Genome:
        """As many canonical children as parents, (population, choices): uniform crossover, a gene or so mutated.

        Of two parents drawn the one that survived further up is taken; half of the mutations are to a neighbour.
        """
        number, choices = parents.shape
        first, second = (parents[rng.integers(0, number, (2, self.population)).min(axis=0)] for _ in range(2))
        crossed = (rng.random((self.population, 1)) < self.crossover) & (rng.random(first.shape) < 0.5)
        children = np.where(crossed, second, first)
        counts = self.problem.space.counts
        step = np.clip(children + rng.choice([-1, 1], children.shape), 0, counts - 1)
        other = np.where(rng.random(children.shape) < 0.5, step, rng.integers(0, counts, children.shape))
        children = np.where(rng.random(children.shape) < 1.5 / choices, other, children)
        return self.problem.space.canonical_genomes(children)
