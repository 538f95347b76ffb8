"""The contract of every engine, and what evolution adds."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_space import (
    REFERENCE,
    accuracy,
    toy_costs,
    toy_front,
    toy_rows,
    toy_space,
    wide_costs,
    wide_space,
)

from ofa import Choice, SearchSpace, Subnet
from ofa.search import Archive, Evolution, Front, LatencyModel, RandomSearch, Search, run
from ofa.search.evaluation import Result
from ofa.search.prediction import MacsLine
from ofa.search.problem import Problem
from ofa.search.pruning import OneStep
from ofa.search.sampling import spread

ENGINES = [Evolution, OneStep, RandomSearch]
BOTH = ["accuracy", "macs"]
each_engine = pytest.mark.parametrize("engine", ENGINES)


def drive(search: Search, order: int = 1) -> list[Subnet]:
    """Everything asked; told in the order asked, or backwards."""
    asked: list[Subnet] = []
    while batch := search.ask():
        asked += batch
        for subnet in batch[::order]:
            search.tell(subnet, accuracy(subnet))
    return asked


@each_engine
def test_asks_distinct_canonical_subnets_as_often_as_told(engine: Any) -> None:
    space = toy_space()
    search = engine(population=10, evaluations=35).start(Problem.parse(space, BOTH, toy_costs), 1)
    asked = drive(search)
    assert len(asked) == len(set(asked)) == 35
    assert all(space.canonical(subnet) == subnet for subnet in asked)
    assert set(search.results) == set(asked)
    assert search.stopped == "all 35 evaluations are done"
    assert search.ask() == []


@each_engine
def test_same_seed_same_search_whatever_the_order_of_telling(engine: Any) -> None:
    settings = engine(population=10, evaluations=40)
    runs = [
        drive(settings.start(Problem.parse(toy_space(), BOTH, toy_costs), seed), order)
        for seed, order in ((5, 1), (5, -1), (6, 1))
    ]
    assert runs[0] == runs[1] != runs[2]


@each_engine
def test_global_generators_are_left_alone(engine: Any) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    random_first = drive(engine(population=8, evaluations=24).start(Problem.parse(toy_space(), BOTH, toy_costs)))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(99)
    np.random.seed(99)
    assert (
        drive(engine(population=8, evaluations=24).start(Problem.parse(toy_space(), BOTH, toy_costs))) == random_first
    )


@each_engine
def test_stops_when_the_space_is_exhausted(engine: Any) -> None:
    search = engine(population=50, evaluations=10_000).start(Problem.parse(toy_space(), BOTH, toy_costs))
    assert len(drive(search)) == len(toy_rows())
    assert search.stopped == "every subnet in the budget is evaluated"


@each_engine
def test_a_space_of_one_subnet(engine: Any) -> None:
    space = SearchSpace((Choice("width", "width", (8,)),))
    search = engine().start(Problem.parse(space, BOTH, wide_like))
    assert search.ask() == [space.largest]


def wide_like(genomes: np.ndarray) -> dict[str, np.ndarray]:
    return {"macs": 1.0 + genomes.sum(axis=1), "params": 1.0 + genomes.sum(axis=1)}


@each_engine
@pytest.mark.parametrize(
    "budget",
    [{"macs": 0.3}, {"macs": (0.5, 0.51)}, {"macs": 0.6, "params": (0.2, 0.5)}, {"params": (0.97, 1.0)}],
)
def test_every_subnet_is_in_the_budget(engine: Any, budget: dict[str, Any]) -> None:
    space = wide_space()
    search = engine(population=16, evaluations=48).start(Problem.parse(space, ["loss", "macs"], wide_costs, budget), 2)
    asked = []
    while batch := search.ask():
        asked += batch
        for subnet in batch:
            search.tell(subnet, {"loss": -float(sum(subnet.values()))})  # type: ignore[arg-type]
    assert len(set(asked)) == 48
    costs = wide_costs(np.array([space.encode(subnet) for subnet in asked]))
    whole = wide_costs(space.encode(space.largest)[None])
    for name, limits in budget.items():
        low, high = limits if isinstance(limits, tuple) else (0.0, limits)
        share = costs[name] / whole[name]
        assert low <= share.min() and share.max() <= high


@each_engine
def test_an_infeasible_budget_is_refused_at_once_with_the_reachable_range(engine: Any) -> None:
    with pytest.raises(ValueError, match=r"macs at most 1\.000 k; this space reaches macs from 74\.00 k to 1\.716 M"):
        engine().start(Problem.parse(toy_space(), BOTH, toy_costs, {"macs": 1000}))
    with pytest.raises(ValueError, match=r"macs at most 20\.0+ k and params at least 5\.000 k; .* and params from"):
        engine().start(Problem.parse(wide_space(), BOTH, wide_costs, {"macs": (None, 20_000), "params": (5000, None)}))


@each_engine
def test_a_limit_on_what_has_no_cost_is_refused(engine: Any) -> None:
    with pytest.raises(ValueError, match="costs are macs, params; attach a latency predictor"):
        engine().start(Problem.parse(toy_space(), BOTH, toy_costs, {"latency_ms": 0.5}))


@each_engine
def test_misuse_of_ask_and_tell(engine: Any) -> None:
    search = engine(population=4, evaluations=8).start(Problem.parse(toy_space(), BOTH, toy_costs))
    batch = search.ask()
    with pytest.raises(ValueError, match="4 subnets were asked for and not told yet"):
        search.ask()
    with pytest.raises(ValueError, match="'accuracy' is not among the metrics"):
        search.tell(batch[0], {"loss": 1.0})
    search.tell(batch[0], accuracy(batch[0]))
    with pytest.raises(ValueError, match="told twice"):
        search.tell(batch[0], accuracy(batch[0]))
    with pytest.raises(ValueError, match="never asked for"):
        search.tell(Subnet({"width": 8}), {"accuracy": 1.0})
    with pytest.raises(ValueError, match="at least 1 evaluation"):
        engine(evaluations=0).start(Problem.parse(toy_space(), BOTH, toy_costs))


@each_engine
@pytest.mark.parametrize("objectives", [["accuracy"], BOTH, ["accuracy", "macs", "params"]])
def test_any_number_of_objectives(engine: Any, objectives: list[str]) -> None:
    search = engine(population=9, evaluations=45).start(
        Problem.parse(toy_space(), objectives, toy_costs, {"macs": 0.5})
    )
    assert len(drive(search)) == 45


@each_engine
def test_non_finite_results_count_and_are_forgotten(engine: Any, tmp_path: Path) -> None:
    search = engine(population=8, evaluations=40).start(Problem.parse(toy_space(), BOTH, toy_costs))
    with Archive(tmp_path / "archive.sqlite") as archive:
        front = run(search, lambda s: {"accuracy": float("nan")} if s["kernel0"] == 3 else accuracy(s), archive)
    assert len(search.results) == 40
    assert front.rows and all(row.subnet["kernel0"] != 3 for row in front.rows)  # type: ignore[index]


@each_engine
def test_run_reports_archives_and_maps(engine: Any, tmp_path: Path) -> None:
    settings = engine(population=8, evaluations=20)
    results: list[Result] = []
    fronts: list[Front] = []
    with ThreadPoolExecutor(2) as pool:
        maps = ("one", map), ("one", map), ("many", pool.map), ("last", lambda f, subnets: map(f, subnets[::-1]))
        for name, mapper in maps:
            search = settings.start(Problem.parse(toy_space(), BOTH, toy_costs), 4)
            with Archive(tmp_path / f"{name}.sqlite", "toy") as archive:
                fronts.append(run(search, accuracy, archive, results.append, map=mapper))
                assert set(archive[next(iter(archive))]) == {"accuracy"}
    assert fronts[0] == fronts[1] == fronts[2] == fronts[3]
    assert [r.known for r in results] == [False] * 20 + [True] * 20 + [False] * 40
    assert [r.done for r in results] == [*range(1, 21)] * 4
    assert [r.subnet for r in results[:20]] == [r.subnet for r in results[60:]]  # told in the order asked
    assert {r.total for r in results} == {20} and set(results[0].metrics) == {"accuracy", "macs", "params"}


@each_engine
def test_a_predicted_latency_is_an_objective_and_a_budget_until_measured(engine: Any, tmp_path: Path) -> None:
    known = {"macs": np.linspace(1e5, 2e6, 12)}
    costs = LatencyModel.fit(known, 0.1 + 1e-6 * known["macs"], predictors=[MacsLine()]).attach(toy_costs, toy_costs)
    settings = engine(population=8, evaluations=24)
    with Archive(tmp_path / "predicted.sqlite") as archive:
        search = settings.start(Problem.parse(toy_space(), ["accuracy", "latency_ms"], costs, {"latency_ms": 0.5}))
        front = run(search, accuracy, archive)
    for row in front.evaluated:
        assert row.metrics["latency_ms"] == pytest.approx(0.1 + 1e-6 * row.metrics["macs"])
        assert row.metrics["latency_ms"] <= 0.5 * (0.1 + 1.716)
    with Archive(tmp_path / "measured.sqlite") as archive:
        search = settings.start(Problem.parse(toy_space(), ["accuracy", "latency_ms"], costs))
        front = run(search, lambda subnet: {**accuracy(subnet), "latency_ms": 7.0}, archive)
    assert {row.metrics["latency_ms"] for row in front.evaluated} == {7.0}
    assert len(front.rows) == 1


def test_evolution_starts_spread_along_the_cost_with_both_extremes() -> None:
    space = wide_space(60)
    search = Evolution(population=20).start(Problem.parse(space, BOTH, wide_costs))
    first = search.ask()
    assert space.smallest in first and space.largest in first
    log = np.sort(np.log(wide_costs(np.array([space.encode(subnet) for subnet in first]))["macs"]))
    assert np.diff(log).max() < 2.5 * (log[-1] - log[0]) / 19  # draws of independent fair options leave half empty


def test_spread_takes_no_row_twice_and_keeps_what_it_must() -> None:
    cost = np.array([1.0, 1.0, 1.0, 100.0, 10.0])
    assert sorted(spread(cost, 9)) == [0, 1, 2, 3, 4]
    assert spread(cost, 3, kept=[2]) == [2, 4, 3]
    assert len(spread(cost, 1)) == 1


def test_evolution_beats_random_search_on_a_known_front() -> None:
    whole = toy_front().hypervolume(REFERENCE)
    shares: dict[str, list[float]] = {}
    for engine in ENGINES:
        for seed in range(5):
            search = engine(population=20, evaluations=120).start(Problem.parse(toy_space(), BOTH, toy_costs), seed)
            drive(search)
            rows = [row for row in toy_rows() if row.subnet in search.results]
            shares.setdefault(engine.__name__, []).append(Front.of(rows, BOTH).hypervolume(REFERENCE) / whole)
    assert np.mean(shares["Evolution"]) > np.mean(shares["RandomSearch"])
    assert min(shares["Evolution"]) > 0.97
    assert max(shares["Evolution"]) <= 1 + 1e-12


def test_asking_costs_little_in_a_large_space() -> None:
    space = wide_space(60)
    search = Evolution(population=50, evaluations=500).start(Problem.parse(space, BOTH, wide_costs, {"macs": 0.4}))
    start = time.perf_counter()
    while batch := search.ask():
        for subnet in batch:
            search.tell(subnet, {"accuracy": float(sum(subnet.values()))})  # type: ignore[arg-type]
    assert len(search.results) == 500
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("band", [(0.1, 0.12), (0.49, 0.51), (0.9, 0.95)])
def test_one_step_proposals_are_constructed_inside_the_band(band: tuple[float, float]) -> None:
    search = OneStep(population=10).start(
        Problem.parse(wide_space(), ["accuracy"], wide_costs, {"macs": list(band)}), 3
    )
    proposed = search.proposer.propose(search.ledger, 300, search.rng)
    whole = wide_costs(np.full((1, 24), 3))["macs"][0]
    shares = wide_costs(proposed)["macs"] / whole
    assert np.mean((shares >= band[0]) & (shares <= band[1])) > 0.75  # as constructed; a step is a percent here
    assert len(search.problem.repaired(proposed, search.rng)) >= 0.95 * len(proposed)  # as accepted
    assert len(np.unique(proposed, axis=0)) > 290
    rejected = wide_costs(np.random.default_rng(0).integers(0, 4, (3000, 24)))["macs"] / whole
    assert np.mean((rejected >= band[0]) & (rejected <= band[1])) < 0.15  # what drawing and rejecting would accept
