"""Candidates drawn for one-step pruning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from ofa import SearchSpace, Supernet
from ofa.search import Constraint, Search
from ofa.search.engines import Listed
from ofa.search.problem import Problem
from ofa.search.pruning import OneStep, shares_of
from ofa.search.vitis.groups import Group, open_space, part_costs
from ofa.search.vitis.unpruned import remains

SMALLEST = 0.1  # share of a group that every candidate keeps
BAND = 0.01  # of the whole network's MACs, to either side
BATCH = 8  # drawn at a time, always: the first ones are the same however many there are


def candidates(
    supernet: Supernet, groups: Sequence[Group], metric: str, removal_ratio: float, number: int, seed: int
) -> Search:
    """`number` random subnets that remove a share of the MACs, to within 0.01, constructed and all distinct.

    Only `groups` are pruned, and no candidate is wider than what earlier rounds left.

    Raises:
        ValueError: the share is out of reach; says what the space offers.
    """
    space = remains(supernet, kept_above(open_space(supernet.space, (group.name for group in groups)), SMALLEST))
    whole, stays = supernet.cost(supernet.space.largest).macs, 1 - removal_ratio
    band = Constraint("macs", (stays + BAND) * whole, max(stays - BAND, 1e-6) * whole, absolute=True)
    problem = Problem.parse(space, [metric], part_costs(supernet, space), [band])
    engine = OneStep(BATCH, BATCH * math.ceil(number / BATCH))
    search = engine.start(problem, seed)
    while batch := search.ask():
        for subnet in batch:
            search.tell(subnet, {metric: math.nan})  # proposals do not depend on scores
    found = list(search.results)[:number]
    if len(found) < number:
        warnings.warn(f"{number} candidates asked, the band has {len(found)} distinct ones", stacklevel=3)
    return Listed(tuple(found)).start(problem)


def kept_above(space: SearchSpace, share: float) -> SearchSpace:
    """The part of a space in which every choice keeps at least a share."""
    return space.restrict(
        {c.name: [o for o, kept in zip(c.options, shares_of(c), strict=True) if kept >= share] for c in space.choices}
    )
