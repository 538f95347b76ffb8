"""Covering arrays of strength two: few rows in which every pair of options of every two choices occurs.

Orthogonal arrays over the field of 2, 3 or 4 elements (Bush, 1952), widened block by block: twelve more rows let four
times as many choices of four options be covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.arrays import IntArray

LEVELS = 4  # options of a choice that are paired
TIMES_4 = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2]])  # multiplication in the field of four


def covering_array(counts: Sequence[int], levels: int = LEVELS) -> IntArray:
    """Option indices, (rows, choices), the smallest everywhere in the first row.

    Of a choice with more options than `levels` the two ends are paired, and what lies between takes turns.

    >>> covering_array([2, 2, 2]).tolist()
    [[0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]]
    >>> len(covering_array([4] * 20)), len(covering_array([4] * 20, levels=3)), len(covering_array([4] * 300))
    (28, 21, 52)
    """
    paired = np.array([min(count, levels) for count in counts], dtype=np.int64)
    size = max(2, int(paired.max(initial=1)))
    rows = widened(size, len(counts))[:, : len(counts)] % paired
    return between(needed(rows, size), counts, levels)


def widened(size: int, columns: int) -> IntArray:
    """Levels 0 to size - 1, (rows, at least so many columns), every pair of levels in every two columns."""
    a, b = (part.ravel() for part in np.divmod(np.arange(size**2), size))
    times = TIMES_4 if size == 4 else np.outer(np.arange(size), np.arange(size)) % size
    product = times[a]  # a·c for every column c
    block = product ^ b[:, None] if size == 4 else (product + b[:, None]) % size
    rows = np.column_stack([block, a])
    while rows.shape[1] < columns:  # pairs inside a block of copies: equal levels stand above, all others below
        copies, width = np.repeat(rows, size, axis=1), rows.shape[1]
        rows = np.vstack([copies, np.tile(block[size:], (1, width))])
    return rows


def needed(rows: IntArray, size: int) -> IntArray:
    """The rows without those of which every pair occurs elsewhere, too; the first one stays."""
    flags = np.eye(size, dtype=np.int64)[rows].reshape(len(rows), -1)
    times = flags.T @ flags
    kept = np.ones(len(rows), dtype=bool)
    for row in range(1, len(rows)):
        own = np.ix_(np.flatnonzero(flags[row]), np.flatnonzero(flags[row]))
        if (times[own] > 1).all():
            times[own] -= 1
            kept[row] = False
    return rows[kept]


def between(rows: IntArray, counts: Sequence[int], levels: int) -> IntArray:
    """Levels as option indices: the last level is the last option, one before it any between the ends, in turn."""
    for column, count in enumerate(counts):
        if count > levels:
            level = rows[:, column]
            inner = (level > 0) & (level < levels - 1)
            turns = 1 + (np.arange(inner.sum()) + column) % (count - 2)
            rows[:, column] = np.where(level == 0, 0, count - 1)
            rows[inner, column] = turns
    return rows
