"""Slicing: a subnet as a set of slices, on which the network's own code runs, or which are cut out for good.

In: `Groups` and sizes. Out: a `Plan`, forward passes on it, extracted networks, importance of units, statistics.
Uses `ofa.groups` and `ofa.sparsity`.
"""

from ofa.slicing.calibration import cumulative_statistics
from ofa.slicing.extraction import State, aliases, full_size, reduced, write
from ofa.slicing.importance import L1, Importance, Measure, importance_of, importances, others, unit_scores
from ofa.slicing.slices import (
    Change,
    Holder,
    Index,
    Owners,
    Plan,
    Slicer,
    as_index,
    detached_slice,
    duplicate,
    find_modules,
    find_owners,
    installed,
    make_plan,
    permute,
    put,
    slice_of,
    take,
    tensor_of,
)
from ofa.slicing.sorting import move_units, rank_units

__all__ = [
    "L1",
    "Change",
    "Holder",
    "Importance",
    "Index",
    "Measure",
    "Owners",
    "Plan",
    "Slicer",
    "State",
    "aliases",
    "as_index",
    "cumulative_statistics",
    "detached_slice",
    "duplicate",
    "find_modules",
    "find_owners",
    "full_size",
    "importance_of",
    "importances",
    "installed",
    "make_plan",
    "move_units",
    "others",
    "permute",
    "put",
    "rank_units",
    "reduced",
    "slice_of",
    "take",
    "tensor_of",
    "unit_scores",
    "write",
]
