"""Which sparsities of which groups an analysis scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ofa import SearchSpace
from ofa.search.pruning import Sensitivity, grid_of
from ofa.search.vitis.arguments import is_number, listed
from ofa.search.vitis.errors import OptimizerInvalidArgumentError
from ofa.search.vitis.groups import Group
from ofa.search.vitis.names import excluded
from ofa.selection import Selector

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Grid = Sequence[float] | Mapping[Selector, Sequence[float]]
"""Shares removed, of all groups, or by layer; then the largest is the most that its group loses, others have nine."""


@dataclass(frozen=True)
class Points:
    """The sparsities of each group: all that occur, and those of a group by its name where they differ."""

    every: tuple[float, ...]
    own: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, grid: Grid, model: nn.Module, groups: Sequence[Group]) -> Points:
        """Read a grid; of several selectors that match a group the last counts.

        Raises:
            ValueError: a selector matches nothing, or a share is outside (0, 1).
        """
        for shares in grid.values() if isinstance(grid, Mapping) else (grid,):
            if not listed(shares) or not all(is_number(share) and 0 < share < 1 for share in shares):
                raise OptimizerInvalidArgumentError(
                    f"grid is a list of shares that are removed, between 0 and 1, got {shares!r}"
                )
        if not isinstance(grid, Mapping):
            return cls(tuple(grid), {})
        own: dict[str, tuple[float, ...]] = {group.name: SPARSITIES for group in groups}  # which are not limited
        for selector, shares in grid.items():
            names = set(excluded(model, selector))
            own |= {group.name: tuple(shares) for group in groups if names & {*group.nodes, *group.members}}
        return cls(tuple(sorted({share for shares in own.values() for share in shares})), own)

    @property
    def coarsest(self) -> Grid:
        """The largest sparsity alone, which tells most."""
        return (max(self.every),)

    def settings(self, adaptive: bool) -> Sensitivity:
        return Sensitivity(tuple(1 - share for share in self.every), adaptive)

    def asked(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with the options that are scored, and the largest, where they have sparsities of their own."""
        return [self._cut(group) for group in groups]

    def within(self, space: SearchSpace, groups: Sequence[Group]) -> SearchSpace:
        """The part of a space with those options."""
        return space.restrict({group.name: group.choice.options for group in self.asked(groups)})

    @property
    def limits(self) -> dict[str, float]:
        """The most that groups lose, of those that a selector matched."""
        return {name: max(shares) for name, shares in self.own.items() if shares is not SPARSITIES}

    def _cut(self, group: Group) -> Group:
        if group.name not in self.own:
            return group
        kept = grid_of(group.choice, [1 - share for share in self.own[group.name]])
        options = (*(group.choice.options[i] for i in kept), group.choice.largest)
        return replace(group, choice=replace(group.choice, options=options))
