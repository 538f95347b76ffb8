"""Pruning as a search: sensitivity curves, one step, and engines that ask for one subnet.

In: a `Problem`. Out: a running search. Uses `ofa.search.engines`.
"""

from ofa.search.pruning.curves import Curves, shares_of
from ofa.search.pruning.one_step import OneStep
from ofa.search.pruning.sensitivity import Analysis, Sensitivity, damage, grid_of, missing
from ofa.search.pruning.uniform import Ranked, Smallest, Specified, Uniform

__all__ = [
    "Analysis",
    "Curves",
    "OneStep",
    "Ranked",
    "Sensitivity",
    "Smallest",
    "Specified",
    "Uniform",
    "damage",
    "grid_of",
    "missing",
    "shares_of",
]
