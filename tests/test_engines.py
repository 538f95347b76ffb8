"""Every engine that a YAML of ours names holds to the conformance suite; engines that are broken on purpose do not."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composition import composed
from foreign.engine import HillClimbing

from ofa import Subnet
from ofa.conf.program.building import build
from ofa.search import Engine, Problem, RandomSearch, Search
from ofa.search.engines import EngineConformance, Exact, Ledger, Proposer
from ofa.search.learning import OptunaSearch
from ofa.space import Genome

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "search").glob("*.yaml"))
TESTS = [name for name in vars(EngineConformance) if name.startswith("test_")]
SMALL = {"population": 6, "evaluations": 24}
LEARNING = {"spread": 10}
GIVEN = {"stage.depth": 2, "layer0": 16, "layer1": 16, "layer2": 16, "inner": 8}


def engine(name: str, folder: Path) -> Engine:
    """The engine of a YAML, small."""
    path = folder / "subnet.json"
    path.write_text(json.dumps({"subnet": GIVEN, "network": "none"}))
    overrides = [f"search={name}", *([f"search.path={path}"] if name == "specified" else [])]
    found: Engine = build(composed(*overrides).search, "search")
    own = {key: value for key, value in {**SMALL, **LEARNING}.items() if hasattr(found, key)}
    return replace(found, **own) if own else found  # type: ignore[type-var]


def suite(tested: Any) -> EngineConformance:
    class Suite(EngineConformance):
        def engine(self) -> Engine:
            found: Engine = tested
            return found

    return Suite()


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_engine_conforms(name: str, test: str, tmp_path: Path) -> None:
    getattr(suite(engine(name, tmp_path)), test)()


@pytest.mark.parametrize("test", TESTS)
def test_an_engine_of_ones_own_conforms(test: str) -> None:
    getattr(suite(HillClimbing(population=6, evaluations=24)), test)()


@pytest.mark.parametrize("test", TESTS)
def test_another_sampler_of_optuna_conforms(test: str) -> None:
    getattr(suite(OptunaSearch("nsgaii", **SMALL)), test)()


def test_a_sampler_with_one_objective_says_so() -> None:
    with pytest.raises(ValueError, match="cmaes has one objective, got 2"):
        OptunaSearch("cmaes").start(EngineConformance.problem(suite(OptunaSearch("cmaes"))))


def test_all_are_found() -> None:
    learning = {"guided", "linas", "ofa_evolution", "optuna", "blockwise"}
    assert {"random", "evolution", "nsga3", "aging", "one_step", "ranked", "sensitivity", *learning} <= set(NAMES)


# ------------------------------------------------------------ broken on purpose


class Drawn(Proposer):
    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        return rng.integers(0, ledger.problem.space.counts, (number, len(ledger.problem.space)))


class OutOfBudget(Exact):
    """Asks for the largest, whatever the budget."""

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        return ledger.problem.space.encode(ledger.problem.space.largest)[None]


class ByOrderOfTells(Drawn):
    """Goes on from what was told last, which depends on who evaluated faster."""

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        last = list(ledger.results)[-1:]
        drawn = super().propose(ledger, number, rng)
        return np.minimum(drawn, ledger.problem.space.encode(last[0])) if last else drawn


class Shared(Drawn):
    """Draws from the generator that a process shares."""

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        return np.random.randint(0, ledger.problem.space.counts, (number, len(ledger.problem.space)))


class Unseeded(Drawn):
    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        return super().propose(ledger, number, np.random.default_rng())


class Twice(Search):
    """Asks for the last subnet of a batch again."""

    def ask(self) -> list[Subnet]:
        batch = super().ask()
        return [*batch, batch[-1]] if batch else batch

    def tell(self, subnet: Subnet, metrics: Any) -> None:
        if subnet not in self.results:
            super().tell(subnet, metrics)


class Careless(Search):
    """Takes whatever it is told, and knows nothing else."""

    def tell(self, subnet: Subnet, metrics: Any) -> None:
        self.ledger.results[subnet] = dict(metrics)


class Vain(Search):
    """Ranks whatever it was told, and does not say why it stopped."""

    def ask(self) -> list[Subnet]:
        batch = super().ask()
        self.stopped = None
        return batch

    def ranked(self) -> list[Subnet]:
        return list(self.results)


class Hopeful(Search):
    """Does not look at the budget."""

    def __init__(self, problem: Problem, proposer: Proposer, evaluations: int, batch: int, seed: int = 0) -> None:
        super().__init__(replace(problem, constraints=()), proposer, evaluations, batch, seed)


class Greedy(Search):
    """Says that it needs half of what it takes."""

    @property
    def evaluations(self) -> int:
        return super().evaluations // 2


class Mute(Search):
    """Asks for nothing where there are more objectives than two, or one."""

    def ask(self) -> list[Subnet]:
        return super().ask() if len(self.problem.objectives) == 2 else []


class Forgetful(Search):
    """Asks for what is pending again."""

    def ask_more(self, number: int) -> list[Subnet]:
        return [*super().ask_more(number), *map(self.problem.space.decode, self.ledger.pending)][:number]


class Loner(Search):
    """Counts what others evaluated, and asks for it all the same."""

    def adopt(self, subnet: Subnet, metrics: Any) -> bool:
        if not self.ledger.adopt(subnet, metrics):
            return False
        self.ledger.seen.clear()
        return True


@dataclass(frozen=True)
class Broken(RandomSearch):
    kind: type[Proposer] = Drawn
    running: type[Search] = Search

    def proposer(self, problem: Problem) -> Proposer:
        return self.kind()

    def start(self, problem: Problem, seed: int = 0) -> Search:
        evaluations, batch = self.size(problem)
        return self.running(problem, self.proposer(problem), evaluations, batch, seed)


BREAKS: dict[str, type[Proposer] | type[Search]] = {
    "test_equal_seeds_ask_for_the_same": Unseeded,
    "test_the_order_in_which_a_batch_is_told_does_not_matter": ByOrderOfTells,
    "test_nothing_is_asked_twice": Twice,
    "test_what_is_asked_is_canonical_and_what_it_leads_to_is_in_the_budget": OutOfBudget,
    "test_the_number_of_evaluations_is_kept_and_the_end_has_a_reason": Vain,
    "test_a_batch_has_to_be_told_before_the_next": Twice,
    "test_it_is_asked_for_more_while_others_are_pending": Forgetful,
    "test_what_others_evaluated_is_one_of_the_evaluations": Loner,
    "test_metrics_without_an_objective_are_refused_and_do_not_count": Careless,
    "test_results_have_the_exact_costs_unless_others_are_told": Careless,
    "test_the_generators_of_the_process_are_left_alone": Shared,
    "test_a_space_with_one_choice_and_one_with_one_subnet": Twice,
    "test_scores_that_are_not_finite_are_survived": Vain,
    "test_one_objective_and_three": Mute,
    "test_a_budget_out_of_reach_is_refused_at_once": Hopeful,
    "test_a_search_that_is_begun_again_on_its_archive_ends_the_same": Unseeded,
}


def test_every_test_of_the_suite_can_fail() -> None:
    assert sorted(BREAKS) == sorted(TESTS)


@pytest.mark.parametrize("test", BREAKS)
def test_broken_engines_fail(test: str) -> None:
    np.random.random()  # somewhere among the numbers that are drawn at once
    broken, state = BREAKS[test], np.random.get_state()
    own = {"running": broken} if issubclass(broken, Search) else {"kind": broken}
    with pytest.raises(AssertionError):
        getattr(suite(Broken(**SMALL, **own)), test)()
    np.random.set_state(state)
    getattr(suite(Broken(**SMALL)), test)()


def test_one_that_takes_more_evaluations_than_it_has_fails() -> None:
    with pytest.raises(AssertionError):
        suite(Broken(**SMALL, running=Greedy)).test_the_number_of_evaluations_is_kept_and_the_end_has_a_reason()


def test_what_is_told_is_priced_once_for_each_batch() -> None:
    """A network was decoded, encoded and priced again at every `tell`."""
    problem, calls = EngineConformance.problem(suite(RandomSearch())), []

    def counted(genomes: Genome) -> Any:
        calls.append(len(genomes))
        return problem.costs(genomes)

    search = RandomSearch(**SMALL).start(replace(problem, costs=counted))
    batch = search.ask()
    calls.clear()
    for subnet in batch:
        search.tell(subnet, {"accuracy": 1.0})
    assert calls == []
    assert search.results[batch[0]]["macs"] == problem.cost(batch[0])["macs"]


def test_no_round_is_drawn_that_is_not_needed() -> None:
    ledger = Ledger(suite(RandomSearch()).problem(), evaluations=9, batch=3, rng=np.random.default_rng(0))
    drawn = []

    def rounds() -> Any:
        for number in range(3):
            drawn.append(number)
            yield ledger.pool[3 * number : 3 * number + 3]

    assert len(ledger.take(rounds(), 3)) == 3 and drawn == [0]
    assert ledger.take(rounds(), 0) == [] and drawn == [0]
