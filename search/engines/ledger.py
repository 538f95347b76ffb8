"""What a search has asked and been told: each subnet once, priced with its batch when it was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ofa.search.problem import Problem
from ofa.space import Genome, Subnet


@dataclass(frozen=True)
class Entry:
    """A subnet that was asked for, as which: its canonical genome, (choices,), and its exact costs by name."""

    subnet: Subnet
    genome: Genome
    costs: Mapping[str, float]
    position: int


class Ledger:
    """The books of a search: what was asked, in which order, what was told of it, and what is left to ask.

    `pool` holds distinct genomes in the budget, all over its range, (population, choices): what to begin with.
    `seen` are the keys of all that was taken to be asked for. Metrics that are told take precedence over costs of the
    same name (a measured latency over a predicted one).

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace((Choice("stem", "width", (8, 16, 32)),))
    >>> problem = Problem.parse(space, ["accuracy"], lambda genomes: {"macs": 1.0 + genomes[:, 0]})
    >>> ledger = Ledger(problem, evaluations=2, batch=1, rng=np.random.default_rng(0))
    >>> [subnet] = ledger.ask(ledger.take([np.array([[2]])], 1))
    >>> ledger.tell(subnet, {"accuracy": 90.0})
    >>> ledger.results[subnet], ledger.left
    ({'macs': 3.0, 'accuracy': 90.0}, 1)

    Raises:
        ValueError: no evaluations, or a budget that is out of reach; says what the space offers.
    """

    def __init__(self, problem: Problem, evaluations: int, batch: int, rng: np.random.Generator) -> None:
        check_numbers(evaluations, batch)
        self.problem, self.evaluations, self.batch = problem, evaluations, batch
        self.pool = problem.pool(rng, batch)
        self.seen: set[bytes] = set()
        self.results: dict[Subnet, dict[str, float]] = {}
        self._entries: dict[bytes, Entry] = {}
        self._keys: dict[Subnet, bytes] = {}

    @property
    def left(self) -> int:
        """How many evaluations are left to ask for."""
        return self.evaluations - len(self.seen)

    @property
    def waiting(self) -> int:
        """How many subnets were asked for and not told yet."""
        return len(self._entries) - len(self.results)

    def take(self, rounds: Iterable[Genome], number: int) -> list[Genome]:
        """The first `number` genomes of some rounds, each (n, choices), that were never taken before; or fewer."""
        found: list[Genome] = []
        if number < 1:
            return found
        for genome in (genome for genomes in rounds for genome in genomes):
            if genome.tobytes() not in self.seen:
                self.seen.add(genome.tobytes())
                found.append(genome)
            if len(found) == number:  # before another round is drawn
                break
        return found

    def ask(self, genomes: Sequence[Genome]) -> list[Subnet]:
        """Enter one batch of genomes that were taken, each (choices,), with their costs."""
        costs = self.problem.costs(np.stack(genomes)) if genomes else {}
        batch = []
        for row, genome in enumerate(genomes):
            priced = {name: float(values[row]) for name, values in costs.items()}
            batch.append(Entry(self.problem.space.decode(genome), genome, priced, len(self) + row))
        self._entries |= {entry.genome.tobytes(): entry for entry in batch}
        self._keys |= {entry.subnet: entry.genome.tobytes() for entry in batch}
        return [entry.subnet for entry in batch]

    def tell(self, subnet: Subnet, metrics: Mapping[str, float]) -> None:
        """Enter the metrics of a subnet that was asked for.

        Raises:
            ValueError: it was not asked for, it was told before, or an objective is missing.
        """
        if subnet in self.results or subnet not in self._keys:
            raise ValueError(f"{'told twice' if subnet in self.results else 'never asked for'}: {subnet}")
        costs = self._entries[self._keys[subnet]].costs
        known = {**costs, **{name: float(value) for name, value in metrics.items()}}
        self.problem.gains(known)
        self.results[subnet] = known

    def adopt(self, subnet: Subnet, metrics: Mapping[str, float]) -> bool:
        """Enter what somebody else evaluated, as if it had been asked for; False where it is not of this search.

        That is a subnet that was told, is outside the space or the budget, or whose metrics lack an objective.
        """
        if subnet not in self._keys:
            try:
                genome = self.problem.admitted(self.problem.space.encode(subnet))
                self.problem.gains({**self.problem.cost(subnet), **metrics})
            except ValueError:
                return False
            self.seen.add(genome.tobytes())
            [subnet] = self.ask([genome])
        if subnet in self.results:
            return False
        self.tell(subnet, metrics)
        return True

    @property
    def pending(self) -> Genome:
        """What was asked for and not told yet, in the order asked, (waiting, choices)."""
        open_ = [entry.genome for entry in self._entries.values() if entry.subnet not in self.results]
        return np.array(open_, dtype=np.int64).reshape(-1, len(self.problem.space))

    def gains(self, genome: Genome) -> tuple[float, ...] | None:
        """What was told of a canonical genome, (choices,): a number an objective, larger is better; None if nothing."""
        told = self.metrics(genome)
        return None if told is None else self.problem.gains(told)

    def exceeded(self, genome: Genome) -> float:
        """How far outside the budget a canonical genome, (choices,), was told to be; 0 where nothing is known."""
        told = self.metrics(genome)
        return 0.0 if told is None else self.problem.exceeded(told)

    def metrics(self, genome: Genome) -> Mapping[str, float] | None:
        """Metrics and costs of a canonical genome, (choices,), that was told; None if it was not."""
        entry = self._entries.get(genome.tobytes())
        return None if entry is None else self.results.get(entry.subnet)

    def told(self, since: int = 0) -> list[tuple[Genome, tuple[float, ...]]]:
        """Genomes and gains of all but the `since` that were told first, in the order asked; those that are finite."""
        entries = [self._entries[self._keys[subnet]] for subnet in islice(self.results, since, None)]
        entries.sort(key=lambda entry: entry.position)
        rows = [(entry.genome, self.problem.gains(self.results[entry.subnet])) for entry in entries]
        return [(genome, gains) for genome, gains in rows if np.all(np.isfinite(gains))]

    def ranked(self) -> list[Subnet]:
        """What was told, the best in the first objective first; nothing that is not finite there."""
        gains = {subnet: self.problem.gains(metrics)[0] for subnet, metrics in self.results.items()}
        return sorted((s for s, gain in gains.items() if np.isfinite(gain)), key=lambda s: -gains[s])

    def __len__(self) -> int:
        """How many subnets were asked for."""
        return len(self._entries)


def usual_evaluations(problem: Problem) -> int:
    """How many evaluations a search makes that was told no number: as its space and its pictures are worth.

    Twenty and four a choice, at most 300; never more than there are subnets, or pictures to tell them apart.

    >>> from ofa import Choice, SearchSpace
    >>> space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(40)))
    >>> costs = lambda genomes: {"macs": 1.0 + genomes.sum(axis=1)}
    >>> usual_evaluations(Problem.parse(space, ["accuracy"], costs)), usual_evaluations(
    ...     Problem.parse(space, ["accuracy"], costs, samples=73))
    (180, 73)
    """
    wanted = min(20 + 4 * int((problem.space.counts > 1).sum()), 300)
    told_apart = wanted if problem.samples is None else max(problem.samples, 24)
    return max(min(wanted, told_apart, problem.space.distinct), 1)


def check_numbers(evaluations: int | None, batch: int) -> None:
    """Refuse a search that would evaluate nothing.

    >>> check_numbers(None, 0)
    Traceback (most recent call last):
    ValueError: a search needs at least 1 evaluation, and 1 at a time, got None and 0

    Raises:
        ValueError: less than one evaluation, or than one at a time.
    """
    if (evaluations is not None and evaluations < 1) or batch < 1:
        raise ValueError(f"a search needs at least 1 evaluation, and 1 at a time, got {evaluations} and {batch}")
