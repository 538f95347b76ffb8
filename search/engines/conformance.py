"""What every engine must hold to, as a suite that users run on their own.

Made like Optuna's `optuna.testing`: subclass it in a file of tests, give the engine, run pytest.
"""

from __future__ import annotations

import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ofa.search.archive import Archive
from ofa.search.engines.engine import Engine, Search
from ofa.search.objectives import Floats
from ofa.search.problem import Problem
from ofa.space import Choice, Genome, SearchSpace, Subnet

MOST = 500  # batches after which a search counts as endless


class EngineConformance(ABC):
    """Tests of an engine on a small problem: ask and tell, budgets, repetition, resuming.

    `budget` limits the problem's MACs (a share of the largest subnet's), None for engines that may not have one.

    >>> from ofa.search.engines import RandomSearch
    >>> class TestMyEngine(EngineConformance):
    ...     def engine(self):
    ...         return RandomSearch(population=4, evaluations=12)
    >>> TestMyEngine().test_nothing_is_asked_twice()
    """

    budget: float | None = 0.6

    @abstractmethod
    def engine(self) -> Engine:
        """The engine that is tested, with at most some hundred evaluations."""

    # ------------------------------------------------------------ the problem

    def space(self) -> SearchSpace:
        depth = Choice("stage.depth", "depth", (1, 2))
        widths = (Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(3))
        inner = Choice("inner", "width", (8, 16), (("stage.depth", 1),))  # means nothing while its block is skipped
        return SearchSpace((depth, *widths, inner))

    def problem(
        self,
        objectives: Sequence[str] = ("accuracy", "macs"),
        budget: float | None = None,
        space: SearchSpace | None = None,
    ) -> Problem:
        limit = self.budget if budget is None else budget
        space = space or self.space()
        importance = {c.name: np.linspace(2.0, 0.5, 32) for c in space.choices if c.kind == "width"}
        return Problem.parse(space, objectives, costs, {"macs": limit}, lambda measure: importance)

    def score(self, subnet: Subnet) -> dict[str, float]:
        """Accuracy and loss of a subnet: the larger the better, each choice by another weight."""
        genome = self.space().encode(subnet)
        accuracy = 50 + float((genome * np.arange(1, len(genome) + 1)).sum())
        return {"accuracy": accuracy, "loss": 100 - accuracy}

    # ------------------------------------------------------------ what holds

    def test_equal_seeds_ask_for_the_same(self) -> None:
        first, second = (self._asked(self.engine().start(self.problem(), seed=3)) for _ in range(2))
        assert first == second and first

    def test_the_order_in_which_a_batch_is_told_does_not_matter(self) -> None:
        forwards = self._asked(self.engine().start(self.problem(), seed=1))
        backwards = self._asked(self.engine().start(self.problem(), seed=1), backwards=True)
        assert forwards == backwards

    def test_nothing_is_asked_twice(self) -> None:
        asked = self._asked(self.engine().start(self.problem()))
        flat = [subnet for batch in asked for subnet in batch]
        assert len(flat) == len(set(flat)), "a subnet was asked for twice"

    def test_what_is_asked_is_canonical_and_what_it_leads_to_is_in_the_budget(self) -> None:
        search = self.engine().start(self.problem())
        space, probes = search.problem.space, search.proposer.probes
        for subnet in (subnet for batch in self._asked(search) for subnet in batch):
            genome = space.encode(subnet)
            assert (space.canonical_genomes(genome) == genome).all(), f"not canonical: {subnet}"
            assert probes or not search.problem.violation(genome[None])[0], f"outside the budget: {subnet}"
        assert search.ranked(), "it led to nothing"
        for subnet in search.ranked():
            assert not search.problem.violation(space.encode(subnet)[None])[0], f"outside the budget: {subnet}"

    def test_the_number_of_evaluations_is_kept_and_the_end_has_a_reason(self) -> None:
        search = self.engine().start(self.problem())
        asked = self._asked(search)
        assert sum(map(len, asked)) <= search.evaluations and search.stopped
        assert search.ask() == []

    def test_a_batch_has_to_be_told_before_the_next(self) -> None:
        search = self.engine().start(self.problem())
        batch = search.ask()
        with refused("tell them before asking again"):
            search.ask()
        search.tell(batch[0], self.score(batch[0]))
        with refused("told twice"):
            search.tell(batch[0], self.score(batch[0]))
        with refused("never asked for"):
            search.tell(Subnet({"layer0": 8}), {"accuracy": 1.0})

    def test_it_is_asked_for_more_while_others_are_pending(self) -> None:
        """Three are evaluated at a time, and the one that was begun last is ready first."""
        search, pending, counted = self.engine().start(self.problem()), list[Subnet](), 0
        for _ in range(MOST):
            more = search.ask_more(3 - len(pending))
            assert not set(more) & {*pending, *search.results}, "asked for again"
            pending += more
            if not pending:
                break
            search.tell(subnet := pending.pop(), self.score(subnet))
            counted += 1
        assert search.stopped and counted == len(search.results) <= search.evaluations
        alone = sum(map(len, self._asked(self.engine().start(self.problem()))))
        assert counted >= 0.8 * alone, f"{counted} evaluations, and {alone} where it is asked in batches"

    def test_what_others_evaluated_is_one_of_the_evaluations(self) -> None:
        asked = [subnet for batch in self._asked(self.engine().start(self.problem(), seed=5)) for subnet in batch]
        search = self.engine().start(self.problem(), seed=6)
        adopted = [s for s in asked[: -(-len(asked) // 2)] if search.adopt(s, self.score(s))]
        assert adopted == list(search.results) and not search.adopt(asked[0], self.score(asked[0]))
        assert not search.adopt(Subnet({"layer0": 8}), {"accuracy": 1.0}), "of another space"
        while batch := search.ask():
            assert not set(batch) & set(search.results), "asked for though it was adopted"
            for subnet in batch:
                search.tell(subnet, self.score(subnet))
        assert len(search.results) <= max(search.evaluations, len(adopted))

    def test_metrics_without_an_objective_are_refused_and_do_not_count(self) -> None:
        search = self.engine().start(self.problem())
        subnet = search.ask()[0]
        with refused("objective 'accuracy' is not among the metrics"):
            search.tell(subnet, {"loss": 1.0})
        search.tell(subnet, self.score(subnet))
        assert list(search.results) == [subnet]

    def test_results_have_the_exact_costs_unless_others_are_told(self) -> None:
        search = self.engine().start(self.problem())
        subnet = search.ask()[0]
        search.tell(subnet, {**self.score(subnet), "params": 7.0})
        expected = {**search.problem.cost(subnet), **self.score(subnet), "params": 7.0}
        assert search.results[subnet] == expected, f"{search.results[subnet]} instead of {expected}"

    def test_the_generators_of_the_process_are_left_alone(self) -> None:
        before = generators()
        self._asked(self.engine().start(self.problem()))
        assert before == generators(), "random or numpy.random was seeded or drawn from"

    def test_a_space_with_one_choice_and_one_with_one_subnet(self) -> None:
        rest = {"stage.depth": [2], "layer1": [16], "layer2": [16], "inner": [8]}
        for options in ([8, 16], [16]):
            problem = self.problem(budget=1.0, space=self.space().restrict({**rest, "layer0": options}))
            search = self.engine().start(problem)
            flat = [subnet for batch in self._asked(search) for subnet in batch]
            assert 0 < len(set(flat)) == len(flat) <= len(options) and search.stopped, flat

    def test_scores_that_are_not_finite_are_survived(self) -> None:
        search = self.engine().start(self.problem())
        wrong = {"accuracy": float("nan"), "loss": float("inf")}
        for _ in range(MOST):
            for subnet in (batch := search.ask()):
                search.tell(subnet, wrong if len(search.results) % 2 else self.score(subnet))
            if not batch:
                break
        assert search.stopped
        assert all(np.isfinite(search.results[subnet]["accuracy"]) for subnet in search.ranked())

    def test_one_objective_and_three(self) -> None:
        for objectives in (["accuracy"], ["accuracy", "macs", "params"]):
            assert self._asked(self.engine().start(self.problem(objectives)))

    def test_a_budget_out_of_reach_is_refused_at_once(self) -> None:
        with refused("macs"):
            self.engine().start(self.problem(budget=1e-4))

    def test_a_search_that_is_begun_again_on_its_archive_ends_the_same(self) -> None:
        """Half of the results come from an archive that a killed run left."""
        whole = self._asked(self.engine().start(self.problem(), seed=2))
        flat = [subnet for batch in whole for subnet in batch]
        with (
            tempfile.TemporaryDirectory() as folder,
            Archive(Path(folder) / "archive.sqlite", "conformance") as archive,
        ):
            for subnet in flat[: len(flat) // 2]:
                archive.add(subnet, self.score(subnet), 0.0)
            search, again = self.engine().start(self.problem(), seed=2), []
            for _ in range(MOST):
                if not (batch := search.ask()):
                    break
                again.append(batch)
                for subnet in batch:
                    known = subnet in archive
                    search.tell(subnet, archive.record(subnet).metrics if known else self.score(subnet))
        assert again == whole

    def _asked(self, search: Search, backwards: bool = False) -> list[list[Subnet]]:
        """Every batch of a search, told in one order or the other."""
        batches: list[list[Subnet]] = []
        for _ in range(MOST):
            if not (batch := search.ask()):
                return batches
            batches.append(batch)
            for subnet in reversed(batch) if backwards else batch:
                search.tell(subnet, self.score(subnet))
        raise AssertionError(f"the search has not ended after {MOST} batches")


def costs(genomes: Genome) -> dict[str, Floats]:
    """MACs and parameters of the suite's problem: what is skipped costs nothing."""
    inner = np.where(genomes[:, 0] > 0, genomes[:, 4] + 1, 0)
    macs = 1.0 + (8.0 * (genomes[:, 1:4] + 1)).prod(axis=1) / 64 + 4.0 * inner
    return {"macs": macs, "params": 8.0 * (genomes[:, 1:4] + 1).sum(axis=1) + inner}


def generators() -> tuple[object, object]:
    """The states of the generators that a process shares."""
    _, keys, *position = np.random.get_state()  # keys stay as they are for 624 draws
    return random.getstate(), (np.asarray(keys).tolist(), position)


class refused:
    """Expects a ValueError with some words in it."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: object) -> bool:
        assert isinstance(problem, ValueError), f"no ValueError with {self.words!r}, but {problem!r}"
        assert self.words in str(problem), f"no word of {self.words!r} in {problem}"
        return True
