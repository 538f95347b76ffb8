"""Every option scored once against the largest network, and an integer program for any budget (after Puzzle, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from ofa.arrays import FloatArray
from ofa.search import sampling
from ofa.search.engines import Engine, Ledger, Proposer, check_numbers, global_generators
from ofa.search.learning.integer_program import Pair, Program, Sums
from ofa.search.problem import Problem
from ofa.space import Genome, SearchSpace, Subnet

_CORRECTIONS = 4  # solutions whose exact cost moves the limit of the next


@dataclass(frozen=True)
class Blockwise(Engine):
    """Settings of blockwise search: one pass over the options, `mixed` random subnets, `answers` for budgets.

    The pass takes one evaluation for every option but the largest; what a subnet loses is then the sum of what its
    options lose, a skipped block's nothing, and of what pairs add where the random subnets show it. Integer programs
    with costs linearised in pairs give the best subnet of a budget; it is evaluated like any other. `population` is
    the number of subnets asked for at a time, `evaluations` cuts the answers short.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24)) for i in range(3)))
    >>> problem = Problem.parse(space, ["accuracy", "macs"], lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)})
    >>> Blockwise(mixed=4, answers=5).size(problem)
    (16, 10)
    """

    population: int = 10
    evaluations: int | None = None
    mixed: int = 24
    answers: int = 20

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, self.population)

    def size(self, problem: Problem) -> tuple[int, int]:
        number = len(changes(problem.space)) + self.mixed + self.answers
        return min(number, self.evaluations or number), self.population

    def proposer(self, problem: Problem) -> Proposer:
        return Blocks(self, problem)


class Blocks(Proposer):
    """Blockwise search under way: the pass, the mixed ones, the answers."""

    probes: ClassVar[bool] = True

    def __init__(self, settings: Blockwise, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        self.changed = changes(problem.space)
        self.costs = {name: linearised(problem, name) for name in self._limited()}
        self._answers: Genome | None = None

    def _limited(self) -> list[str]:
        """The costs that budgets limit: those of the problem, and the one along which answers spread."""
        return list(dict.fromkeys([self.problem.axis, *(c.name for c in self.problem.constraints)]))

    def fresh(self, ledger: Ledger, number: int, rng: np.random.Generator) -> list[Genome]:
        passed = len(self.changed) + self.settings.mixed
        if len(ledger) < passed and len(ledger) < ledger.evaluations // 2 + 1:
            found = ledger.take([self.changed], number)  # outside of the budget, too: to learn from
            if found:
                return found
            mixed = sampling.skewed(self.problem.space, rng, number)
            return ledger.take([mixed], min(number, passed - len(ledger)))
        if self._answers is None and ledger.waiting:
            return []  # what is pending is part of the pass
        return super().fresh(ledger, number, rng)

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        if self._answers is None:
            wanted = ledger.left + number
            self._answers = self.solved(self.worth(ledger), wanted)
        if all(genome.tobytes() in ledger.seen for genome in self._answers):
            return sampling.skewed(self.problem.space, rng, number)
        return self._answers

    def ranked(self, ledger: Ledger) -> list[Subnet]:
        encode = self.problem.space.encode
        return [s for s in ledger.ranked() if not self.problem.violation(encode(s)[None])[0]]

    # ------------------------------------------------------------ what is learned

    def worth(self, ledger: Ledger) -> Sums:
        """What every option gains against the largest, and pairs add, in the first objective that is learned."""
        space = self.problem.space
        known = self.problem.costs(self.changed[:1])
        column = next((i for i, o in enumerate(self.problem.objectives) if o.name not in known), 0)
        told = {genome.tobytes(): gains[column] for genome, gains in ledger.told()}
        whole = told.get(self.changed[0].tobytes(), float(np.mean(list(told.values()) or [0.0])))
        single = [np.zeros(count) for count in space.counts]
        for genome in self.changed[1:]:
            (i,) = np.flatnonzero(genome != self.changed[0])
            single[i][genome[i]] = told.get(genome.tobytes(), whole) - whole
        sums = Sums(whole, *absent(space, tuple(single)))
        rest = [(g, gains[column]) for g, gains in ledger.told() if (g != self.changed[0]).sum() > 1]
        return (
            interacting(sums, np.stack([g for g, _ in rest]), np.array([v for _, v in rest])) if len(rest) > 7 else sums
        )

    def solved(self, worth: Sums, number: int) -> Genome:
        """The best genomes of `number` budgets all over the reachable costs, (n, choices)."""
        program = Program(worth, list(self.costs.values()))
        exact = self.problem.costs(self.changed)
        space, axis = self.problem.space, self.problem.axis
        low = float(np.asarray(self.problem.costs(space.encode(space.smallest)[None])[axis])[0])
        top = {name: float(np.asarray(exact[name]).max()) for name in self.costs}
        for constraint in self.problem.constraints:
            top[constraint.name] = min(top[constraint.name], constraint.range[1])
        found = [self.answer(program, {**top, axis: limit}) for limit in np.geomspace(low, top[axis], number)[::-1]]
        return np.unique(np.stack([g for g in found if g is not None] or [self.changed[0]]), axis=0)

    def answer(self, program: Program, limits: dict[str, float]) -> Genome | None:
        """The best genome within limits on exact costs: each solution's error moves the next one's limit."""
        allowed, space = dict(limits), self.problem.space
        for _ in range(_CORRECTIONS):
            genome = program.solve([allowed[name] for name in self.costs])
            if genome is None:
                return None
            genome = space.canonical_genomes(genome)
            costs = self.problem.costs(genome[None])
            excess = {name: float(np.asarray(costs[name])[0]) - limit for name, limit in limits.items()}
            if max(excess.values()) <= 0:
                return genome
            allowed = {name: allowed[name] - max(excess[name], 0.0) for name in limits}
        return None


def changes(space: SearchSpace) -> Genome:
    """The largest genome, and those that differ from it in one option, (n, choices)."""
    largest = space.encode(space.largest)
    rows = [largest]
    for i, count in enumerate(space.counts.tolist()):
        for option in range(count - 1):
            rows.append(np.where(np.arange(len(space)) == i, option, largest))
    _, first = np.unique(canonical := space.canonical_genomes(np.stack(rows)), axis=0, return_index=True)
    return canonical[np.sort(first)]


def absent(space: SearchSpace, single: tuple[FloatArray, ...]) -> tuple[tuple[FloatArray, ...], dict[Pair, FloatArray]]:
    """What options lose counts where their block runs: a choice's loss turns into that of its pair with the depth."""
    pairs: dict[Pair, FloatArray] = {}
    kept = list(single)
    names = [choice.name for choice in space.choices]
    for i, choice in enumerate(space.choices):
        if len(choice.within) == 1:
            stage, position = choice.within[0]
            depth = names.index(stage)
            runs = np.array([float(int(option) > position) for option in space.choices[depth].options])
            pairs[depth, i] = runs[:, None] * single[i][None]
            kept[i] = np.zeros_like(single[i])
    return tuple(kept), pairs


def interacting(sums: Sums, genomes: Genome, gains: FloatArray) -> Sums:
    """Add what pairs of losses explain of the gains that sums do not, (rows,): a lasso over products of losses."""
    with global_generators(0):  # what it imports draws from them
        from sklearn.linear_model import LassoCV

    singles = [values.copy() for values in sums.single]
    for (_, i), values in sums.pairs.items():
        singles[i] = values[-1]  # where all blocks of the stage run
    losses = np.stack([values[genomes[:, i]] for i, values in enumerate(singles)], axis=1)
    chosen = np.argsort(-np.abs(losses).mean(axis=0))[:12].tolist()  # pairs of what matters
    pairs = [(min(a, b), max(a, b)) for a, b in combinations(chosen, 2)]
    products = np.stack([losses[:, a] * losses[:, b] for a, b in pairs], axis=1)
    scale = np.maximum(products.std(axis=0), 1e-12)
    missed = gains - sums(genomes)
    model = LassoCV(cv=4, alphas=20, max_iter=20_000).fit(products / scale, missed)
    added = dict(sums.pairs)
    for (a, b), weight in zip(pairs, model.coef_ / scale, strict=True):
        if weight:
            values = weight * singles[a][:, None] * singles[b][None]
            added[a, b] = added.get((a, b), np.zeros_like(values)) + values
    return Sums(sums.constant + float(model.intercept_), sums.single, added)


def linearised(problem: Problem, name: str) -> Sums:
    """A cost around the largest: exact for it, for one changed option and for two."""
    space = problem.space
    largest = space.encode(space.largest)

    def cost(genomes: list[Genome]) -> FloatArray:
        return np.asarray(problem.costs(space.canonical_genomes(np.stack(genomes)))[name], dtype=np.float64)

    def changed(*options: tuple[int, int]) -> Genome:
        genome = largest.copy()
        for i, option in options:
            genome[i] = option
        return genome

    counts = space.counts.tolist()
    whole = float(cost([largest])[0])
    single = tuple(cost([changed((i, k)) for k in range(n)]) - whole for i, n in enumerate(counts))
    every = list(combinations(range(len(counts)), 2))
    both = cost([changed((i, 0), (j, 0)) for i, j in every] or [largest])
    pairs: dict[Pair, FloatArray] = {}
    for (i, j), together in zip(every, both, strict=False):
        if abs(together - whole - single[i][0] - single[j][0]) > 1e-9 * abs(whole):
            grid = [changed((i, a), (j, b)) for a in range(counts[i]) for b in range(counts[j])]
            table = cost(grid).reshape(counts[i], counts[j])
            pairs[i, j] = table - whole - single[i][:, None] - single[j][None]
    return Sums(whole, single, pairs)
