"""Intervals, what they tell apart, near-ties, what became of the figures of a choice, and how all that is shown."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ofa.search import Constraint, Front, ScoredNetwork
from ofa.search.certainty import bounded, ends_of, overlap, shrinkage
from ofa.search.objectives import Accuracy, Loss


def wilson(right: int, samples: int) -> tuple[float, float]:
    """By the formula (Wilson, 1927)."""
    z, share = 1.959963984540054, right / samples
    middle = (share + z**2 / (2 * samples)) / (1 + z**2 / samples)
    half = z / (1 + z**2 / samples) * math.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    return 100 * (middle - half), 100 * (middle + half)


@pytest.mark.parametrize(("right", "samples"), [(0, 7), (7, 7), (350, 360), (9213, 10_000)])
def test_an_interval_is_wilsons(right: int, samples: int) -> None:
    assert Accuracy().interval(100 * right / samples, samples) == pytest.approx(wilson(right, samples))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, truth, samples = np.random.default_rng(0), 96.0, 360
    found = [Accuracy().interval(100 * rng.binomial(samples, truth / 100) / samples, samples) for _ in range(1000)]
    held = sum(low <= truth <= high for low, high in filter(None, found))
    assert 930 <= held <= 970


def test_figures_without_an_interval_stay_alone() -> None:
    assert Loss().interval(0.3, 100) is None
    assert set(bounded({"loss": 0.3, "macs": 1e6, "accuracy": 90.0}, [], 100)) == {"accuracy_low", "accuracy_high"}
    assert ends_of({"accuracy": 90.0}, "accuracy") is None and not overlap({}, {}, "accuracy")


def row(name: str, accuracy: float, macs: float, samples: int = 360) -> ScoredNetwork:
    metrics = {"accuracy": accuracy, "macs": macs}
    return ScoredNetwork(name, None, {**metrics, **bounded(metrics, [], samples)})


def test_of_near_ties_the_cheapest_stays() -> None:
    front = Front.of([row("a", 96.0, 1e6), row("b", 96.3, 2e6), row("c", 96.9, 3e6)], ["accuracy", "macs"])
    first = front.objectives[0]
    assert [r.name for r in front.apart(lambda value: first.step(value, 360)).rows] == ["a", "c"]
    assert [r.name for r in front.apart(lambda value: first.step(value, 100_000)).rows] == ["a", "b", "c"]


def test_near_ties_stay_where_the_dearer_is_better_in_something_else() -> None:
    rows = [
        ScoredNetwork("a", None, {"accuracy": 96.0, "macs": 1e6, "params": 9.0}),
        ScoredNetwork("b", None, {"accuracy": 96.1, "macs": 2e6, "params": 5.0}),
    ]
    front = Front.of(rows, ["accuracy", "macs", "params"])
    assert front.apart(lambda value: 1.0) == front


def test_the_table_shows_intervals_and_says_what_is_not_told_apart() -> None:
    teacher = row("teacher", 98.3, 5e6)
    front = Front(
        (row("near", 97.5, 2e6), row("far", 90.0, 1e5)), Front.of([], ["accuracy", "macs"]).objectives, teacher
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(front.table("net on Digits: 360 test pictures, 95 % intervals"))
    text = console.export_text()
    assert "net on Digits: 360 test pictures, 95 % intervals" in text and "97.5 ± 1.7 %" in text
    assert front.remarks() == ["not told apart from the teacher (95 % intervals): near"]


def test_a_choice_by_chance_shrinks_and_says_so() -> None:
    rng = np.random.default_rng(0)
    lucky = [{"validation_accuracy": 96.0 + abs(rng.normal()), "accuracy": 96.0 + rng.normal()} for _ in range(40)]
    line = shrinkage(lucky)
    assert line.startswith("from validation to test: -") and float(line.split()[-1]) < 0.5
    assert shrinkage(lucky[:2]) == "" and "correlation" not in shrinkage([lucky[0]] * 3)


def test_the_picture_shows_what_was_tested_before_what_was_chosen_by(tmp_path: Path) -> None:
    rows = [row(f"subnet-{i}", 90.0 + i, (1 + i) * 1e6) for i in range(4)]
    front = Front.of(rows, ["accuracy", "macs"], row("teacher", 95.0, 5e6))
    tested = [row("teacher", 94.0, 5e6), row("subnet-3", 92.0, 4e6)]
    path = front.picture(
        tmp_path / "front.svg", title="net on Digits", tested=tested, budget=[Constraint("macs", upper=0.5)]
    )
    text = path.read_text()
    for words in ("net on Digits", "taken (test)", "front (validation)", "budget", "<!-- 3 -->"):
        assert words in text, words
    alone = front.picture(tmp_path / "alone.svg").read_text()
    assert "taken (test)" not in alone and "<!-- front -->" in alone
