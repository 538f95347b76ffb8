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
from ofa.space import Genome

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "search").glob("*.yaml"))
TESTS = [name for name in vars(EngineConformance) if name.startswith("test_")]
SMALL = {"population": 6, "evaluations": 24}
GIVEN = {"stage.depth": 2, "layer0": 16, "layer1": 16, "layer2": 16, "inner": 8}


def engine(name: str, folder: Path) -> Engine:
    """The engine of a YAML, small."""
    path = folder / "subnet.json"
    path.write_text(json.dumps({"subnet": GIVEN, "network": "none"}))
    overrides = [f"search={name}", *([f"search.path={path}"] if name == "specified" else [])]
    found: Engine = build(composed(*overrides).search, "search")
    own = {key: value for key, value in SMALL.items() if hasattr(found, key)}
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


def test_all_eight_are_found() -> None:
    assert len(NAMES) >= 8 and {"random", "evolution", "one_step", "ranked", "sensitivity"} <= set(NAMES)


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


@dataclass(frozen=True)
class Broken(RandomSearch):
    kind: type[Proposer] = Drawn
    running: type[Search] = Search

    def proposer(self, problem: Problem) -> Proposer:
        return self.kind()

    def start(self, problem: Problem, seed: int = 0) -> Search:
        evaluations, batch = self.size(problem)
        return self.running(problem, self.proposer(problem), evaluations, batch, seed)


@pytest.mark.parametrize(
    ("kind", "running", "test"),
    [
        (OutOfBudget, Search, "test_what_is_asked_is_canonical_and_what_it_leads_to_is_in_the_budget"),
        (ByOrderOfTells, Search, "test_the_order_in_which_a_batch_is_told_does_not_matter"),
        (Unseeded, Search, "test_equal_seeds_ask_for_the_same"),
        (Drawn, Twice, "test_nothing_is_asked_twice"),
        (Drawn, Twice, "test_a_batch_has_to_be_told_before_the_next"),
    ],
)
def test_broken_engines_fail(kind: type[Proposer], running: type[Search], test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(suite(Broken(**SMALL, kind=kind, running=running)), test)()
    getattr(suite(Broken(**SMALL)), test)()


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
