"""Guided search: what it believes, how honest it is, when it stops; and searches on functions of the user's."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_space import REFERENCE, accuracy, toy_costs, toy_front, toy_rows, toy_space, wide_costs, wide_space

from ofa import Choice, SearchSpace, Subnet
from ofa.search import Evolution, Front, Guided, Problem, Search, optimise
from ofa.search.engines import Individual, best, nondominated, survivors
from ofa.search.learning.blockwise import Blocks, Blockwise, linearised
from ofa.search.learning.features import Features
from ofa.search.learning.forecasts import Figures, Forecast
from ofa.search.learning.improvement import Beliefs, Improvement
from ofa.search.learning.integer_program import Program, Sums
from ofa.search.learning.surrogates import Contest, GaussianProcess, Rows

BOTH = ["accuracy", "macs"]


def told(search: Search, noise: float = 0.0, reported: bool = False) -> list[str]:
    """Drive a search on the toy problem to its end; gives what it said after each batch."""
    notes, rng = [], np.random.default_rng(0)
    while batch := search.ask():
        for subnet in batch:
            own = {"accuracy_sd": noise} if reported else {}
            search.tell(subnet, {"accuracy": accuracy(subnet)["accuracy"] + noise * rng.normal(), **own})
        notes += [search.note] if search.note else []
    return notes


def share(search: Search) -> float:
    rows = [row for row in toy_rows() if row.subnet in search.results]
    return Front.of(rows, BOTH).hypervolume(REFERENCE) / toy_front().hypervolume(REFERENCE)


def test_fifty_guided_evaluations_beat_three_hundred_of_evolution() -> None:
    problem = Problem.parse(toy_space(), BOTH, toy_costs)
    guided, evolved = Guided(evaluations=50).start(problem, 1), Evolution(evaluations=300).start(problem, 1)
    told(guided)
    told(evolved)
    assert share(guided) >= share(evolved) > 0.9


def test_the_errors_it_says_are_of_what_it_had_not_learned_from(tmp_path: Path) -> None:
    search = Guided(evaluations=50).start(Problem.parse(toy_space(), BOTH, toy_costs), 0)
    notes = told(search)
    assert all(word in notes[-1] for word in ("accuracy by ", "Kendall", "Spearman", "MAPE", "90 % band"))
    [path] = search.leave(tmp_path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 50 - 24, "the first ones were not predicted"
    spread = [float(row["predicted"]) - float(row["evaluated"]) for row in rows]
    assert any(spread), "what was learned from is said without error"
    assert np.mean([float(r["low"]) <= float(r["evaluated"]) <= float(r["high"]) for r in rows]) > 0.8


def test_figures_of_forecasts() -> None:
    made = [Forecast(np.array([i]), "accuracy", float(i), 1.0, 0.0) for i in range(4)]
    figures = Figures.of(made, np.array([0.0, 2.0, 1.0, 30.0]))
    assert figures.kendall == pytest.approx(2 / 3) and figures.held == 75
    assert Figures.of(made, np.array([0.0, 1.0, 2.0, 3.0])).mape == 0


def test_it_stops_where_noise_is_larger_than_what_is_to_be_gained() -> None:
    problem = Problem.parse(toy_space(), BOTH, toy_costs)
    noisy, quiet = (Guided(evaluations=400).start(problem, 0) for _ in range(2))
    told(noisy, noise=0.5, reported=True)
    told(quiet, noise=0.5)
    assert noisy.stopped is not None and "noise" in noisy.stopped and len(noisy.results) < 400
    assert len(quiet.results) == 400, "no evaluation said how noisy it is"


def test_costs_are_computed_and_never_learned() -> None:
    search = Guided(evaluations=40).start(Problem.parse(toy_space(), [*BOTH, "params"], toy_costs), 0)
    told(search)
    belief = search.proposer.belief  # type: ignore[attr-defined]
    assert list(belief.models) == ["accuracy"]
    genomes = np.stack([genome for genome, _ in search.ledger.told()])
    exact = np.array([gains[1:] for _, gains in search.ledger.told()])
    assert np.allclose(belief.gains(genomes)[:, 1:] * belief.span[1:] + belief.low[1:], exact)


def test_one_objective_spends_its_evaluations_where_it_is_high() -> None:
    problem = Problem.parse(toy_space(), ["accuracy"], toy_costs, {"macs": 0.5})
    search = Guided(evaluations=60).start(problem, 0)
    told(search)
    inside = [row for row in toy_rows() if row.metrics["macs"] <= problem.constraints[0].range[1]]
    best = max(row.metrics["accuracy"] for row in inside)
    assert search.results[search.ranked()[0]]["accuracy"] == pytest.approx(best)
    late = [metrics["accuracy"] for metrics in list(search.results.values())[30:]]
    assert np.median(late) > np.quantile([row.metrics["accuracy"] for row in inside], 0.95)


def test_an_impossible_budget_names_the_nearest_subnet_at_once() -> None:
    started = time.process_time()
    problem = Problem.parse(wide_space(60), BOTH, wide_costs, {"macs": (None, 20_000), "params": (5000, None)})
    with pytest.raises(ValueError, match=r"the nearest subnet has macs 3\.776 M and params 4\.800 k"):
        Guided().start(problem)
    assert time.process_time() - started < 5  # less than one second on an idle machine


def test_evaluations_follow_the_space_and_the_pictures() -> None:
    space = wide_space(40)
    sizes = [Guided().size(Problem.parse(space, BOTH, wide_costs, samples=n))[0] for n in (None, 5000, 73, 5)]
    assert sizes == [180, 180, 73, 24]
    assert Guided(evaluations=7).size(Problem.parse(space, BOTH, wide_costs, samples=5))[0] == 7


def test_measured_figures_outside_the_budget_lose_against_those_inside() -> None:
    """A constraint on a predicted cost, which the evaluation measures."""
    problem = Problem.parse(toy_space(), BOTH, toy_costs, {"params": 0.5})
    limit = problem.constraints[0].range[1]
    search = Evolution(population=8, evaluations=48).start(problem, 0)
    while batch := search.ask():
        for i, subnet in enumerate(batch):
            search.tell(subnet, {**accuracy(subnet), "params": limit * (0.9 if i % 2 else 1.1)})
    parents = search.proposer.parents  # type: ignore[attr-defined]
    assert parents and not any(parent.violation for parent in parents)


def test_nsga3_selects_from_three_objectives_on() -> None:
    problem = Problem.parse(toy_space(), [*BOTH, "params"], toy_costs)
    runs = {}
    for selection in ("auto", "nsga2", "nsga3"):
        search = Evolution(population=12, evaluations=60, selection=selection).start(problem, 0)  # type: ignore[arg-type]
        told(search)
        runs[selection] = list(search.results)
    assert runs["auto"] == runs["nsga3"] != runs["nsga2"]


# ------------------------------------------------------------ the parts


def rows_of(number: int, space: SearchSpace) -> tuple[Features, Rows]:
    """What a model learns from: a sum over the choices, and a product of two."""
    genomes = np.random.default_rng(0).integers(0, 4, (number, len(space)))
    features = Features(Problem.parse(space, BOTH, wide_costs))
    truth = (genomes * np.arange(len(space))).sum(axis=1) + 3.0 * genomes[:, 0] * genomes[:, 1]
    targets = (truth - truth.mean()) / truth.std()
    return features, Rows(features(genomes), features.groups, targets, np.zeros(number))


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_inner_search_keeps_what_deap_keeps(objectives: int) -> None:
    """But for ties, as there are between the ends of a front; half of the rounds have rows outside the budget."""
    rng = np.random.default_rng(objectives)
    for number in (1, 7, 20, 39, 40, 60):
        gains = rng.random((40, objectives))
        violations = np.where(rng.random(40) < 0.2 * (number % 2), rng.random(40), 0.0)
        individuals = [Individual([i], gains[i].tolist(), float(violations[i])) for i in range(40)]
        kept = [individual[0] for individual in survivors(individuals, number, "nsga2")]
        chosen = best(gains, violations, number).tolist()
        apart = [getattr(individual.fitness, "crowding_dist", -1.0) for individual in individuals]
        assert len(set(chosen)) == len(kept) == min(number, 40)
        assert sorted(apart[i] for i in chosen) == pytest.approx(sorted(apart[i] for i in kept))
        assert {i for i in chosen if apart[i] < np.inf} == {i for i in kept if apart[i] < np.inf}


def test_rows_left_out_are_what_learning_without_them_says() -> None:
    _, rows = rows_of(30, wide_space(6))
    way = GaussianProcess()
    whole = way.fit(rows)
    way._fitted = 100  # the same settings again
    part = Rows(rows.features[1:], rows.groups, rows.targets[1:], rows.noise[1:])
    assert way.fit(part).predict(rows.features[:1])[0][0] == pytest.approx(whole.left_out[0], abs=1e-6)


def test_twenty_thousand_predictions_a_second() -> None:
    features, rows = rows_of(300, wide_space(24))
    fitted = Contest().fit(rows)
    many = np.random.default_rng(1).integers(0, 4, (20_000, 24))
    started = time.process_time()
    fitted.means(features(many))
    assert time.process_time() - started < 4  # 0.5 on an idle machine


def test_what_is_skipped_has_no_features() -> None:
    space = toy_space()
    features = Features(Problem.parse(space, BOTH, toy_costs))
    rows = features(space.canonical_genomes(np.array([[0, 1, 1, 1, 0, 1, 0], [0, 1, 1, 1, 3, 1, 2]])))
    assert np.array_equal(rows[0], rows[1]) and not rows[0][features.groups == 4].any()


def test_the_expected_improvement_is_the_volume_that_is_gained() -> None:
    front = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    beliefs = Beliefs(np.array([[0.75, 0.75], [0.76, 0.74], [0.2, 0.9]]), np.zeros((3, 2)))
    improvement = Improvement.over(front, beliefs, np.random.default_rng(0))
    chosen, gained = improvement.batch(beliefs, 2)
    assert chosen[0] == 0 and chosen[1] == 2, "the second is nearly the first again"
    _, first = improvement.batch(beliefs, 1)
    assert first == pytest.approx(0.25**2 + 2 * 0.5 * 0.25, rel=0.05) and gained > first
    assert nondominated(np.array([[0.0, 1.0], [0.0, 0.5]])).tolist() == [0]


def test_an_integer_program_finds_what_trying_everything_finds() -> None:
    rng = np.random.default_rng(0)

    def sums() -> Sums:
        pairs = {(0, 1): rng.normal(size=(3, 3)), (1, 3): rng.normal(size=(3, 3))}
        return Sums(1.0, tuple(rng.normal(size=3) for _ in range(4)), pairs)

    worth, cost = sums(), sums()
    grid = np.indices((3,) * 4).reshape(4, -1).T
    program = Program(worth, [cost])
    for limit in np.quantile(cost(grid), [0.0, 0.1, 0.5, 1.0]):
        best = worth(grid)[cost(grid) <= limit + 1e-9].max()
        found = program.solve([float(limit) + 1e-6])
        assert found is not None and worth(found[None])[0] == pytest.approx(best, abs=1e-3)
    assert program.solve([float(cost(grid).min()) - 1]) is None


def test_linearised_costs_are_exact_for_pairs_and_answers_in_the_budget() -> None:
    problem = Problem.parse(wide_space(8), BOTH, wide_costs, {"macs": 0.4})
    genomes = np.random.default_rng(0).integers(0, 4, (50, 8))
    assert np.allclose(linearised(problem, "macs")(genomes), wide_costs(genomes)["macs"])
    search = Blockwise(mixed=10, answers=8).start(problem)
    while batch := search.ask():
        for subnet in batch:
            search.tell(subnet, {"accuracy": float(sum(int(v) for v in subnet.values()))})
    assert search.ranked() and isinstance(search.proposer, Blocks)
    limits = {"macs": problem.constraints[0].range[1]}
    program = Program(search.proposer.worth(search.ledger), list(search.proposer.costs.values()))
    started = time.process_time()
    for part in np.linspace(0.2, 1.0, 20):
        genome = search.proposer.answer(program, {"macs": part * limits["macs"]})
        assert genome is not None and problem.costs(genome[None])["macs"][0] <= part * limits["macs"]
    assert time.process_time() - started < 20  # a second for each budget at most


# ------------------------------------------------------------ a problem of one's own


def quality(point: Subnet) -> dict[str, float]:
    return {"quality": 10 - (int(point["heat"]) - 3) ** 2 + int(point["time"])}


def price(point: Subnet) -> dict[str, float]:
    return {"price": 2.0 * int(point["heat"]) + int(point["time"])}


OWN: dict[str, Any] = {"heat": [1, 2, 3, 4, 5], "time": [1, 2, 4, 8]}


def test_a_function_of_ones_own_is_searched_without_any_network(tmp_path: Path) -> None:
    calls = []

    def counted(point: Subnet) -> dict[str, float]:
        calls.append(point)
        return quality(point)

    given: dict[str, Any] = {"objectives": {"quality": "max", "price": "min"}, "costs": price, "budget": {"price": 12}}
    front = optimise(OWN, counted, **given, archive=tmp_path / "own.sqlite")
    best = front.best("quality", price=8)
    assert best.metrics["price"] <= 8 and best.metrics["quality"] == 13
    number = len(calls)
    assert number and optimise(OWN, counted, **given, archive=tmp_path / "own.sqlite").rows == front.rows
    assert len(calls) == number, "the archive knows all of it"
    alone = optimise(OWN, quality, objectives={"quality": "max"}, engine=Evolution(population=4, evaluations=20))
    assert alone.best().metrics["quality"] == 18


def test_what_a_search_of_ones_own_refuses() -> None:
    with pytest.raises(ValueError, match="'quality' is to be 'max' or 'min', got 'more'"):
        optimise(OWN, quality, {"quality": "more"})
    with pytest.raises(ValueError, match="the nearest subnet has price 3"):
        optimise(OWN, quality, {"quality": "max"}, price, {"price": 2})
    with pytest.raises(ValueError, match="no choices"):
        optimise({}, quality, {"quality": "max"})
    with pytest.raises(ValueError, match="the front has the objectives quality, got 'beauty'"):
        optimise(OWN, quality, {"quality": "max"}).best("beauty")
    assert Choice("heat", "width", (1,)).largest == 1
