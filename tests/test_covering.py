"""Covering arrays: in few rows, every pair of options of every two choices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.conversion.covering import covering_array

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=30)


def classes(column: np.ndarray, count: int, levels: int) -> list[int]:
    """An option's number, or of a choice with more options than are paired: 0 and 2 at the ends, 1 between."""
    if count <= levels:
        return column.tolist()
    return (1 + (column == count - 1).astype(int) - (column == 0)).tolist()


def uncovered(counts: Sequence[int], levels: int) -> list[tuple[int, int, int, int]]:
    rows = covering_array(counts, levels)
    columns = [classes(rows[:, i], count, levels) for i, count in enumerate(counts)]
    sizes = [count if count <= levels else 3 for count in counts]
    return [
        (i, j, *pair)
        for i, j in combinations(range(len(counts)), 2)
        for pair in set(product(range(sizes[i]), range(sizes[j]))) - set(zip(columns[i], columns[j], strict=True))
    ]


@pytest.mark.parametrize("levels", [3, 4])
@given(counts=COUNTS)
def test_every_pair_of_options_of_every_two_choices_occurs(levels: int, counts: list[int]) -> None:
    assert uncovered(counts, levels) == []


@pytest.mark.parametrize("levels", [3, 4])
def test_pairs_of_many_choices_are_covered_too(levels: int) -> None:
    assert uncovered([4, 2, 3, 1, 5] * 20, levels) == []


@given(counts=COUNTS, levels=st.integers(3, 4))
def test_rows_hold_options_and_the_first_is_the_smallest_everywhere(counts: list[int], levels: int) -> None:
    rows = covering_array(counts, levels)
    assert not rows[0].any()
    assert rows.shape[1] == len(counts) and (rows >= 0).all() and (rows < np.array(counts)).all()
    assert all(count - 1 in rows[:, i] for i, count in enumerate(counts))  # the largest occurs, too


@pytest.mark.parametrize(
    ("counts", "levels", "most"),
    [([4] * 20, 4, 28), ([4] * 20, 3, 21), ([4] * 320, 4, 52), ([4, 2, 2, 2], 4, 12), ([3, 2, 2, 2, 2], 4, 10)],
)
def test_rows_are_few(counts: list[int], levels: int, most: int) -> None:
    assert len(covering_array(counts, levels)) <= most


def test_what_lies_between_the_ends_takes_turns() -> None:
    rows = covering_array([12] * 6)
    assert all(len(set(rows[:, i].tolist())) >= 6 for i in range(6))
