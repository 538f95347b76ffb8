"""Sensitivity analysis: curves point by point, fewer of them where they are straight, and what they lead to."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_space import toy_costs, toy_space

from ofa import Choice, SearchSpace, Subnet
from ofa.search import Archive, Constraint, Search, run
from ofa.search.problem import Problem
from ofa.search.pruning import Analysis, Curves, Ranked, Sensitivity, Uniform, damage, grid_of, missing, shares_of
from ofa.search.pruning.curves import interpolated
from ofa.space import Genome

WIDTHS = SearchSpace(tuple(Choice(f"layer{i}", "width", tuple(range(4, 65, 4))) for i in range(8)))
WORTH = np.array([0.0, 0.0, 1.0, 3.0, 10.0, 30.0, 60.0, 90.0])  # what is lost at nothing kept


def costs(genomes: Genome) -> dict[str, np.ndarray]:
    widths = 4.0 * (genomes + 1)
    return {"macs": 1e3 * (widths[:, 1:] * widths[:, :-1]).sum(axis=1), "params": widths.sum(axis=1)}


def accuracy(subnet: Subnet) -> dict[str, float]:
    """Each layer loses by the cube of what is removed; two lose nothing, and one gains a little."""
    removed = np.array([1 - int(subnet[f"layer{i}"]) / 64 for i in range(8)])
    return {"accuracy": float(90 - (WORTH * removed**3).sum() + 0.5 * removed[0])}


def curves(search: Search) -> Curves:
    return analysis(search).curves(search.ledger)


def analysis(search: Search) -> Analysis:
    assert isinstance(search.proposer, Analysis)
    return search.proposer


def analysed(engine: Sensitivity, budget: dict[str, object], archive: Path, space: SearchSpace = WIDTHS):  # type: ignore[no-untyped-def]
    search = engine.start(Problem.parse(space, ["accuracy"], costs if space is WIDTHS else toy_costs, budget))
    with Archive(archive, "test") as store:
        run(search, accuracy if space is WIDTHS else lambda s: {"accuracy": 50.0 + float(s["width0"])}, store)
    return search


def test_the_full_grid_takes_nine_points_a_choice_and_a_baseline(tmp_path: Path) -> None:
    search = analysed(Sensitivity(adaptive=False), {}, tmp_path / "a.sqlite")
    assert len(search.results) == 9 * 8 + 1
    assert search.stopped == "the curves of 8 choices are known from 72 points" and search.ranked() == []
    half = analysed(Sensitivity(grid=(0.25, 0.5), adaptive=False), {}, tmp_path / "b.sqlite")
    assert len(half.results) == 2 * 8 + 1


def test_the_adaptive_grid_needs_half_of_that_and_is_within_a_point(tmp_path: Path) -> None:
    full = analysed(Sensitivity(adaptive=False), {}, tmp_path / "a.sqlite")
    few = analysed(Sensitivity(ceiling=10.0), {}, tmp_path / "b.sqlite")
    assert len(few.results) <= len(full.results) / 2
    for i, grid in enumerate(analysis(full).grids):
        gap = np.abs(curves(few).damages[i][grid] - curves(full).damages[i][grid])
        assert gap.max() * 90 < 1.0


def test_a_better_score_is_no_damage_and_one_that_is_not_finite_is_all() -> None:
    assert damage(90.0, 95.0) == 0.0 and damage(90.0, 45.0) == 0.5 and damage(90.0, float("nan")) == 1.0
    assert damage(-0.5, -1.0) == 1.0  # a loss of 0.5 that has doubled


def test_damage_inside_the_interval_of_the_whole_network_is_noise(tmp_path: Path) -> None:
    noises = []
    for samples in (100, 10_000, None):
        search = Sensitivity().start(Problem.parse(WIDTHS, ["accuracy"], costs, {"macs": 0.5}, samples=samples))
        (whole,) = search.ask()
        search.tell(whole, {"accuracy": 90.0})
        noises.append(analysis(search).noise(search.ledger))
        assert all(path.exists() for path in search.leave(tmp_path))
    assert noises == pytest.approx([0.0826, 0.0067, 0.0], abs=1e-3)  # of 90, 82.6 at least (Wilson)


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3, 0.1])
def test_the_budget_is_met_within_a_hundredth(share: float, tmp_path: Path) -> None:
    search = analysed(Sensitivity(), {"macs": share}, tmp_path / "a.sqlite")
    (subnet,) = search.ranked()
    whole = costs(WIDTHS.encode(WIDTHS.largest)[None])["macs"][0]
    assert 0.99 * share <= search.problem.cost(subnet)["macs"] / whole <= share
    assert int(subnet["layer1"]) < int(subnet["layer7"])  # what costs nothing goes first


def test_flat_curves_do_not_freeze_the_search(tmp_path: Path) -> None:
    reached = []
    for share in (0.9, 0.5, 0.1):
        search = Sensitivity().start(Problem.parse(WIDTHS, ["accuracy"], costs, {"macs": share}))
        while batch := search.ask():
            for subnet in batch:
                search.tell(subnet, {"accuracy": 50.0})
        (subnet,) = search.ranked()
        reached.append(search.problem.cost(subnet)["macs"] / 7 / 64**2 / 1e3)
    assert reached == pytest.approx([0.9, 0.5, 0.1], rel=0.03)


def test_a_threshold_is_kept_by_every_choice_and_is_monotone(tmp_path: Path) -> None:
    sizes = []
    for threshold in (0.0, 0.01, 0.05, 0.2):
        search = analysed(Sensitivity(adaptive=False, threshold=threshold), {}, tmp_path / f"{threshold}.sqlite")
        (subnet,) = search.ranked()
        genome = WIDTHS.encode(subnet)
        assert all(d[o] <= threshold + 1e-7 for d, o in zip(curves(search).damages, genome, strict=True))
        sizes.append(search.problem.cost(subnet)["macs"])
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_an_analysis_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    whole = analysed(Sensitivity(), {"macs": 0.5}, tmp_path / "a.sqlite")
    asked: list[Subnet] = []

    def dies(subnet: Subnet) -> dict[str, float]:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(subnet)
        return accuracy(subnet)

    start = lambda: Sensitivity().start(Problem.parse(WIDTHS, ["accuracy"], costs, {"macs": 0.5}))  # noqa: E731
    with pytest.raises(KeyboardInterrupt), Archive(tmp_path / "b.sqlite", "test") as archive:
        run(start(), dies, archive)
    again, evaluated = start(), list[Subnet]()
    with Archive(tmp_path / "b.sqlite", "test") as archive:
        run(again, lambda s: evaluated.append(s) or accuracy(s), archive)
    assert len(evaluated) == len(whole.results) - 7
    assert again.results == whole.results and again.ranked() == whole.ranked()


def test_budgets_out_of_reach_are_refused_at_once_with_the_closest() -> None:
    with pytest.raises(ValueError, match=r"at most 1.000 k; this space reaches macs from 112.0 k to 28.67 M"):
        Sensitivity().start(
            Problem.parse(WIDTHS, ["accuracy"], costs, [Constraint("macs", upper=1000.0, absolute=True)])
        )
    coarse = SearchSpace((Choice("a", "width", (16, 64)), Choice("b", "width", (16, 64))))
    prices = lambda g: {"macs": 1e3 * np.where(g == 1, 64.0, 16.0).sum(axis=1)}  # noqa: E731
    problem = Problem.parse(coarse, ["accuracy"], prices, {"macs": [0.7, 0.9]})
    with pytest.raises(ValueError, match=r"this space reaches macs from 32.00 k to 128.0 k; the closest found has"):
        Curves.even(coarse).within(problem)


def test_choices_of_every_kind_have_curves(tmp_path: Path) -> None:
    space = toy_space()
    search = analysed(Sensitivity(adaptive=False), {"macs": 0.5}, tmp_path / "a.sqlite", space)
    assert len(search.ranked()) == 1 and {len(row) for row in analysis(search).known(search.ledger)} == {2, 3, 4}
    words = Choice("pattern", "sparsity", ("4:8", "2:8", "dense"))
    assert grid_of(words, (0.5,)) == [0, 1] and shares_of(words)[-1] == 1.0


def test_one_point_engines_meet_the_budget() -> None:
    importance = {f"layer{i}": np.linspace(2, i / 8, 64) for i in range(8)}
    for engine in (Uniform(), Ranked()):
        search = engine.start(Problem.parse(WIDTHS, ["accuracy"], costs, {"macs": 0.5}, lambda measure: importance))
        (subnet,) = search.ask()
        search.tell(subnet, accuracy(subnet))
        assert search.ask() == [] and search.ranked() == [subnet]
        assert 0.485 < search.problem.cost(subnet)["macs"] / 7 / 64**2 / 1e3 <= 0.5
        widths = [int(subnet[f"layer{i}"]) for i in range(8)]
        if isinstance(engine, Uniform):
            assert max(widths) - min(widths) <= 4
        else:
            assert widths[0] < widths[-1]  # its units matter less
    with pytest.raises(ValueError, match="needs the importance of the units"):
        Ranked().start(Problem.parse(WIDTHS, ["accuracy"], costs, {"macs": 0.5}))


@settings(deadline=None, max_examples=60)
@example({1, 2}, {0: 0.0, 1: 2.2e-311})
@given(
    st.sets(st.integers(1, 63), min_size=2, max_size=15),
    st.dictionaries(st.integers(0, 14), st.floats(-1, 1), max_size=6),
)
def test_curves_are_monotone_and_pass_through_the_worst_of_what_is_known(
    sizes: set[int], points: dict[int, float]
) -> None:
    shares = np.array([*sorted(sizes), 64]) / 64
    known = {option: value for option, value in points.items() if option < len(shares) - 1}
    values = interpolated(shares, known)
    assert (np.diff(values) <= 1e-9).all() and (values >= 0).all() and values[-1] <= 1e-12
    for option, value in known.items():
        assert values[option] >= value - 1e-9


def test_intervals_that_are_done_are_left_alone() -> None:
    shares = np.arange(1, 11) / 10
    grid = list(range(9))
    assert missing(shares, grid, {9: 0.0}, (0.01, 0.2)) == [0]
    assert missing(shares, grid, {9: 0.0, 0: 0.005}, (0.01, 0.2)) == []  # flat
    assert missing(shares, grid, {9: 0.0, 0: 0.8}, (0.01, 0.2)) == [5]
    assert missing(shares, grid, {9: 0.0, 5: 0.5, 0: 0.8}, (0.01, 0.2)) == [7]  # hopeless below the half
    assert missing(shares, grid, {9: 0.0, 5: 0.5, 0: 0.8}, None) == [1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": ()}, "grid holds shares that are kept"),
        ({"grid": (0.5, 1.0)}, r"between 0 and 1, got \[0.5, 1.0\]"),
        ({"tolerance": 0.0}, "tolerance and ceiling are above 0"),
        ({"threshold": -0.1}, "threshold is a relative damage of at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sensitivity(**settings)  # type: ignore[arg-type]


def test_everything_reachable_in_a_small_space_is_met_as_closely_as_any_subnet_can() -> None:
    space = SearchSpace(tuple(Choice(f"layer{i}", "width", (8, 16, 24, 32)) for i in range(4)))
    prices = lambda g: {"macs": (8.0 * (g + 1)) @ np.array([1.0, 1.7, 0.6, 2.3])}  # noqa: E731
    every = np.array(list(itertools.product(range(4), repeat=4)))
    reachable = prices(every)["macs"]
    for share in np.linspace(0.3, 1.0, 15):
        problem = Problem.parse(space, ["accuracy"], prices, {"macs": float(share)})
        found = prices(Curves.even(space).within(problem)[None])["macs"][0]
        best = reachable[reachable <= share * reachable.max() + 1e-9].max()
        assert 0.9899 * best <= found <= best + 1e-9
