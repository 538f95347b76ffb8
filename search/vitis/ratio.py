"""From a share of MACs to remove, and damage curves, to the subnet that removes it."""

from __future__ import annotations

import warnings

import numpy as np

from ofa import Subnet
from ofa.search import Constraint
from ofa.search.objectives import Floats
from ofa.search.problem import Costs, Problem
from ofa.search.pruning import Curves
from ofa.search.vitis.errors import OptimizerSubnetError
from ofa.space import Genome, sample_at_cost

TOLERANCE = 0.01  # of the whole network's MACs; of those that are to stay, where it can be
NEAR = 64  # genomes on the way of a common threshold that are moved into the tolerance


class UnreachableRatio(OptimizerSubnetError):
    """No subnet removes the share of MACs asked for; `closest` is the nearest share that was found."""

    def __init__(self, message: str, closest: float) -> None:
        super().__init__(message)
        self.closest = closest


def within_ratio(curves: Curves, costs: Costs, removal_ratio: float, whole: float, strict: bool = False) -> Subnet:
    """The subnet at the least damage that removes a share of the `whole` network's MACs, to within 1 % of these.

    Where it can be, MACs are at most those wanted, and less by 1 % of them at most. Where there is none it is the one
    that is nearest, with a warning.

    Raises:
        UnreachableRatio: there is none, and `strict`; the closest is named.
    """
    space = curves.space
    target, slack = (1 - removal_ratio) * whole, TOLERANCE * whole
    try:
        return space.decode(curves.within(band(curves, costs, (1 - TOLERANCE) * target, target)))
    except ValueError:
        found = nearby(curves, band(curves, costs, max(target - slack, 1.0), target + slack))
    if not len(found):
        return nearest(curves, costs, removal_ratio, whole, strict)
    damage = np.array([curves.damages[i][found[:, i]] for i in range(len(space))])  # (choices, population)
    return space.decode(found[np.lexsort((damage.sum(axis=0), damage.max(axis=0)))[0]])


def band(curves: Curves, costs: Costs, lower: float, upper: float) -> Problem:
    return Problem.parse(curves.space, ["accuracy"], costs, [Constraint("macs", upper, lower, absolute=True)])


def nearby(curves: Curves, problem: Problem) -> Genome:
    """Genomes in the budget near those at a common threshold, and random ones, (population, choices)."""
    rng = np.random.default_rng(0)
    path = np.stack([curves.at(threshold) for threshold in np.unique(np.concatenate(curves.damages))])
    nearest = path[np.argsort(problem.violation(path), kind="stable")[:NEAR]]
    moved = problem.repaired(nearest, rng)
    try:
        return np.concatenate([moved, problem.pool(rng, 1)])
    except ValueError:
        return moved


def nearest(curves: Curves, costs: Costs, removal_ratio: float, whole: float, strict: bool) -> Subnet:
    """The subnet whose share removed is closest, with a warning of both shares, or, `strict`, as an error."""
    space = curves.space

    def macs(genomes: Genome) -> Floats:
        return np.asarray(costs(genomes)["macs"])

    targets = np.full(256, (1 - removal_ratio) * whole)
    drawn = sample_at_cost(space, macs, targets, np.random.default_rng(0))
    ends = np.stack([space.encode(space.largest), space.encode(space.smallest)])
    genomes = np.concatenate([ends, drawn])
    removed = 1 - macs(genomes) / whole
    best = int(np.argmin(np.abs(removed - removal_ratio)))
    closest, taken = float(removed[best]), "" if strict else ", which is taken"
    before = f"; earlier rounds removed {removed[0]:.4f} already" if removed[0] > TOLERANCE else ""
    message = (
        f"removal_ratio={removal_ratio:g} cannot be met within 0.01: the closest is {closest:.4f}{taken};"
        f" removals reach from {removed[0]:.4f} to {removed[1]:.4f}, and a smaller channel_divisible has more"
        f" widths{before}"
    )
    if strict:
        raise UnreachableRatio(message, closest)
    warnings.warn(message, stacklevel=2)
    return space.decode(genomes[best])
